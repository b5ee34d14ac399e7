"""The tables say what was measured: ratios of a system to itself, round by round."""

from tests.bench.figures import KINDS
from tests.bench.peers import report

TIMES = {"whole": 10, "one": 11, "two": 12, "server-whole": 5, "server-two": 8, "bench-whole": 4, "bench-two": 5}


def a_round(times):
    return {name: {"decode_ms": [time] * 3, "prefill_ms": [10 * time]} for name, time in times.items()}


ROUNDS = [a_round(TIMES), a_round({name: 2 * time for name, time in TIMES.items()}), a_round(TIMES | {"two": 15})]
TOTALS = {
    "kills": 5,
    "complete": 4,
    "endings": {"complete": 4, "connection cut": 1},
    "tokens_lost": 70,
    "all_as_undisturbed": True,
    "noticed_ms": {"min": 20.0, "median": 20.0, "max": 20.0},
    "gap_ms": {"min": 300.0, "median": 400.0, "max": 500.0},
    "fronts_alive": 5,
    "served_after": 4,
}


def test_a_system_is_divided_by_itself_within_each_round():
    found = report.speeds(ROUNDS, 128)
    assert set(found) == set(KINDS)
    agents = found["decode_ms"]["Shoal, engine alone : two agents"]
    assert agents["ratio"]["per_round"] == [1.2, 1.2, 1.5]
    assert (agents["whole_per_s"], agents["ratio"]["median"]) == (100.0, 1.2)
    assert found["decode_ms"]["llama.cpp, llama-server"]["ratio"]["per_round"] == [1.6, 1.6, 1.6]
    assert found["prefill_ms"]["llama.cpp, llama-bench"]["whole_per_s"] == 128_000 / 40


def test_the_tables_show_ratios_and_endings():
    text = report.markdown(
        {
            "at": "then",
            "commit": "0123456789",
            "machine": {"cpu": "a processor", "cores": [0, 1]},
            "versions": {"onnxruntime": "1.0"},
            "peer": {"package": "theirs 1", "commit": "fedcba9876543"},
            "speeds": report.speeds(ROUNDS, 128),
            "kills": {"Shoal": {"totals": TOTALS}, "llama.cpp RPC": {"totals": TOTALS | {"gap_ms": None}}},
        }
    )
    assert "| decode, Shoal, one agent : two agents | 90.9 | 66.7 | **1.09** | 1.09 - 1.36 |" in text
    assert "| streams that were completed | **4 of 5** | **4 of 5** |" in text
    assert "| how they ended | complete (4), connection cut (1) | complete (4), connection cut (1) |" in text
    assert "| longest gap in a stream that went on | 400 ms (300 - 500) | - |" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {6, 4}

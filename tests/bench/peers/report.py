"""What a run beside llama.cpp found, as a person reads it: Markdown tables, ratios first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from tests.bench.figures import KINDS, Round, ratios


@dataclass(frozen=True)
class Pair:
    """One way to look at a system: what it is called, and which two variants are whole and split."""

    name: str
    whole: str
    split: str


PAIRS: Final = (
    Pair("llama.cpp, llama-bench", "bench-whole", "bench-two"),
    Pair("llama.cpp, llama-server", "server-whole", "server-two"),
    Pair("Shoal, engine alone : two agents", "whole", "two"),
    Pair("Shoal, one agent : two agents", "one", "two"),
)
WEIGHTS: Final = (
    "Both sides begin with the same file: SmolLM2-135M-Instruct, Q4_1, its table Q8_0. llama.cpp computes with it as it"
    " is (98 MB); Shoal re-quantises it to int8 in blocks of 32 when it imports it (155 MB) and reads the more for each"
    " token. What can be compared is what splitting costs each: its own time split, divided by its own time whole."
)


def speeds(rounds: Sequence[Round], prefill_tokens: int) -> dict[str, Any]:
    """Kind -> pair -> tokens per second whole and split, and what splitting costs (split : whole in time)."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        tokens = 1 if kind == "decode_ms" else prefill_tokens
        found[kind] = {
            pair.name: {
                "whole_per_s": _per_s(rounds, pair.whole, kind, tokens),
                "split_per_s": _per_s(rounds, pair.split, kind, tokens),
                "ratio": _cost(rounds, kind, pair),
            }
            for pair in PAIRS
        }
    return found


def _cost(rounds: Sequence[Round], kind: str, pair: Pair) -> dict[str, Any]:
    """Without the ratio of minima: two tokens that a busy client finds waiting make a gap of nothing."""
    found = ratios(rounds, kind, pair.split, pair.whole)
    return {name: found[name] for name in ("median", "min", "max", "per_round")}


def _per_s(rounds: Sequence[Round], variant: str, kind: str, tokens: int) -> float:
    return round(1000 * tokens / median([sample for one in rounds for sample in one[variant][kind]]), 1)


def markdown(found: Mapping[str, Any]) -> str:
    """All of it."""
    machine, peer = found["machine"], found["peer"]
    where = (
        f"{found['at']}, commit {found.get('commit', 'unknown')[:7]}, {machine['cpu']}, {len(machine['cores'])} cores"
    )
    what = f"{peer['package']} (llama.cpp {peer['commit'][:9]}), onnxruntime {found['versions']['onnxruntime']}"
    lines = [f"{where}; {what}. One thread and one core per host, two hosts, loopback.", "", WEIGHTS]
    if found["speeds"]:
        lines += ["", *_speed_table(found["speeds"])]
    if found["kills"]:
        lines += ["", *_kill_table(found["kills"])]
    return "\n".join(lines)


def _speed_table(found: Mapping[str, Any]) -> list[str]:
    lines = ["| | whole, tokens/s | split, tokens/s | split : whole, time | rounds |", "|---|--:|--:|--:|---|"]
    for kind, title in zip(KINDS, ("decode", "prefill"), strict=True):
        for name, entry in found[kind].items():
            ratio = entry["ratio"]
            lines.append(
                f"| {title}, {name} | {entry['whole_per_s']} | {entry['split_per_s']} | **{ratio['median']:.2f}** |"
                f" {ratio['min']:.2f} - {ratio['max']:.2f} |"
            )
    return lines


def _kill_table(found: Mapping[str, Any]) -> list[str]:
    names = list(found)
    totals = [found[name]["totals"] for name in names]

    def row(title: str, cells: Sequence[str]) -> str:
        return f"| {title} | {' | '.join(cells)} |"

    return [
        row("one of two hosts killed in mid-generation", names),
        f"|---|{'---|' * len(names)}",
        row("streams that were completed", [f"**{each['complete']} of {each['kills']}**" for each in totals]),
        row("how they ended", [", ".join(f"{kind} ({n})" for kind, n in each["endings"].items()) for each in totals]),
        row("tokens that never came", [str(each["tokens_lost"]) for each in totals]),
        row(
            "tokens as in the undisturbed run", ["all" if each["all_as_undisturbed"] else "NOT ALL" for each in totals]
        ),
        row("client knew it was over after", [_range(each["noticed_ms"]) for each in totals]),
        row("longest gap in a stream that went on", [_range(each["gap_ms"]) for each in totals]),
        row("the process it asked lives on", [f"{each['fronts_alive']} of {each['kills']}" for each in totals]),
        row("next request was answered", [f"{each['served_after']} of {each['kills']}" for each in totals]),
    ]


def _range(spread: Mapping[str, float] | None) -> str:
    """Milliseconds."""
    if spread is None:
        return "-"
    return f"{spread['median']:.0f} ms ({spread['min']:.0f} - {spread['max']:.0f})"

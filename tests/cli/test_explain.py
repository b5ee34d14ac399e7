import copy
import json

import pytest
from typer.testing import CliRunner

from shoal_agent.cli import explain as module
from shoal_agent.cli import main
from shoal_agent.cli.explain import prose
from tests.support.twin import KEY, twin_server

A, B, C, D, E = (letter * 32 for letter in "abcde")
TOLD = {
    "node": A,
    "deployment": "smollm2",
    "epoch": 3,
    "epochs": [2, 3],
    "plan": "00",
    "parent": "11",
    "cause": "HOST_LOST",
    "mode": "MAKE_BEFORE_BREAK",
    "reason": "host bbbbbbbb is dead; the plan cannot stay; redistribute 12.00 ms/token",
    "score_us": 12_000,
    "staging_s_max": 33.0,
    "terms": {"gain": 0.2, "standbys": 2},
    "stages": [
        {
            "node": A,
            "first_block": 0,
            "last_block": 9,
            "standbys": [
                {"node": C, "open": True, "detail": ""},
                {"node": D, "open": False, "detail": "less than it should: no shard"},
            ],
        },
        {"node": C, "first_block": 10, "last_block": 31, "standbys": []},
    ],
    "moved": [{"first_block": 10, "last_block": 31, "source": B, "target": C}],
    "voters": [A, C, D],
    "decided": {"round": 1, "ballots": [A, D]},
    "outcome": {
        "age_s": 500.0,
        "serving": True,
        "served_after_s": 2.5,
        "hosts": [
            {"node": A, "phase": "ACTIVE", "detail": "", "since_s": 497.5},
            {"node": C, "phase": "FAILED", "detail": "disk full", "since_s": 3.0},
        ],
    },
    "now": {
        "votes": False,
        "trigger": "host cccccccc failed (disk full)",
        "considered": "now 12.00 ms/token; re-split 11.00 ms/token: 8.3 % better",
        "held_s": 12.0,
        "cool_down_s": 20.0,
        "locked_by": A,
        "validity_s": 3600.0,
        "score_us": 12_000,
        "best": {"score_us": 11_000, "stages": [{"node": D, "first_block": 0, "last_block": 31}], "why_not": None},
        "candidates": [
            {"node": A, "macs_per_s": 5e9, "memory_bytes": 2**30, "score_us_with": 12_000, "in_plan": True},
            {"node": D, "macs_per_s": 9e9, "memory_bytes": 2**31, "score_us_with": 11_000, "in_plan": False},
            {"node": E, "macs_per_s": 1e9, "memory_bytes": 2**30, "score_us_with": 15_000, "in_plan": False},
        ],
        "left_out": [{"node": B, "why": "is gone or leaving"}],
        "backing": [
            {"first_block": 0, "last_block": 9, "standbys": [C, D], "why_no_more": None},
            {"first_block": 10, "last_block": 31, "standbys": [], "why_no_more": "they need 9.0 MB, others have 1.0"},
        ],
    },
    "story": [
        {"number": 7, "ago_s": 8000.0, "subject": B, "text": "suspect -> dead", "cause": None},
        {"number": 9, "ago_s": 500.0, "subject": "smollm2/3", "text": "wished", "cause": 7},
    ],
}


def told(**changes):
    changed = copy.deepcopy(TOLD)
    for path, value in changes.items():
        *way, last = path.split("__")
        part = changed
        for step in way:
            part = part[step]
        part[last] = value
    return "\n".join(prose(changed))


@pytest.mark.parametrize(
    "sentence",
    [
        "smollm2, epoch 3, as aaaaaaaa sees it",
        "It repairs: a host or a voter was lost. host bbbbbbbb is dead; the plan cannot stay; redistribute",
        "  blocks 0-9 on aaaaaaaa; standby: cccccccc; dddddddd, not open yet (less than it should: no shard)",
        "  blocks 10-31 on cccccccc; no standby",
        "  Blocks 10-31 have 0 of 2 standbys: they need 9.0 MB, others have 1.0.",
        "blocks 10-31 went from bbbbbbbb to cccccccc",
        "Decided in round 1 by the ballots of aaaaaaaa, dddddddd.",
        "The next plan is decided by aaaaaaaa, cccccccc, dddddddd.",
        "every host was ready after 2.50 s (allowed: 33 s); now it serves.",
        "cccccccc failed for 3.0 s: disk full",
        "Something is wrong: host cccccccc failed (disk full).",
        "it takes 12.00 ms/token. The best there is takes 11.00 ms/token: 0-31 on",
        "aaaaaaaa (5.0 GMAC/s, 1.0 GiB): has a stage",
        "dddddddd (9.0 GMAC/s, 2.0 GiB): left out: 11.00 ms/token with it, 12.00 ms/token without: 8.3 % better",
        "eeeeeeee (1.0 GMAC/s, 1.0 GiB): left out: 15.00 ms/token with it, 12.00 ms/token without: 25.0 % worse",
        "bbbbbbbb: left out, it is gone or leaving",
        "aaaaaaaa holds reconfig.lock: whatever is no repair waits.",
        "for 20 s more nothing but repairs is proposed",
        "A better plan has been there for 12.0 s.",
        "This node has no vote about the next plan.",
        "must be 20 % better",
        "7  2.2 h ago  bbbbbbbb: suspect -> dead",
        "9  8 min ago  smollm2/3: wished (because of 7)",
    ],
)
def test_it_is_told_in_sentences(sentence):
    assert sentence in told()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cause": "GENESIS", "epoch": 0, "decided": None}, "It is the first plan: every block was opened."),
        ({"moved": []}, "No block changed its owner."),
        ({"voters": []}, "Nobody votes: this plan cannot be replaced by agreement."),
        ({"mode": "BREAK_BEFORE_MAKE"}, "Memory did not hold old and new blocks at once"),
        ({"outcome": None}, "What became of it is too long ago."),
        ({"outcome__served_after_s": None, "outcome__serving": False}, "not every host was ready (allowed: 33 s)"),
        ({"now__best": None}, "This node does not know the model and cannot compare."),
        ({"now__score_us": None}, "it cannot be priced"),
        (
            {"now__best": {"score_us": None, "stages": [], "why_not": "no 1 to 8 stages fit"}},
            "No other is possible: no 1 to 8 stages fit",
        ),
        (
            {"now__backing": [{"standbys": [C, D]}, {"standbys": [D, A]}]},
            "Blocks 10-31 have 0 of 2 standbys; now dddddddd, aaaaaaaa could be, which its voters will notice.",
        ),
        ({"cause": "THIN"}, "It adds standbys: fewer were there than the terms ask for, and others had room."),
        ({"cause": "NEW_IN_A_LATER_VERSION"}, "NEW_IN_A_LATER_VERSION"),
    ],
)
def test_other_plans_read_otherwise(changes, sentence):
    assert sentence in told(**changes)


def test_an_older_plan_says_nothing_of_the_present():
    assert "How it looks now" not in told(now=None)


def test_what_nodes_wrote_moves_no_cursor(monkeypatch):
    evil = copy.deepcopy(TOLD)
    evil["reason"] = "\x1b[2Jgone"
    monkeypatch.setattr(module, "get_json", lambda client, path: evil)
    out = run("explain", "--api", "http://127.0.0.1:1").output
    assert "?[2Jgone" in out
    assert "\x1b" not in out


def run(*arguments):
    return CliRunner().invoke(main.build_app(arguments), list(arguments))


def test_the_api_is_asked_for_what_was_named():
    with twin_server() as url:
        result = run("explain", "3", "--deployment", "toy", "--api", url, "--key", KEY, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output) == {"deployment": "toy", "epoch": 3}


def test_an_answer_of_another_version_is_an_error_with_a_hint():
    with twin_server() as url:
        result = run("explain", "--api", url, "--key", KEY)
    assert "an explanation this version cannot read" in str(result.exception)

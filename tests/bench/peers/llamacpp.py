"""Shoal beside llama.cpp RPC, in one run: what splitting costs each, and what a client of each sees when a host dies.

    .venv/bin/python -m tests.bench.peers.llamacpp [--build DIR] [--json] [--quick]

The first run fetches and builds llama.cpp: ten minutes of one core, more on a busy machine. Prints Markdown, or with
``--json`` the one object; a file keeps the JSON either way. See docs/bench.md.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event
from typing import Any, Final

from shoal_agent.cli.model import default_cache, ensure_catalog_model
from shoal_models.catalog import catalog_entry
from shoal_models.fetch import fetch_model
from shoal_models.ports import no_progress
from tests.bench.machine import commit, machine, versions
from tests.bench.peers import report, speeds
from tests.bench.peers.build import TREE, build
from tests.bench.peers.kills import Blow, totals
from tests.bench.peers.llama import HOSTS
from tests.bench.peers.speeds import SHOAL, Sides
from tests.bench.peers.trials import llama_trial, shoal_trial
from tests.bench.run import MODEL, REALTIME_PRIORITY, RESULTS, Settings, text_tokens
from tests.bench.variants import Model

FULL: Final = Settings(SHOAL, sittings=2, rounds=3)
QUICK: Final = Settings(SHOAL, sittings=1, rounds=1, decode_tokens=32, prefills=2, patience_s=0.0)


async def measure(sides: Sides, settings: Settings, blow: Blow, folder: Path) -> dict[str, Any]:
    """Speeds, then kills; either may be none."""
    found = await speeds.measure(sides, settings, folder, _tell)
    trials = await _kills(sides, blow, folder)
    return {
        **found,
        "speeds": report.speeds(found["rounds"], settings.prefill_tokens) if found["rounds"] else {},
        "kills": {name: {"totals": totals(each), "trials": each} for name, each in trials.items() if each},
    }


async def _kills(sides: Sides, blow: Blow, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The trials of both, in turns."""
    prompt = sides.prose[: blow.prompt_tokens]
    found: dict[str, list[dict[str, Any]]] = {"llama.cpp RPC": [], "Shoal": []}
    for number in range(blow.kills):
        where = folder / f"kill-{number}"
        theirs = await llama_trial(sides.built, sides.gguf, prompt, blow, number, where / "llama", sides.cores)
        ours = await shoal_trial(sides.model, prompt, blow, number, where / "shoal", sides.cores)
        for name, one in zip(found, (theirs, ours), strict=True):
            found[name].append(one)
            _tell(f"kill {number + 1}, {name}: {one['ending']} after {one['tokens']} of {one['wanted']} tokens")
    return found


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.peers.llamacpp", description="Shoal beside llama.cpp RPC.")
    parser.add_argument("--build", type=Path, help="where llama.cpp is built (default: the user's cache)")
    parser.add_argument("--jobs", type=int, default=1, help="compilers at once, should it have to be built")
    parser.add_argument(
        "--sittings", type=int, default=FULL.sittings, help="times that everything is started anew; 0: no speeds"
    )
    parser.add_argument("--rounds", type=int, default=FULL.rounds, help="rounds per sitting, each of every variant")
    parser.add_argument("--kills", type=int, default=Blow().kills, help="hosts killed of each system; 0: no kills")
    parser.add_argument("--quick", action="store_true", help="one short round and two kills: does it still work?")
    parser.add_argument("--realtime", action="store_true", help="let nothing else run before what is measured (root)")
    parser.add_argument("--json", action="store_true", help="print the JSON object instead of Markdown")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: bench-results/)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Build, measure, write, print."""
    asked = _asked(arguments)
    cache = default_cache(os.environ)
    settings, blow = replace(FULL, sittings=asked.sittings, rounds=asked.rounds), Blow(kills=asked.kills)
    if asked.quick:
        settings, blow = QUICK, Blow(kills=2)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < HOSTS:
        raise SystemExit(f"{HOSTS} cores are needed, one for each host")
    where = (asked.build or cache / "peers" / TREE).resolve()
    where.mkdir(parents=True, exist_ok=True)
    built = asyncio.run(build(where, asked.jobs))
    gguf = fetch_model(catalog_entry(MODEL), cache, os.environ, Event().wait, no_progress)
    model = Model(ensure_catalog_model(MODEL, quiet=True).root, MODEL)
    prose = text_tokens(model, max(settings.prompt_tokens, settings.prefill_tokens))
    begun = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    found: dict[str, Any] = {"at": begun, "machine": machine(), "versions": versions(), **commit()}
    found |= {
        "realtime": asked.realtime,
        "peer": built.described,
        "weights": report.WEIGHTS,
        "settings": asdict(settings),
        "blow": asdict(blow),
    }
    if asked.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
    # The client and the brokers share the last core with the last host, on both sides.
    os.sched_setaffinity(0, {cores[-1]})
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        found |= asyncio.run(measure(Sides(built, gguf, model, cores, prose), settings, blow, Path(folder)))
    out = asked.out or RESULTS / f"{begun}-llamacpp.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{json.dumps(found) if asked.json else report.markdown(found)}\n")
    _tell(f"written to {out}")


if __name__ == "__main__":
    main(sys.argv[1:])

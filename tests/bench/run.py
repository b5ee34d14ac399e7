"""``make bench``: what splitting costs, on one machine, in one run.

    .venv/bin/python -m tests.bench.run [--sittings N] [--rounds N] [--quick] [--realtime] [--out FILE]

Writes everything it saw as JSON and prints the ratios. Ends with 1 if a split variant's tokens differ from the whole
model's, or a bar was not kept. See docs/bench.md.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import tokenizers

from shoal_agent.cli.model import ensure_catalog_model
from shoal_models.package import Store
from tests.bench.figures import BARS, BASE, KINDS, Round, summary
from tests.bench.machine import Foreign, commit, machine, versions
from tests.bench.resources import resources
from tests.bench.variants import NAMES, Model, Variant, running
from tests.support.house import ROOT

MODEL: Final = "smollm2-135m-instruct"
PROSE: Final = ROOT / "tests" / "data" / "prose.txt"
RESULTS: Final = ROOT / "bench-results"
REALTIME_PRIORITY: Final = 10
"""Above everything that has none; children inherit it."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how often."""

    variants: tuple[str, ...] = NAMES
    sittings: int = 4
    """Times that everything is started anew: where its memory lies makes a process up to a quarter slower."""
    rounds: int = 3
    """Rounds of each sitting."""
    prompt_tokens: int = 16
    decode_tokens: int = 96
    prefill_tokens: int = 128
    prefills: int = 4
    patience_s: float = 20.0
    """How long a round waits for others to be quiet."""


QUICK: Final = Settings(sittings=1, rounds=2, decode_tokens=32, prefills=2, patience_s=2.0)


Tell = Callable[[str], None]


@dataclass
class Found:
    """What was seen so far."""

    rounds: list[Round] = field(default_factory=list)
    disturbances: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def _silent(_line: str) -> None:
    pass


def text_tokens(model: Model, count: int) -> list[int]:
    """The first ``count`` tokens of some prose."""
    store = Store(model.store)
    manifest = store.load(model.name)
    raw = store.read(manifest.tokenizer, "tokenizer", manifest.tokenizer.bytes)
    tokenizer = tokenizers.Tokenizer.from_str(raw.decode())
    return tokenizer.encode(PROSE.read_text(), add_special_tokens=False).ids[:count]


async def measure(model: Model, settings: Settings, folder: Path, tell: Tell = _silent) -> dict[str, Any]:
    """Everything: {rounds, disturbances, summary, tokens}. ``disturbances`` tells of each round what else went on."""
    cores = sorted(os.sched_getaffinity(0))
    prose = text_tokens(model, max(settings.prompt_tokens, settings.prefill_tokens))
    found = Found()
    os.sched_setaffinity(0, {cores[-1]})
    try:
        for number in range(settings.sittings):
            names = rotated(settings.variants, number)
            async with running(names, model, folder / f"sitting-{number}", cores) as variants:
                await _sit(variants, prose, settings, found, tell)
    finally:
        os.sched_setaffinity(0, cores)
    return {**asdict(found), "summary": summary(found.rounds)}


async def _sit(variants: dict[str, Variant], prose: list[int], settings: Settings, found: Found, tell: Tell) -> None:
    """One sitting: a warm-up that compares the tokens, then the rounds."""
    foreign = Foreign()
    found.tokens = await _tokens(variants, prose, settings)
    for number in range(settings.rounds):
        waited_s = await foreign.quiet(settings.patience_s)
        samples: dict[str, dict[str, list[float]]] = {}
        used: dict[str, float] = {}
        # Whatever drifts during a round meets each variant in another place the next time.
        for name in rotated(tuple(variants), number):
            foreign.look()
            samples[name] = await sample(variants[name], prose, settings, found.tokens)
            used[name] = foreign.look()
        found.rounds.append({name: samples[name] for name in settings.variants})
        found.disturbances.append({"waited_s": waited_s, "foreign_cores": used})
        tell(f"round {len(found.rounds)}: {_line(found.rounds[-1], used)}")


async def _tokens(variants: dict[str, Variant], prose: list[int], settings: Settings) -> list[int]:
    """What every variant must answer; asking is also their warm-up."""
    answers = {
        name: (await variant.generate(prose[: settings.prompt_tokens], settings.decode_tokens)).tokens
        for name, variant in variants.items()
    }
    expected = answers[BASE]
    for name, tokens in answers.items():
        if tokens != expected:
            raise SystemExit(f"{name} answers {tokens}, {BASE} {expected}")
    return expected


async def sample(variant: Variant, prose: list[int], settings: Settings, expected: list[int]) -> dict[str, list[float]]:
    decoded = await variant.generate(prose[: settings.prompt_tokens], settings.decode_tokens)
    assert decoded.tokens == expected, "the same tokens in every round"
    prefills = [await variant.generate(prose[: settings.prefill_tokens], 1) for _ in range(settings.prefills)]
    found = {
        "decode_ms": [gap * 1000 for gap in decoded.gaps_s],
        "prefill_ms": [prefilled.first_s * 1000 for prefilled in prefills],
    }
    if decoded.inside_s is not None:
        found["inside_ms"] = [decoded.inside_s * 1000]
    return found


def rotated(names: tuple[str, ...], by: int) -> tuple[str, ...]:
    by %= len(names)
    return names[by:] + names[:by]


def _line(one: dict[str, dict[str, list[float]]], used: dict[str, float]) -> str:
    medians = {name: sorted(samples["decode_ms"])[len(samples["decode_ms"]) // 2] for name, samples in one.items()}
    return ", ".join(f"{name} {value:.2f} ms ({used[name]:.2f})" for name, value in medians.items())


# --- telling -------------------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> str:
    """What a person wants to see first."""
    lines = []
    for kind in KINDS:
        lines.append(f"{kind:<11}  median      min   ratio (rounds)         of minima   bar")
        for name, entry in found[kind].items():
            ratio = entry["ratio"]
            bar = f"{entry['bar']:.2f} {'kept' if entry['kept'] else 'BROKEN'}" if "bar" in entry else ""
            lines.append(
                f"{name:<11} {entry['median']:>7.2f}  {entry['min']:>7.2f}   {ratio['median']:.3f}"
                f" ({ratio['min']:.3f} - {ratio['max']:.3f})     {ratio['of_minima']:.3f}   {bar}"
            )
    return "\n".join(lines)


def kept(found: dict[str, Any]) -> bool:
    """Whether every bar was kept."""
    return all(found[kind][name]["kept"] for kind in KINDS for name in BARS if name in found[kind])


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.run", description="What splitting costs, as ratios.")
    parser.add_argument("--sittings", type=int, help="times that everything is started anew")
    parser.add_argument("--rounds", type=int, help="rounds per sitting, each of every variant")
    parser.add_argument("--variants", help=f"which of {','.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="two short rounds and nothing else: does it still work?")
    parser.add_argument("--realtime", action="store_true", help="let nothing else run before what is measured (root)")
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: bench-results/)")
    return parser.parse_args(arguments)


def _settings(asked: argparse.Namespace) -> Settings:
    chosen = asdict(QUICK if asked.quick else Settings())
    chosen |= {name: value for name in ("sittings", "rounds") if (value := getattr(asked, name)) is not None}
    if asked.variants:
        chosen["variants"] = tuple(asked.variants.split(","))
    return Settings(**chosen)


def main(arguments: Sequence[str]) -> int:
    """Measure, write, print; 1 if a bar was not kept."""
    asked = _asked(arguments)
    settings = _settings(asked)
    if asked.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REALTIME_PRIORITY))
    model = Model(ensure_catalog_model(MODEL, quiet=True).root, MODEL)
    begun = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    found: dict[str, Any] = {"at": begun, "machine": machine(), "versions": versions(), **commit()}
    found |= {"realtime": asked.realtime, "settings": asdict(settings)}
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        found |= asyncio.run(measure(model, settings, Path(folder), _say))
        if not asked.quick:
            found["resources"] = asyncio.run(resources(model, Path(folder), idle_s=30.0, restarts=5, demo=True))
    out = asked.out or RESULTS / f"{begun}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    _say(f"\n{table(found['summary'])}")
    if "resources" in found:
        _say(json.dumps(found["resources"], indent=1))
    _say(f"\nwritten to {out}")
    return 0 if kept(found["summary"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``shoal experiment NAME``: a claim measured again, against its baselines, with every assumption printed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from shoal_agent.cli.output import AsJson, print_json, progress
from shoal_agent.errors import ExitCode
from shoal_agent.experiments.catalogue import EXPERIMENTS, find
from shoal_agent.experiments.options import Options, wrong
from shoal_agent.experiments.plots import draw
from shoal_agent.experiments.report import Report

BAR_CHARS: Final = 24
JOBS_MAX: Final = 64

Name = Annotated[str, typer.Argument(help=f"One of: {', '.join(EXPERIMENTS)}.", metavar="NAME")]
Seeds = Annotated[int, typer.Option("--seeds", help="How many seeds: 0 to N-1.", metavar="N")]
Loads = Annotated[str, typer.Option("--loads", help="Multiples of the nominal load.", metavar="A,B")]
Methods = Annotated[str, typer.Option("--methods", help="Only these; without it, all.", metavar="A,B")]
Regime = Annotated[str, typer.Option("--regime", help="Set of assumptions, as R1 or R2.", metavar="NAME")]
Trace = Annotated[str, typer.Option("--trace", help="Weather of machines and links: mild or harsh.", metavar="NAME")]
Width = Annotated[bool, typer.Option("--fp32/--int8", help="Width of the activations at a cut.")]
Jobs = Annotated[int, typer.Option("--jobs", help="Processes.", min=1, max=JOBS_MAX)]
Out = Annotated[
    Path | None, typer.Option("--out", help="Also write JSON, table and charts there.", metavar="DIR", file_okay=False)
]


def experiment(
    name: Name,
    *,
    seeds: Seeds = 10,
    loads: Loads = "",
    methods: Methods = "",
    regime: Regime = "",
    trace: Trace = "",
    fp32: Width = False,
    jobs: Jobs = 1,
    as_json: AsJson = False,
    out: Out = None,
) -> None:
    """Measure a claim again: ours against every baseline on the same traces, with its pass bands.

    The same options give the same report on any machine. A figure outside its band ends the command with exit code 7.

    Example: shoal experiment paper-a --regime R2 --loads 2 --seeds 10 --jobs 2
    """
    chosen = find(name)
    options = Options(
        seeds=seeds,
        loads=_loads(loads),
        methods=_words(methods),
        regime=regime,
        trace=trace,
        width="fp32" if fp32 else "int8",
        jobs=jobs,
    )
    report = chosen.load()(options, _show)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if out is not None:
        _write(report, out)
    if as_json:
        print_json(report.as_json())
    else:
        print(report.as_markdown(), end="")
    if not report.passed:
        raise typer.Exit(ExitCode.FAILED)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _loads(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in _words(text))
    except ValueError:
        raise wrong(f"not a list of numbers: {text}", "--loads 1,1.5,2") from None


def _show(done: int, total: int, what: str) -> None:
    if sys.stderr.isatty():
        full = BAR_CHARS * done // max(1, total)
        bar = "#" * full + "." * (BAR_CHARS - full)
        print(f"\r[{bar}] {done}/{total} {what:<40}", end="", file=sys.stderr)
        sys.stderr.flush()


def _write(report: Report, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{report.name}.json").write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    (folder / f"{report.name}.md").write_text(report.as_markdown(), encoding="utf-8")
    for chart in report.charts:
        progress(f"wrote {draw(chart, folder)}")

"""Importing as the command line does it: find the source, fetch it, convert it, measure it, show how far it is.

Blocks and the machine itself are measured on one thread: what one thread does is disturbed least by whatever else runs
here, and a planner only ever uses the ratio of the two.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import perf_counter_ns
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from shoal_agent.shell import ort
from shoal_agent.shell.microbench import measure_speed
from shoal_models.catalog import catalog_entry
from shoal_models.fetch import fetch_model
from shoal_models.importing import Measurement, import_gguf
from shoal_models.manifest import Manifest, Numeric
from shoal_models.package import Store
from shoal_models.ports import Progress, no_progress
from shoal_protocol.ids import parse_deployment_id

_THREADS: Final = 1
_NOT_IN_A_NAME: Final = re.compile(r"[^a-z0-9._-]+")
_NAME_LENGTH_MAX: Final = 64


def import_source(
    source: str, name: str | None, numeric: Numeric, store: Store, cache: Path, *, quiet: bool
) -> Manifest:
    """Import a catalog entry or a file into ``store``. Raises what fetching and importing raise."""
    if name is not None:
        parse_deployment_id(name)  # before a download of minutes, not after
    ort.configure(_THREADS)
    measurement = Measurement(ort.Runner(), perf_counter_ns, measure_speed)
    with _shown(quiet=quiet) as progress:
        if is_file(source):
            return import_gguf(Path(source), store, name or name_of(source), numeric, None, measurement, progress)
        entry = catalog_entry(source)
        path = fetch_model(entry, cache, os.environ, Event().wait, progress)
        wanted = name or (entry.name if numeric == "int8" else f"{entry.name}-{numeric}")
        return import_gguf(path, store, wanted, numeric, entry.licence, measurement, progress)


def is_file(source: str) -> bool:
    """Whether ``source`` means a file: catalog names hold no slash and do not end like one."""
    return source.endswith(".gguf") or os.sep in source


def name_of(source: str) -> str:
    """A package name from a file's name."""
    return _NOT_IN_A_NAME.sub("-", Path(source).stem.lower()).strip("-._")[:_NAME_LENGTH_MAX] or "model"


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Progress]:
    """One bar per step, on stderr."""
    if quiet:
        yield no_progress
        return
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done)

        yield show

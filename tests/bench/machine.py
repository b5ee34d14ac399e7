"""Where the figures come from: machine, versions, commit, and what else the processor did meanwhile."""

import asyncio
import os
import platform
import ssl
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from tests.support.house import ROOT

PACKAGES: Final = ("shoal", "onnxruntime", "numpy", "uvicorn", "aiomqtt")
QUIET_CORES_MAX: Final = 0.1
"""Foreign work of a tenth of a core moves a median by about as much as two runs differ anyway."""
LOOK_S: Final = 0.5


def machine() -> dict[str, Any]:
    """The processor, as it calls itself, and what of it this process may use."""
    return {
        "cpu": _cpu_model(),
        "cores": sorted(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """What was measured."""
    return {
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        **{name: version(name) for name in PACKAGES},
    }


def commit() -> dict[str, Any]:
    """The commit, and whether the tree had changes beside it; nothing outside a repository."""
    asked = [["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--", "agent", "protocol", "models"]]
    try:
        head, changes = (subprocess.run(each, cwd=ROOT, capture_output=True, text=True, check=True) for each in asked)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": head.stdout.strip(), "changed": bool(changes.stdout.strip())}


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


@dataclass(frozen=True)
class _Reading:
    at: float
    busy_s: float
    stolen_s: float
    ours_s: float


class Foreign:
    """How many cores' worth of work others did since the last look. Ours are this process and all below it."""

    def __init__(self) -> None:
        self._last = _read()

    def look(self) -> float:
        """Cores used by others since the last look, time stolen by the hypervisor included."""
        before, self._last = self._last, _read()
        elapsed = max(self._last.at - before.at, 1e-3)
        all_of_it = self._last.busy_s - before.busy_s + self._last.stolen_s - before.stolen_s
        return round(max(0.0, all_of_it - (self._last.ours_s - before.ours_s)) / elapsed, 3)

    async def quiet(self, patience_s: float) -> float:
        """Wait until others use little, for at most ``patience_s``; the seconds it took."""
        begun = time.monotonic()
        self.look()
        while time.monotonic() - begun < patience_s:
            await asyncio.sleep(LOOK_S)
            if self.look() <= QUIET_CORES_MAX:
                break
        return round(time.monotonic() - begun, 1)


def _read() -> _Reading:
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq
    ours = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            used = process.cpu_times()
        except psutil.Error:
            continue
        # What ended since is counted by whoever waited for it.
        ours += used.user + used.system + used.children_user + used.children_system
    return _Reading(time.monotonic(), busy, times.steal, ours)

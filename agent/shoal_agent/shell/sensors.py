"""What the machine can carry and what it carries now; the one file that asks psutil.

Cores are those this process may use (affinity and cgroup quota, not what is soldered on). The memory offered is what
the operator allowed, or else ``MEMORY_SHARE_PERCENT`` of what was free when the agent started: the rest belongs to the
machine's other work. Readings never block: CPU use is the mean since the last reading.
"""

import os
import time
from pathlib import Path
from typing import Final

import psutil

from shoal_agent.shell.cgroup import limits
from shoal_protocol.messages import Capacity, Load

MEMORY_SHARE_PERCENT: Final = 60
"""Of the memory free at start: blocks and KV may fill it without the kernel having to swap others out."""
_PREFERRED: Final = ("coretemp", "k10temp", "cpu_thermal", "soc_thermal", "acpitz")
"""Sensors that mean the processor, best first; a disk's temperature says nothing about computing."""


class Sensors:
    """Reads this machine. ``store`` is the directory whose disk counts."""

    def __init__(self, store: Path, memory_bytes_max: int | None) -> None:
        self._store = store
        self.memory_bytes = memory_bytes_max or _available_bytes() * MEMORY_SHARE_PERCENT // 100
        """What is offered for blocks and KV."""
        psutil.cpu_percent(interval=None)
        self._foreign = Foreign()

    def capacity(self, speed_macs_per_s: int, providers: tuple[str, ...]) -> Capacity:
        """What this machine can carry."""
        return Capacity(
            cores=cores(),
            memory_bytes=self.memory_bytes,
            memory_total_bytes=psutil.virtual_memory().total,
            disk_free_bytes=psutil.disk_usage(str(_existing(self._store))).free,
            speed_macs_per_s=speed_macs_per_s,
            providers=providers,
        )

    def load(self) -> Load:
        """What it carries now; the sessions are the core's to add."""
        return Load(
            cpu_permille=min(1000, round(psutil.cpu_percent(interval=None) * 10)),
            memory_available_bytes=_available_bytes(),
            temperature_millicelsius=_temperature(),
            session_count=0,
            kv_bytes=0,
            foreign_permille=self._foreign.permille(),
        )


class Foreign:
    """What others take of the processors that this process may use: the whole machine's work less our own.

    Both are measured in processor seconds since the last reading, so a process that sleeps for long is not counted as
    idle time of the machine twice. Cores beyond our affinity or quota belong to others anyway: work there is not
    counted against us until it must spill over.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._last = self._read()

    def permille(self) -> int:
        """The mean since the last reading."""
        last, self._last = self._last, self._read()
        wall_s = self._last[0] - last[0]
        if wall_s <= 0:
            return 0
        busy = (self._last[1] - last[1] - (self._last[2] - last[2])) / wall_s
        machine = psutil.cpu_count() or 1
        spilled = max(0.0, busy - (machine - cores()))
        return min(1000, max(0, round(1000 * spilled / cores())))

    def _read(self) -> tuple[float, float, float]:
        """Seconds that passed, that all processors worked, that this process worked."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        own = self._process.cpu_times()
        return time.monotonic(), sum(times) - guest - idle, own.user + own.system


def cores() -> int:
    """Cores this process may use, at least one."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (psutil.cpu_count() or 1)
    quota = limits().cores
    return usable if quota is None else min(usable, quota)


def _available_bytes() -> int:
    """Memory that can be had without swapping others out, and without being killed for it."""
    available, allowed = int(psutil.virtual_memory().available), limits().memory_bytes
    return available if allowed is None else min(available, allowed)


def _temperature() -> int | None:
    """The processor's temperature in thousandths of a degree; None where there is no such sensor."""
    read = getattr(psutil, "sensors_temperatures", None)
    groups = read() if read is not None else {}
    for name in _PREFERRED:
        for entry in groups.get(name, ()):
            if entry.current is not None:
                return int(entry.current * 1000)
    return None


def _existing(path: Path) -> Path:
    """``path`` or the nearest directory above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())

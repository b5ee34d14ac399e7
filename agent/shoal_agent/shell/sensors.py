"""What the machine can carry and what it carries now; the one file that asks psutil.

Cores are those this process may use (affinity and cgroup quota, not what is soldered on). The memory offered is what
the operator allowed, or else ``MEMORY_SHARE_PERCENT`` of what was free when the agent started: the rest belongs to the
machine's other work. Readings never block: CPU use is the mean since the last reading.
"""

import os
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
        )


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

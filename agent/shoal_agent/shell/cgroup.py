"""What the kernel lets this process have: the limits of its control group.

A service manager or a container may give a process less than the machine has (``CPUQuota=``, ``MemoryMax=``,
``docker run --cpus``). The limits stand in files of the group's folder and of every folder above it, and the tightest
counts. Only version 2 of the hierarchy is read, which every current distribution mounts; without it, or without
limits, there is nothing to know.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
SELF: Final = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. ``memory_bytes`` is what may still be taken."""

    cores: int | None
    memory_bytes: int | None


def limits(root: Path = ROOT, membership: Path = SELF) -> Limits:
    """The limits of the group this process is in."""
    folders = list(_folders(root, membership))
    cores = [quota for folder in folders if (quota := _cores(folder)) is not None]
    memory = [left for folder in folders if (left := _memory(folder)) is not None]
    return Limits(min(cores, default=None), min(memory, default=None))


def _folders(root: Path, membership: Path) -> Iterator[Path]:
    """The group's folder and those above it, up to the root of the hierarchy."""
    lines = (_read(membership) or "").splitlines()
    group = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if group is None:
        return
    folder = root / group
    yield folder
    while folder != root:
        folder = folder.parent
        yield folder


def _cores(folder: Path) -> int | None:
    """Whole cores of a quota such as ``150000 100000`` (microseconds per period): rounded up, at least one."""
    match (_read(folder / "cpu.max") or "").split():
        case [quota, period] if quota.isdigit() and period.isdigit() and int(period) > 0:
            return max(1, math.ceil(int(quota) / int(period)))
    return None


def _memory(folder: Path) -> int | None:
    most, used = _read(folder / "memory.max"), _read(folder / "memory.current")
    if most is None or used is None or not most.isdigit() or not used.isdigit():
        return None
    return max(0, int(most) - int(used))


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None

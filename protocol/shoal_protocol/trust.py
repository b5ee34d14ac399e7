"""Which zones may hold which blocks, beyond what a deployment asks of all its hosts.

The first blocks of a model see what a client wrote nearly as it was written, and the last ones what it is answered.
Whoever trusts a zone with the middle of a model need not trust it with its ends.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuardedBlocks:
    """Blocks ``first_block..last_block``, both included, may be in one of ``zones`` only."""

    first_block: int
    last_block: int
    zones: tuple[str, ...]


def zones_by_block(guarded: Iterable[GuardedBlocks], blocks: int) -> tuple[tuple[str, ...], ...]:
    """For each of ``blocks`` blocks the zones that may hold it, none named: any; nothing at all if none is guarded."""
    zones: list[tuple[str, ...]] = [()] * blocks
    for guard in guarded:
        for index in range(guard.first_block, min(guard.last_block + 1, blocks)):
            zones[index] = guard.zones
    return tuple(zones) if any(zones) else ()


def allowed(guarded: Iterable[GuardedBlocks], first_block: int, last_block: int, zone: str) -> bool:
    """Whether somebody in ``zone`` may hold all of ``first_block..last_block``."""
    met = [guard for guard in guarded if guard.first_block <= last_block and first_block <= guard.last_block]
    return all(zone in guard.zones for guard in met)

"""Service and arrivals that are not independent from slot to slot: what blocks of twice the length add.

Where a slow slot follows a slow slot, blocks that are no longer than the weather look independent and are not: in
weather of 20 slots, blocks of 8 foretold a hundredth of what came late. So blocks are noted in twos, fours and eights
too. ``ln E e^(theta block)`` of a block of length b is about ``c + b L``: L is what effective capacity is made of, and
c, which belongs to the weather of the first slots, does not grow with b. The *step* from a length to twice that length
is free of it: ``L = (ln E e^(theta long) - ln E e^(theta short)) / b``.

A difference of two estimates is noisier than either, so a step is asked only where the variance says that there is
weather (``WEATHER``), and believed only where it rests on enough blocks (``TELLING_MIN``).
"""

from dataclasses import dataclass
from typing import Final, Protocol

DOUBLINGS: Final = 3
"""Single blocks, twos, fours and eights: weather of up to some 60 slots is seen."""
WEATHER: Final = 1.1
"""Variance per slot of long blocks to that of short ones from which on slots are not independent."""
LONG_BLOCKS_MIN: Final = 200
"""Long ones, before they are asked: their variance is then known to a tenth."""
TELLING_MIN: Final = 10.0
"""Blocks that a moment must rest on: at a high theta a single bad one outweighs all others, and is no evidence."""


class Noted(Protocol):
    """Blocks of one length."""

    @property
    def blocks(self) -> float: ...
    @property
    def mean(self) -> float: ...
    @property
    def sigma(self) -> float: ...
    def log_moment(self, theta: float) -> tuple[float, float]: ...
    def telling(self, theta: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Step:
    """From ``short`` blocks to ``long`` ones of twice the length; a flow, as effective capacity asks for."""

    short: Noted
    long: Noted

    @property
    def blocks(self) -> float:
        """Of the long ones."""
        return self.long.blocks

    @property
    def mean(self) -> float:
        """Work per slot."""
        return self.short.mean

    @property
    def sigma(self) -> float:
        """Per root of slots."""
        return self.long.sigma

    @property
    def asked(self) -> bool:
        """Whether there is weather, as far as enough long blocks say."""
        return self.long.blocks >= LONG_BLOCKS_MIN and self.long.sigma**2 >= WEATHER * self.short.sigma**2

    def log_moment(self, theta: float) -> tuple[float, float]:
        """Per slot."""
        once, once_slope = self.short.log_moment(theta)
        twice, twice_slope = self.long.log_moment(theta)
        return 2 * twice - once, 2 * twice_slope - once_slope

    def believed(self, theta: float) -> bool:
        """Whether the moment rests on enough blocks."""
        return self.long.telling(theta) >= TELLING_MIN

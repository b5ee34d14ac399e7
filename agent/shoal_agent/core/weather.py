"""Service and arrivals that are not independent from slot to slot: what blocks of twice the length add.

Where a slow slot follows a slow slot, blocks that are no longer than the weather look independent and are not: in
weather of 20 slots, blocks of 8 foretold a hundredth of what came late. So blocks are noted in twos, fours and eights
too. ``ln E e^(theta block)`` of a block of length b is about ``c + b L``: L is what effective capacity is made of, and
c, which belongs to the weather of the first slots, does not grow with b. The *step* from a length to twice that length
is free of it: ``L = (ln E e^(theta long) - ln E e^(theta short)) / b``.

*The onset.* c is not thrown away. It is negative, and e^c says how seldom the weather is one in which a queue grows: a
queue that bad spells fill is not there in good ones, so its tail is that much below ``e^(-theta q)``. With h(w) for how
much more work a spell brings, in ``e^(theta work)`` and in the long run, if it begins in weather w (the eigenvector
that belongs to L), optional stopping gives ``mean h / h(bad)`` for that, as heights are passed in bad weather (Duffield
1994). For weather that looks the same backwards ``e^c = (mean h)^2 / mean h^2``: no less, as no h is above h(bad). So
e^c is on the safe side, and no h need be known. In weather of 20 slots at half the capacity it is 0.64 to 0.68; without
it lateness was overstated 1.4 to 1.55 times there, however long one measured.

A difference of two estimates is noisier than either, so a step is asked only where the variance says that there is
weather (``SURE``), and believed only where it rests on enough blocks (``TELLING_MIN``). By how much the variance per
slot of long blocks exceeds that of short ones is the correlation of neighbours; of n pairs of independent blocks it is
known to ``1 / sqrt(n)``, so the longer one has watched, the fainter the weather that is seen.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Final, Protocol

DOUBLINGS: Final = 3
"""Single blocks, twos, fours and eights: weather of up to some 60 slots is seen."""
SURE: Final = 3.0
"""Standard errors from which on neighbours are not independent: one step in a thousand is asked for nothing. (At a
fixed tenth weather of 4 slots, whose neighbours agree by 0.04, was never seen, and lateness understated by a third.)"""
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
    @property
    def slots(self) -> int: ...
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
        apart = self.long.sigma**2 - self.short.sigma**2
        return self.long.blocks >= LONG_BLOCKS_MIN and apart * sqrt(self.long.blocks) >= SURE * self.short.sigma**2 > 0

    def log_moment(self, theta: float) -> tuple[float, float]:
        """Per slot."""
        once, once_slope = self.short.log_moment(theta)
        twice, twice_slope = self.long.log_moment(theta)
        return 2 * twice - once, 2 * twice_slope - once_slope

    def onset(self, theta: float, growth: float) -> float:
        """c, never above 0; ``growth`` is L, which whoever asks has worked out."""
        return min(self.short.slots * (self.short.log_moment(theta)[0] - growth), 0.0)

    def believed(self, theta: float) -> bool:
        """Whether the moment rests on enough blocks."""
        return self.long.telling(theta) >= TELLING_MIN

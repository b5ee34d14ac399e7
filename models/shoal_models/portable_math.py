"""Powers, cosines and sines whose last bit does not depend on the machine.

IEEE 754 fixes the bits of ``+ - * /``, of the square root and of rounding. It does not fix those of functions beyond
them, and numpy computes these by different formulas on different processors: with and without AVX-512, 10000^-x differs
in the last bit for some x. A rotation angle carries that bit over thousands of positions into a weight, the weight
into a shard, the shard into the digest: two machines that convert one file would hold two models.

So what enters a shard is computed here, from operations whose bits are fixed: the power in decimal arithmetic of forty
digits, rounded once; the cosine and the sine by reduction to [-pi/4, pi/4] and a Taylor series::

    x = q * pi/2 + r      cos x, sin x = one of  +-cos r, +-sin r,  by q mod 4

pi/2 is taken in three parts, the first two of 33 bits each, so that q times either is exact up to q = 2^20, a context
of a million positions. Twelve terms of a series leave less than 1e-26 at pi/4. What remains is rounding: below 3e-16,
a hundred million times finer than the float32 it becomes.
"""

from decimal import Context, Decimal
from math import factorial
from typing import Final

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_DIGITS: Final = 40
"""A double has seventeen: the rounding to it is the only one that shows."""
_PARTS: Final = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
"""pi/2, in parts that add up to it to 118 bits."""
ANGLE_MAX: Final = 2.0**20
"""Radians."""
_TERMS: Final = 12
_COSINE: Final = tuple((-1.0) ** k / factorial(2 * k) for k in range(_TERMS))
_SINE: Final = tuple((-1.0) ** k / factorial(2 * k + 1) for k in range(_TERMS))


def powers(base: float, exponents: tuple[float, ...]) -> Doubles:
    """``base`` (positive) to each of ``exponents``, correctly rounded."""
    assert base > 0, "a negative number has no real powers"
    digits = Context(prec=_DIGITS)
    return np.array([float(digits.power(Decimal(base), Decimal(exponent))) for exponent in exponents])


def cosines_and_sines(angles: Doubles) -> tuple[Doubles, Doubles]:
    """Of ``angles``, each between 0 and ANGLE_MAX."""
    assert ((angles >= 0) & (angles <= ANGLE_MAX)).all(), "beyond, pi/2 would have to be known better"
    quarters = np.rint(angles * (1 / _PARTS[0]))
    rest = angles
    for part in _PARTS:
        rest = rest - quarters * part
    square = rest * rest
    cosine, sine = _polynomial(_COSINE, square), rest * _polynomial(_SINE, square)
    turn = quarters.astype(np.int64) % 4
    return np.choose(turn, [cosine, -sine, -cosine, sine]), np.choose(turn, [sine, cosine, -sine, -cosine])


def _polynomial(coefficients: tuple[float, ...], at: Doubles) -> Doubles:
    total = np.zeros_like(at)
    for coefficient in reversed(coefficients):
        total = total * at + coefficient
    return total

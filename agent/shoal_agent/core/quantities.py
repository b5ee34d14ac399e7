"""Numbers that decide something: finite, of the right sign, or refused where they come in.

A NaN compares as false with everything, so a rule that meets one takes whichever branch stands last, silently, and a
queue that swallows one never recovers. An infinity does the same one addition later. What comes from a peer, a sensor
or a file is therefore asked here once, when the value that carries it is built; behind that border no rule asks again.

A refusal is a ``ValueError`` that names the quantity. Who let the number in turns it into their kind of answer: the
configuration into a message for the operator, the gossip into a rejected digest.
"""

from math import isfinite


def finite(name: str, value: float) -> float:
    """``value``, if it is a number of either sign."""
    if not isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value}")
    return value


def amount(name: str, value: float) -> float:
    """``value``, if it is finite and not negative."""
    if not (isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number of at least 0, not {value}")
    return value


def positive(name: str, value: float) -> float:
    """``value``, if it is finite and above 0: a divisor, a period, a reference."""
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number above 0, not {value}")
    return value


def fraction(name: str, value: float) -> float:
    """``value``, if it is strictly between 0 and 1: a tolerated share of something."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value}")
    return value

"""Elementary functions against a higher precision, and against other processors."""

import subprocess
import sys
from decimal import Context, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_models.portable_math import ANGLE_MAX, cosines_and_sines, powers

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
EXACT = Context(prec=70)


def cosine_and_sine(angle: float) -> tuple[float, float]:
    """By the definition, in seventy digits: reduced by whole turns, then a series of forty terms."""
    x = EXACT.remainder_near(Decimal(angle), EXACT.multiply(PI, Decimal(2)))
    term, parts = Decimal(1), [Decimal(0), Decimal(0)]
    for n in range(80):
        parts[n % 2] = EXACT.add(parts[n % 2], term if n % 4 < 2 else -term)
        term = EXACT.divide(EXACT.multiply(term, x), Decimal(n + 1))
    return float(parts[0]), float(parts[1])


def agree(angle: float) -> None:
    (cosine,), (sine,) = cosines_and_sines(np.array([angle]))
    assert (cosine, sine) == pytest.approx(cosine_and_sine(angle), rel=0, abs=3e-16)


@given(st.floats(0, ANGLE_MAX))
def test_cosine_and_sine(angle):
    agree(angle)


@given(st.integers(0, int(ANGLE_MAX / 0.7853981633974483)), st.integers(-2, 2))
def test_cosine_and_sine_where_the_quarter_changes(eighths, steps):
    angle = eighths * 0.7853981633974483
    for _ in range(abs(steps)):
        angle = float(np.nextafter(angle, np.inf if steps > 0 else 0))
    agree(min(angle, ANGLE_MAX))


def test_nothing_turned_is_exact():
    (cosine,), (sine,) = cosines_and_sines(np.zeros(1))
    assert (cosine, sine) == (1, 0)


@pytest.mark.parametrize("angle", [-1e-9, ANGLE_MAX * 1.001, np.nan, np.inf])
def test_an_angle_beyond_is_our_bug(angle):
    with pytest.raises(AssertionError):
        cosines_and_sines(np.array([angle]))


@given(st.floats(1e-3, 1e9), st.floats(-1, 0))
def test_powers_are_correctly_rounded(base, exponent):
    (power,) = powers(base, (exponent,))
    exact = EXACT.power(Decimal(base), Decimal(exponent))
    error = abs(Decimal(float(power)) - exact)
    for neighbour in (np.nextafter(power, -np.inf), np.nextafter(power, np.inf)):
        assert error <= abs(Decimal(float(neighbour)) - exact)


TABLES = """
import hashlib, numpy as np
from shoal_models.portable_math import cosines_and_sines, powers
for base in (10_000.0, 500_000.0):
    for head_dim in (64, 128):
        frequencies = powers(base, tuple(-pair / head_dim for pair in range(0, head_dim, 2)))
        for frequency in frequencies:
            print(*(hashlib.md5(t.tobytes()).hexdigest() for t in cosines_and_sines(np.arange(2048) * frequency)))
"""


def test_every_processor_gives_the_same_bits():
    """numpy's own power gives others on this list once AVX-512 is off."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    tables = {
        subprocess.run(
            [sys.executable, "-c", TABLES],
            env={"NPY_DISABLE_CPU_FEATURES": " ".join(found[kept:])},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for kept in range(len(found) + 1)
    }
    (table,) = tables
    assert len(table.splitlines()) == 2 * (32 + 64)

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.quantities import amount, finite, fraction, positive

ALL = (finite, amount, positive, fraction)


@pytest.mark.parametrize("check", ALL)
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_no_number_is_refused_by_name(check, bad):
    with pytest.raises(ValueError, match="watts"):
        check("watts", bad)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (finite, (-1.0, 0.0), ()),
        (amount, (0.0, 3.0), (-1e-300,)),
        (positive, (1e-300,), (0.0, -1.0)),
        (fraction, (0.5,), (0.0, 1.0)),
    ],
)
def test_each_has_its_border(check, good, bad):
    assert [check("x", value) for value in good] == list(good)
    for value in bad:
        with pytest.raises(ValueError, match="x must"):
            check("x", value)


@given(st.floats())
def test_what_passes_is_what_came(value):
    for check in ALL:
        try:
            assert check("x", value) == value
        except ValueError:
            continue

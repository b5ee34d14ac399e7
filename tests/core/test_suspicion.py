from itertools import pairwise
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.suspicion import (
    ACCUSERS_MAX,
    CONFIRMATIONS,
    REFUSED,
    UNANSWERED,
    Span,
    Suspicion,
    timeout_s,
)
from shoal_protocol.ids import Instant, NodeId

SPANS = st.tuples(st.floats(0.1, 5), st.floats(0, 50)).map(lambda pair: Span(pair[0], sum(pair)))


@pytest.mark.parametrize(
    ("accusers", "expected", "seconds"),
    [
        # memberlist's suspicion_test.go: k = 3, min 2 s, max 30 s
        (0, 3, 30.0),
        (1, 3, 16.0),
        (2, 3, 30.0 - 28.0 * log(3) / log(4)),
        (3, 3, 2.0),
        (4, 3, 2.0),
        (0, 0, 2.0),
        (5, 0, 2.0),
    ],
)
def test_the_formula_is_memberlists(accusers, expected, seconds):
    assert timeout_s(Span(2.0, 30.0), accusers, expected, 0) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("span", "accusers", "health", "seconds"),
    [
        (UNANSWERED, 0, 0, 3.6),
        (UNANSWERED, 1, 0, 3.6 - 3.0 * log(2) / log(3)),
        (UNANSWERED, 2, 0, 0.6),
        (UNANSWERED, 2, 1, 1.2),
        (UNANSWERED, 0, 8, 32.4),
        (REFUSED, 0, 0, 1.0),
        (REFUSED, 2, 0, 0.3),
        (REFUSED, 9, 2, 0.9),
    ],
)
def test_the_budget(span, accusers, health, seconds):
    assert timeout_s(span, accusers, CONFIRMATIONS, health) == pytest.approx(seconds)


@given(SPANS, st.integers(0, 6), st.integers(0, 8))
def test_accusers_hurry_and_sickness_waits(span, expected, health):
    waits = [timeout_s(span, count, expected, health) for count in range(9)]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(waits))
    assert waits[-1] == pytest.approx((1 + health) * span.min_s)
    assert waits[0] <= (1 + health) * span.max_s + 1e-9
    assert waits == pytest.approx([(1 + health) * timeout_s(span, count, expected, 0) for count in range(9)])


def test_an_accuser_counts_once():
    suspicion = Suspicion(Instant(10.0), 2)
    assert suspicion.ends(0) == pytest.approx(13.6)
    assert suspicion.accuse(NodeId("a" * 32))
    before = suspicion.ends(0)
    assert not suspicion.accuse(NodeId("a" * 32))
    assert suspicion.ends(0) == before
    assert suspicion.accuse(NodeId("b" * 32))
    assert suspicion.ends(0) == pytest.approx(10.6)
    assert suspicion.ends(3) == pytest.approx(12.4)


def test_better_evidence_hurries_a_suspicion_that_runs():
    suspicion = Suspicion(Instant(10.0), 2)
    suspicion.span = REFUSED
    assert suspicion.ends(0) == pytest.approx(11.0)


def test_accusers_are_bounded():
    suspicion = Suspicion(Instant(0.0), 2)
    assert [suspicion.accuse(NodeId(f"{index:032}")) for index in range(ACCUSERS_MAX + 3)].count(True) == ACCUSERS_MAX

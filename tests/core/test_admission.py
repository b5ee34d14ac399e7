import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.admission import KvBudget
from shoal_protocol.ids import SessionId
from shoal_protocol.limits import SESSIONS_MAX

KEYS = [(SessionId(bytes([number]) * 16), stage) for number in range(4) for stage in range(2)]


def test_a_budget_is_used_to_the_last_byte_and_no_further():
    budget = KvBudget(100)
    assert budget.fits(100)
    assert not budget.fits(101)
    budget.reserve(KEYS[0], 60)
    budget.reserve(KEYS[1], 40)
    assert budget.bytes_reserved == budget.bytes_max == 100
    assert [budget.reserved(key) for key in KEYS[:2]] == [60, 40]
    assert budget.fits(0)
    assert not budget.fits(1)
    budget.free(KEYS[0])
    assert budget.fits(60)
    budget.check()


def test_as_many_sessions_as_one_host_keeps():
    budget = KvBudget(10**9)
    for number in range(SESSIONS_MAX):
        assert not budget.crowded()
        budget.reserve((SessionId(number.to_bytes(16)), 0), 1)
    assert budget.crowded()
    budget.free((SessionId(bytes(16)), 0))
    assert not budget.crowded()


def test_to_reserve_twice_or_without_asking_is_a_mistake_of_ours():
    budget = KvBudget(10)
    budget.reserve(KEYS[0], 1)
    with pytest.raises(AssertionError, match="once per stage"):
        budget.reserve(KEYS[0], 1)
    with pytest.raises(AssertionError, match="without asking"):
        budget.reserve(KEYS[1], 10)


def test_unbalanced_books_are_noticed():
    budget = KvBudget(10)
    budget.reserve(KEYS[0], 5)
    budget._total = 4
    with pytest.raises(AssertionError):
        budget.check()


@given(st.integers(0, 50), st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 30)), max_size=60))
def test_the_books_always_balance(bytes_max, steps):
    budget = KvBudget(bytes_max)
    held: dict[object, int] = {}
    for key, wanted in steps:
        if key in held:
            budget.free(key)
            del held[key]
        elif budget.fits(wanted):
            budget.reserve(key, wanted)
            held[key] = wanted
        else:
            assert sum(held.values()) + wanted > bytes_max
        budget.check()
        assert budget.bytes_reserved == sum(held.values())
        assert len(budget) == len(held)

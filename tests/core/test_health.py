import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.health import HEAL_S, HEALTH_MAX, ISOLATED_S_MAX, Health
from shoal_protocol.ids import Instant, NodeId

NODES = [NodeId(f"{index:032}") for index in range(8)]
START = Instant(50.0)


def watcher(living: int, silent: int) -> Health:
    health = Health()
    for node in NODES[:living]:
        health.lives(node)
    for node in NODES[:silent]:
        health.silent(node)
    return health


@pytest.mark.parametrize(
    ("living", "silent", "with_broker", "without"),
    [
        (0, 0, False, False),
        (1, 0, False, False),
        (1, 1, False, True),
        (2, 1, False, False),
        (2, 2, True, True),
        (3, 1, False, False),
        (3, 2, False, True),
        (4, 2, False, False),
        (4, 3, True, True),
        (6, 3, False, False),
        (6, 4, True, True),
    ],
)
def test_isolated_is_who_lost_half_of_the_living(living, silent, with_broker, without):
    for broker_up, expected in ((True, with_broker), (False, without)):
        health = watcher(living, silent)
        assert health.weigh(START, broker_up=broker_up) is expected
        assert health.isolated is expected
        assert health.multiplier == int(expected)


def test_isolation_is_told_once_and_ends_with_a_sign_of_life():
    health = watcher(4, 3)
    assert health.weigh(START, broker_up=True)
    assert not health.weigh(Instant(START + 1), broker_up=True)
    assert health.isolated
    health.lives(NODES[0])
    assert not health.weigh(Instant(START + 2), broker_up=True)
    assert not health.isolated
    health.silent(NODES[0])
    assert health.weigh(Instant(START + 3), broker_up=True), "another episode"
    assert health.multiplier == 2


def test_who_has_a_reason_of_its_own_is_not_silent():
    health = watcher(4, 3)
    health.explained(NODES[0])
    health.weigh(START, broker_up=True)
    assert not health.isolated


def test_the_gone_are_not_counted():
    """Slow attrition: of seven, one after the other dies; the rest never doubts itself."""
    health = watcher(6, 0)
    for node in NODES[:5]:
        health.silent(node)
        health.weigh(START, broker_up=True)
        assert not health.isolated
        health.gone(node)
    assert health.living_count == 1
    assert not health.is_living(NODES[0])


def test_a_stranger_is_neither_living_nor_missed():
    health = watcher(2, 0)
    health.silent(NODES[7])
    health.weigh(START, broker_up=False)
    assert not health.isolated


@pytest.mark.parametrize(("broker_up", "silent", "ends"), [(True, 4, True), (False, 3, True), (False, 4, False)])
def test_doubt_ends_if_there_is_somebody_to_talk_to(broker_up, silent, ends):
    health = watcher(4, silent)
    health.weigh(START, broker_up=broker_up)
    health.weigh(Instant(START + ISOLATED_S_MAX - 0.1), broker_up=broker_up)
    assert health.isolated
    health.weigh(Instant(START + ISOLATED_S_MAX), broker_up=broker_up)
    assert health.isolated is not ends


@given(st.lists(st.booleans(), max_size=60))
def test_the_multiplier_stays_within_its_bounds(signs):
    health, expected = Health(), 0
    for sick in signs:
        if sick:
            health.sicken(START)
        else:
            health.heal()
        expected = min(HEALTH_MAX, expected + 1) if sick else max(0, expected - 1)
        assert health.multiplier == expected


def test_time_without_a_sign_of_sickness_heals():
    health = Health()
    health.sicken(START)
    health.sicken(Instant(START + 1))
    health.on_time(Instant(START + HEAL_S))
    assert health.multiplier == 2
    for index in range(1, 4):
        health.on_time(Instant(START + 1 + index * HEAL_S))
        health.on_time(Instant(START + 1.1 + index * HEAL_S))
    assert health.multiplier == 0

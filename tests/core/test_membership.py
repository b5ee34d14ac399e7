import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.facts import Standing
from shoal_agent.core.membership import SILENCE_S, Membership
from shoal_protocol.ids import Digest, Incarnation, Instant, NodeId
from shoal_protocol.messages import Heartbeat, NodePhase, NodeState
from tests.support.protocol import MESSAGES

RECORD = next(message for message in MESSAGES if isinstance(message, NodeState))
ONE, TWO = NodeId("a" * 32), NodeId("b" * 32)
START = Instant(100.0)


def record(version: int, phase: NodePhase = NodePhase.READY) -> NodeState:
    return replace(RECORD, version=version, phase=phase)


def merged(table: Membership, incarnation: int, version: int, now: float = START, node: NodeId = ONE) -> bool:
    return table.merge(node, Incarnation(incarnation), record(version), Instant(now))


@pytest.mark.parametrize(
    ("incarnation", "version", "is_new"),
    [(2, 6, True), (2, 5, False), (2, 4, False), (3, 1, True), (1, 99, False)],
)
def test_the_higher_incarnation_then_the_higher_version_wins(incarnation, version, is_new):
    table = Membership()
    assert merged(table, 2, 5)
    assert merged(table, incarnation, version) is is_new
    expected = (incarnation, version) if is_new else (2, 5)
    peer = table.peer(ONE)
    assert (peer.incarnation, peer.state.version) == expected


@given(st.permutations([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]), st.integers(0, 5))
def test_records_may_come_in_any_order_and_twice(order, repeated):
    table = Membership()
    for incarnation, version in itertools.chain(order, order[:repeated]):
        merged(table, incarnation, version)
    peer = table.peer(ONE)
    assert (peer.incarnation, peer.state.version) == (2, 2)


@pytest.mark.parametrize(
    ("incarnation", "version", "lags", "refreshed"),
    [
        (2, 5, False, True),
        (2, 6, True, True),
        (2, 4, False, True),
        (3, 1, True, False),
        (1, 9, False, False),
    ],
)
def test_a_heartbeat_refreshes_and_tells_whether_a_record_is_missing(incarnation, version, lags, refreshed):
    table = Membership()
    merged(table, 2, 5)
    assert table.heard(ONE, Incarnation(incarnation), Heartbeat(7, version), Instant(START + 4)) is lags
    assert table.peer(ONE).heard == (START + 4 if refreshed else START)


def test_a_heartbeat_of_a_stranger_says_that_a_record_is_missing():
    table = Membership()
    assert table.heard(ONE, Incarnation(1), Heartbeat(1, 1), START)
    assert table.peer(ONE) is None
    assert not table.present(ONE, START)


def test_present_is_who_was_heard_lately():
    table = Membership()
    merged(table, 1, 1)
    assert table.present(ONE, Instant(START + SILENCE_S))
    assert not table.present(ONE, Instant(START + SILENCE_S + 0.001))
    table.heard(ONE, Incarnation(1), Heartbeat(2, 1), Instant(START + SILENCE_S))
    assert table.present(ONE, Instant(START + SILENCE_S + 0.001))
    assert not table.present(TWO, START)


def test_who_said_goodbye_is_not_present():
    table = Membership()
    table.merge(ONE, Incarnation(1), record(1, NodePhase.DISCONNECTED), START)
    assert not table.present(ONE, START)


def test_peers_come_by_their_name():
    table = Membership()
    merged(table, 1, 1, node=TWO)
    merged(table, 1, 1, node=ONE)
    assert [peer.node for peer in table.peers()] == [ONE, TWO]


def test_holders_are_those_who_say_so():
    table = Membership()
    merged(table, 1, 1, node=TWO)
    merged(table, 1, 1)
    assert table.holders(RECORD.models[0]) == [ONE, TWO]
    assert table.holders(Digest(bytes(32))) == []


@pytest.mark.parametrize(
    ("standing", "present"),
    [
        (Standing.ALIVE, True),
        (Standing.SLOW, True),
        (Standing.MQTT_LOST, True),
        (Standing.LINK_LOST, False),
        (Standing.SUSPECT, False),
        (Standing.DEAD, False),
        (Standing.LEFT, False),
    ],
)
def test_what_the_watch_found_goes_before_what_was_heard(standing, present):
    table = Membership()
    merged(table, 1, 1)
    table.stand(ONE, standing)
    assert table.standing(ONE) is standing
    assert table.present(ONE, Instant(START + 100.0)) is present
    table.stand(ONE, Standing.UNKNOWN)
    assert table.present(ONE, START)
    assert not table.present(ONE, Instant(START + 100.0))


def test_what_others_kept_makes_nobody_present():
    table = Membership()
    assert table.merge(ONE, Incarnation(1), record(1), START, fresh=False)
    assert not table.present(ONE, START)
    table.heard(ONE, Incarnation(1), Heartbeat(1, 1), START)
    assert table.present(ONE, START)
    table.merge(ONE, Incarnation(1), record(2), Instant(START + 60), fresh=False)
    assert not table.present(ONE, Instant(START + 60))


def test_hearsay_makes_nobody_present_and_takes_presence_from_nobody():
    table = Membership()
    assert table.merge(ONE, Incarnation(1), record(1), START, fresh=False)
    assert not table.present(ONE, START)
    table.heard(ONE, Incarnation(1), Heartbeat(1, 1), START)
    assert table.present(ONE, START)
    assert table.merge(ONE, Incarnation(1), record(2), Instant(START + 1), fresh=False)
    assert table.peer(ONE).heard == START
    assert table.present(ONE, Instant(START + 1))


def test_who_is_forgotten_was_never_here():
    table = Membership()
    merged(table, 1, 5)
    table.forget(ONE)
    table.forget(TWO)
    assert table.peers() == ()
    assert merged(table, 1, 1)


def test_whoever_asks_hears_once_of_whom_something_was_found():
    table = Membership()
    assert table.restood() == []
    table.stand(TWO, Standing.ALIVE)
    table.stand(ONE, Standing.SUSPECT)
    table.stand(TWO, Standing.UNKNOWN)
    assert table.restood() == [TWO, ONE, TWO]
    assert table.restood() == []

from shoal_agent.core.farewells import LATELY_S, SAID_MAX, Farewells
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.limits import SESSIONS_MAX

ONE, TWO = NodeId("a" * 32), NodeId("b" * 32)


def named(number: int) -> SessionId:
    return SessionId(number.to_bytes(16))


def at(now: float) -> Instant:
    return Instant(now)


def test_what_was_said_before_a_link_broke_is_owed_until_the_node_is_back():
    farewells = Farewells()
    farewells.say(named(1), (ONE, TWO), at(100.0), at(1.0))
    assert farewells.back(ONE, at(2.0)) == []
    farewells.lost(ONE, at(3.0))
    assert farewells.back(TWO, at(4.0)) == []
    assert farewells.back(ONE, at(4.0)) == [(named(1), 100.0)]
    assert farewells.back(ONE, at(4.0)) == []


def test_what_arrived_long_ago_is_not_owed():
    farewells = Farewells()
    farewells.say(named(1), (ONE,), at(100.0), at(1.0))
    farewells.lost(ONE, at(1.0 + LATELY_S + 0.1))
    farewells.say(named(2), (ONE,), at(100.0), at(1.0 + LATELY_S + 0.1))
    farewells.lost(ONE, at(1.0 + LATELY_S + 0.2))
    assert farewells.back(ONE, at(20.0)) == [(named(2), 100.0)]


def test_nothing_is_owed_after_the_deadline():
    farewells = Farewells()
    farewells.say(named(1), (ONE,), at(5.0), at(1.0))
    farewells.lost(ONE, at(2.0))
    assert farewells.back(ONE, at(5.0)) == []


def test_it_is_bounded():
    farewells = Farewells()
    for number in range(SAID_MAX + 10):
        farewells.say(named(number), (ONE,), at(100.0), at(1.0))
    farewells.lost(ONE, at(2.0))
    owed = farewells.back(ONE, at(3.0))
    assert len(owed) == SESSIONS_MAX
    assert owed[-1] == (named(SAID_MAX + 9), 100.0)

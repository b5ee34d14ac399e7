import pytest

from shoal_agent.core.facts import Road, Standing, Symptom
from shoal_agent.core.sight import HEARSAY_S, MQTT_S, PING_S, SLOW_PING_S, UNDER_WAY_S, Sight, Step
from shoal_protocol.ids import Instant, NodeId

NOW = Instant(100.0)
ALIVE, SLOW, LINK_LOST, MQTT_LOST = Standing.ALIVE, Standing.SLOW, Standing.LINK_LOST, Standing.MQTT_LOST
SUSPECT, DEAD, UNKNOWN, LEFT = Standing.SUSPECT, Standing.DEAD, Standing.UNKNOWN, Standing.LEFT


def sight(standing: Standing = ALIVE, **fields) -> Sight:
    return Sight(NodeId("a" * 32), standing=standing, **{"brokered_at": NOW, "asked_at": NOW - PING_S} | fields)


@pytest.mark.parametrize(
    ("standing", "silent", "word_at", "broken_at", "vouched", "failures", "expected"),
    [
        # not heard since the ping
        (ALIVE, False, 99.4, 0.0, False, 0, ALIVE),
        (ALIVE, False, 99.4, 0.0, False, 5, ALIVE),
        (ALIVE, True, 98.0, 0.0, False, 0, SUSPECT),
        (ALIVE, True, 98.0, 0.0, True, 0, LINK_LOST),
        (ALIVE, False, 99.4, 99.3, False, 0, SUSPECT),
        (ALIVE, False, 99.49, 99.0, False, 0, ALIVE),
        (SLOW, True, 98.0, 0.0, False, 0, SUSPECT),
        (LINK_LOST, True, 98.0, 0.0, False, 0, SUSPECT),
        (MQTT_LOST, True, 98.0, 0.0, False, 0, SUSPECT),
        (SUSPECT, True, 98.0, 0.0, False, 3, SUSPECT),
        # heard since the ping
        (ALIVE, False, 99.8, 0.0, False, 0, ALIVE),
        (ALIVE, False, 99.8, 0.0, False, 1, LINK_LOST),
        (ALIVE, False, 99.8, 99.7, False, 0, ALIVE),
        (LINK_LOST, False, 99.8, 0.0, False, 9, LINK_LOST),
    ],
)
def test_an_unanswered_ping(standing, silent, word_at, broken_at, vouched, failures, expected):
    seen = sight(standing, word_at=word_at, broken_at=broken_at, vouched=vouched, failures=failures, on_time=2)
    assert seen.after_no_answer(silent=silent) is expected
    assert (seen.failures, seen.on_time) == (failures + 1, 0)


@pytest.mark.parametrize(
    ("standing", "took_s", "on_time", "brokered_s", "broker_up", "expected"),
    [
        (ALIVE, 0.01, 0, 0.0, True, ALIVE),
        (ALIVE, PING_S + 0.01, 9, 0.0, True, SLOW),
        (SUSPECT, 0.01, 0, 0.0, True, ALIVE),
        (DEAD, 0.01, 0, 0.0, True, ALIVE),
        (DEAD, 2.0, 0, 0.0, True, SLOW),
        (LINK_LOST, 0.01, 0, 0.0, True, ALIVE),
        (SLOW, 0.01, 0, 0.0, True, SLOW),
        (SLOW, 0.01, 1, 0.0, True, SLOW),
        (SLOW, 0.01, 2, 0.0, True, ALIVE),
        (ALIVE, 0.01, 0, MQTT_S + 0.1, True, MQTT_LOST),
        (ALIVE, 0.01, 0, MQTT_S + 0.1, False, ALIVE),
        (MQTT_LOST, 0.01, 0, MQTT_S + 0.1, False, ALIVE),
        (MQTT_LOST, 0.01, 0, 0.5, True, ALIVE),
    ],
)
def test_an_answered_ping(standing, took_s, on_time, brokered_s, broker_up, expected):
    seen = sight(standing, on_time=on_time, brokered_at=NOW - brokered_s)
    assert seen.after_answer(took_s, NOW, broker_up=broker_up) is expected


@pytest.mark.parametrize(
    ("standing", "road", "brokered_s", "broker_up", "link_lost", "expected"),
    [
        (ALIVE, Road.BROKER, 0.0, True, False, ALIVE),
        (ALIVE, Road.DIRECT, 1.0, True, False, ALIVE),
        (ALIVE, Road.DIRECT, 9.0, True, False, MQTT_LOST),
        (ALIVE, Road.DIRECT, 9.0, False, False, ALIVE),
        (MQTT_LOST, Road.DIRECT, 9.0, True, False, MQTT_LOST),
        (MQTT_LOST, Road.BROKER, 0.0, True, False, ALIVE),
        (UNKNOWN, Road.BROKER, 0.0, True, False, ALIVE),
        (SUSPECT, Road.BROKER, 0.0, True, False, ALIVE),
        (SUSPECT, Road.BROKER, 0.0, True, True, LINK_LOST),
        (DEAD, Road.DIRECT, 9.0, True, False, ALIVE),
        (LINK_LOST, Road.BROKER, 0.0, True, True, LINK_LOST),
        (SLOW, Road.BROKER, 0.0, True, False, SLOW),
    ],
)
def test_a_word(standing, road, brokered_s, broker_up, link_lost, expected):
    seen = sight(standing, brokered_at=NOW - brokered_s, link_lost=link_lost)
    assert seen.after_word(road, NOW, broker_up=broker_up) is expected


@pytest.mark.parametrize(
    ("fields", "symptom"),
    [
        ({"links": 1}, Symptom.PAUSED),
        ({"links": 0}, Symptom.SILENT),
        ({"links": 1, "broken_at": 99.0, "word_at": 98.0}, Symptom.BROKEN),
        ({"links": 1, "broken_at": 97.0, "word_at": 98.0}, Symptom.PAUSED),
        ({"refused_at": 99.1, "broken_at": 99.0, "word_at": 98.0}, Symptom.KILLED),
        ({"refused_at": 99.1, "word_at": 98.0, "refusal_void": True}, Symptom.SILENT),
    ],
)
def test_why_it_gives_no_sign(fields, symptom):
    assert sight(SUSPECT, **fields).symptom() is symptom


def test_an_answer_clears_what_was_held_against_it_and_its_link():
    seen = sight(SUSPECT, failures=3, series=5, refused_at=99.0, broken_at=98.0, refusal_void=True, link_lost=True)
    seen.vouched = True
    seen.answered(NOW)
    assert (seen.failures, seen.series, seen.refused_at, seen.broken_at) == (0, 0, 0.0, 0.0)
    assert (seen.refusal_void, seen.link_lost, seen.vouched) == (False, False, False)
    assert seen.silent_s(Instant(NOW + 2)) == 2.0


def test_the_last_sign_is_a_word_or_an_answer():
    assert sight().silent_s(NOW) == 0.0, "there never was one"
    assert sight(word_at=97.0).silent_s(NOW) == 3.0
    assert sight(word_at=97.0, answered_at=99.0).silent_s(NOW) == 1.0


def test_hearsay_counts_for_a_while_only():
    seen = sight()
    assert seen.believe_hearsay(NOW)
    assert seen.believe_hearsay(Instant(NOW + HEARSAY_S))
    assert not seen.believe_hearsay(Instant(NOW + HEARSAY_S + 0.1))


@pytest.mark.parametrize(
    ("standing", "after_s", "stale"),
    [(SUSPECT, 0.1, True), (SUSPECT, UNDER_WAY_S + 0.01, False), (ALIVE, 0.1, False), (DEAD, 0.1, False)],
)
def test_words_right_after_a_refusal_were_under_way(standing, after_s, stale):
    assert sight(standing, refused_at=NOW - after_s).is_stale_word(NOW) is stale
    assert not sight(standing).is_stale_word(NOW)


@pytest.mark.parametrize(
    ("standing", "living", "over", "patience_s"),
    [
        (UNKNOWN, False, False, PING_S),
        (ALIVE, True, False, PING_S),
        (SLOW, True, False, SLOW_PING_S),
        (LINK_LOST, True, False, PING_S),
        (MQTT_LOST, True, False, PING_S),
        (SUSPECT, False, False, PING_S),
        (DEAD, False, True, PING_S),
        (LEFT, False, True, PING_S),
    ],
)
def test_what_follows_from_a_standing(standing, living, over, patience_s):
    seen = sight(standing)
    assert (seen.living, seen.over, seen.patience_s) == (living, over, patience_s)
    assert seen.is_settled() is (standing is ALIVE)


def test_who_is_asked_or_accused_is_not_settled():
    assert not sight(step=Step.ASKED).is_settled()
    assert not sight(accusers={NodeId("b" * 32): NOW}).is_settled()

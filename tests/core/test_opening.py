"""How sessions begin, and begin again; what runs in them is in test_runner, how they end in test_host."""

from dataclasses import replace

import pytest

from shoal_agent.core.events import PeerLost
from shoal_agent.core.outbox import Outbox
from shoal_protocol.headers import (
    CloseReason,
    CloseSession,
    RefusalCode,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import DeploymentId, Epoch, SessionId
from shoal_protocol.limits import SESSIONS_MAX
from tests.support.stand import ANOTHER, KV, OPEN, PROMPT, RESUME, SESSION, STEP, Stand, ids
from tests.support.toy import toy_tokens


def test_a_session_reserves_its_whole_kv_and_gives_it_back(stand):
    stand.open_both()
    assert stand.heard() == [SessionOpened(SESSION, 0), SessionOpened(SESSION, 1)]
    assert stand.cell().node.snapshot(stand.world.now).kv_bytes == 100 * KV
    assert (SESSION, 0) in stand.cell().stages
    stand.close()
    stand.close()
    assert stand.cell().node.snapshot(stand.world.now).kv_bytes == 0


def test_the_last_stage_opens_its_sampler_with_the_prompt_first(stand):
    stand.cell(stand.last).slow.add("open")
    stand.open_both()
    assert stand.heard() == [SessionOpened(SESSION, 0)]
    stand.close()


REFUSED_OPENINGS = {
    "an epoch nobody holds": (replace(OPEN, epoch=Epoch(1)), None, RefusalCode.STALE_EPOCH),
    "a deployment nobody holds": (replace(OPEN, deployment=DeploymentId("no")), None, RefusalCode.STALE_EPOCH),
    "another node's stage": (replace(OPEN, stage=1), None, RefusalCode.NOT_HOSTED),
    "a stage the plan has not": (replace(OPEN, stage=63), None, RefusalCode.NOT_HOSTED),
    "more than the context": (replace(OPEN, tokens_max=513), None, RefusalCode.KV_FULL),
    "half a token": (OPEN, b"1234", RefusalCode.OUT_OF_ORDER),
    "a prompt beyond its length": (OPEN, bytes(8 * 101), RefusalCode.OUT_OF_ORDER),
}


@pytest.mark.parametrize(("header", "data", "code"), REFUSED_OPENINGS.values(), ids=REFUSED_OPENINGS)
def test_an_opening_that_cannot_be_is_refused_with_its_code(stand, header, data, code):
    stand.say(header, data)
    assert stand.refusal().code is code
    assert stand.cell().counts["sessions_refused", code.name] == 1


def test_a_session_opens_once_whoever_asks(stand):
    stand.open_both()
    stand.say(OPEN)
    assert stand.heard(SessionOpened) == [
        SessionOpened(SESSION, 0),
        SessionOpened(SESSION, 1),
        SessionOpened(SESSION, 0),
    ]
    stand.say(OPEN, by=stand.stranger)
    (refusal,) = stand.heard(SessionRefused, stand.stranger)
    assert refusal.code is RefusalCode.OLD_ATTEMPT
    stand.feed()
    stand.world.run(0.1)
    assert [token.token for token in stand.heard(Token)] == toy_tokens(PROMPT, 8, 1)
    stand.close()


def test_a_node_that_is_no_host_refuses(stand):
    stand.say(OPEN, to=stand.stranger)
    assert stand.refusal().code is RefusalCode.NOT_HOSTED


def test_kv_is_promised_to_the_last_byte_and_refused_beyond():
    stand = Stand(kv_bytes_max=150 * KV, context=150)
    stand.open_both()
    stand.say(replace(OPEN, session=ANOTHER, tokens_max=51))
    assert stand.refusal().code is RefusalCode.KV_FULL
    assert str(51 * KV) in stand.refusal().detail
    stand.say(replace(OPEN, session=ANOTHER, tokens_max=50))
    assert stand.cell().node.snapshot(stand.world.now).kv_bytes == 150 * KV
    for session in (SESSION, ANOTHER):
        stand.close(session)
    stand.world.check_idle()


def test_as_many_sessions_as_one_host_keeps(stand):
    sessions = [SessionId(number.to_bytes(16)) for number in range(SESSIONS_MAX)]
    for session in sessions:
        stand.say(replace(OPEN, session=session, tokens_max=1))
    stand.say(OPEN)
    assert stand.refusal().code is RefusalCode.TOO_MANY_SESSIONS
    for session in sessions:
        stand.close(session)


@pytest.mark.parametrize("data", [bytes([255]) * 24, b""], ids=["negative", "none"])
def test_a_nonsense_prompt_costs_only_its_own_session(stand, data):
    stand.open_both(ANOTHER)
    stand.say(replace(OPEN, stage=1), data or None, to=stand.last)
    stand.world.run(0.05)
    stand.feed(replace(STEP, session=ANOTHER))
    stand.world.run(0.1)
    assert [token.token for token in stand.heard(Token)] == toy_tokens(PROMPT, 8, 1)
    for session in (SESSION, ANOTHER):
        stand.close(session)


def test_a_session_goes_to_another_ingress_of_its_zone(stand):
    stand.open_both()
    stand.say(replace(OPEN, attempt=1), by=stand.stranger)
    assert stand.heard(SessionOpened, stand.stranger) == [SessionOpened(SESSION, 0, 1, 0, 0)]
    assert (stand.refusal().code, stand.refusal().attempt) == (RefusalCode.OLD_ATTEMPT, 0), "who had it is told"
    stand.say(CloseSession(SESSION, CloseReason.CANCELLED))
    assert stand.sessions() == 1, "who lost it cannot close it"
    stand.say(CloseSession(SESSION, CloseReason.FINISHED), by=stand.stranger)
    stand.close()


@pytest.mark.parametrize("orphaned", [False, True])
def test_nobody_of_another_zone_takes_a_session(stand, orphaned):
    stand.cell().node._tables.zones._zones[stand.stranger] = "elsewhere"
    stand.open_both()
    if orphaned:
        stand.cell().post(PeerLost(stand.by_hand, "gone"))
    stand.say(replace(OPEN, attempt=1), by=stand.stranger)
    refusal = stand.refusal(stand.stranger)
    assert (refusal.code, refusal.attempt) == (RefusalCode.OLD_ATTEMPT, 1)
    stand.close()


def test_a_later_attempt_of_a_session_nobody_knew_begins_at_nothing(stand):
    stand.say(replace(OPEN, attempt=3))
    assert stand.heard() == [SessionOpened(SESSION, 0, 3, 0, 0)]
    stand.feed(replace(STEP, attempt=3))
    assert not stand.runs(), "it was not told to go on"
    stand.say(replace(RESUME, attempt=3))
    assert len(stand.runs()) == 1
    stand.world.run(0.1)
    stand.close()


@pytest.mark.parametrize("attempt", [0, 1])
def test_an_older_attempt_is_refused(stand, attempt):
    stand.say(replace(OPEN, attempt=2))
    stand.say(replace(OPEN, attempt=attempt))
    assert (stand.refusal().code, stand.refusal().attempt) == (RefusalCode.OLD_ATTEMPT, attempt)
    stand.close()


def test_an_opening_said_again_is_answered_again(stand):
    stand.say(replace(OPEN, attempt=2))
    stand.say(replace(OPEN, attempt=2))
    assert stand.heard() == [SessionOpened(SESSION, 0, 2, 0, 0)] * 2
    stand.close()


def test_a_session_that_broke_is_not_open(stand):
    stand.open_both()
    stand.world.break_link(stand.first, stand.last)
    stand.world.run(0.1)
    stand.say(OPEN)
    assert len(stand.heard(SessionOpened)) == 2
    stand.close()


def test_the_last_stage_opens_its_sampler_anew_with_every_token(stand):
    stand.open_both()
    stand.say(replace(OPEN, stage=1, attempt=1), ids((*PROMPT, 9, 8)), to=stand.last)
    stand.world.run(0.1)
    assert stand.cell(stand.last).services.drawing[SESSION][0] == 5
    stand.close()


def test_a_stage_without_state_lacks_nothing(stand):
    facts = stand.world.facts
    blocks = tuple(replace(block, kv_bytes_per_token=64 * (index < 4)) for index, block in enumerate(facts.blocks))
    stand.cell(stand.last).node._tables.models[facts.model] = replace(facts, blocks=blocks)
    stand.say(replace(OPEN, stage=1, attempt=1), ids(PROMPT), to=stand.last)
    stand.world.run(0.1)
    assert stand.heard() == [SessionOpened(SESSION, 1, 1, 100, 100)]
    stand.say(replace(RESUME, stage=1), to=stand.last)
    stand.close()


def test_a_session_can_be_longer_than_its_shadow_but_not_than_it_was():
    stand = Stand()
    stand.say(OPEN)
    stand.say(replace(OPEN, attempt=1, tokens_max=101))
    assert stand.refusal().code is RefusalCode.KV_FULL
    stand.say(replace(OPEN, attempt=2, tokens_max=99))
    assert stand.heard()[-1] == SessionOpened(SESSION, 0, 2, 0, 0)
    stand.close()
    stand.world.check_idle()


ROUTES = {
    "too short": lambda stand: (stand.first,),
    "too long": lambda stand: (stand.first, stand.last, stand.last),
    "past this node": lambda stand: (stand.last, stand.first),
    "through a stranger": lambda stand: (stand.first, stand.stranger),
}


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
def test_a_route_that_leads_elsewhere_is_refused(stand, route):
    stand.say(replace(OPEN, route=route(stand)))
    assert stand.refusal().code is RefusalCode.NOT_HOSTED


def test_an_epoch_that_closes_takes_no_new_session_and_keeps_those_it_has(stand):
    stand.say(OPEN)
    stand.tenure(stand.first).closing = stand.world.now
    stand.say(replace(OPEN, session=ANOTHER))
    assert stand.refusal().code is RefusalCode.STALE_EPOCH
    stand.say(replace(OPEN, attempt=1))
    stand.say(replace(OPEN, session=ANOTHER, attempt=1))
    assert [header.attempt for header in stand.heard(SessionOpened)] == [0, 1, 1]
    stand.close()
    stand.close(ANOTHER)
    stand.tenure(stand.first).closing = None


WRONG_WORDS = {
    "another attempt": {"attempt": 2},
    "another epoch": {"epoch": Epoch(1)},
    "another deployment": {"deployment": DeploymentId("no")},
    "another session": {"session": ANOTHER},
    "another stage": {"stage": 1},
}


@pytest.mark.parametrize("change", WRONG_WORDS.values(), ids=WRONG_WORDS)
def test_nobody_goes_on_by_a_word_that_is_not_for_it(stand, change):
    stand.say(replace(OPEN, attempt=1))
    stand.feed(replace(STEP, attempt=1))
    stand.say(replace(RESUME, **change))
    stand.say(RESUME, by=stand.stranger)
    assert stand.cell().counts["frames_dropped", "resume"] == 2
    assert not stand.runs()
    stand.close()


def test_the_word_to_go_on_is_said_once(stand):
    stand.say(RESUME)
    stand.open_both()
    stand.say(replace(RESUME, attempt=0))
    assert stand.cell().counts["frames_dropped", "resume"] == 2
    stand.close()


@pytest.mark.parametrize(("position", "replay_from"), [(4, 4), (2**31 - 1, 0), (3, 0)])
def test_nobody_goes_on_from_where_it_never_was(stand, position, replay_from):
    stand.open_both()
    stand.feed()
    stand.world.run(0.1)
    stand.say(replace(OPEN, attempt=1))
    stand.cell().node._host._holdings.release(
        stand.cell().node._host._holdings.retention.drop((SESSION, 0)), Outbox(stand.first)
    )
    stand.cell().tensors.clear()
    stand.say(replace(RESUME, position=position, replay_from=replay_from))
    assert (stand.refusal().code, stand.refusal().attempt) == (RefusalCode.OUT_OF_ORDER, 1)
    stand.say(replace(OPEN, attempt=2))
    assert stand.heard(SessionOpened)[-1] == SessionOpened(SESSION, 0, 2, 3, 3), "and nothing of it is lost"
    stand.close()


def test_an_ingress_that_is_known_to_be_dead_may_be_followed(stand):
    stand.say(OPEN)
    stand.cell().node._tables.tenures.lost.add(stand.by_hand)
    stand.say(replace(OPEN, attempt=1), by=stand.stranger)
    assert stand.heard(SessionOpened, stand.stranger) == [SessionOpened(SESSION, 0, 1, 0, 0)]
    stand.cell().node._tables.tenures.lost.clear()
    stand.say(CloseSession(SESSION, CloseReason.FINISHED), by=stand.stranger)

from dataclasses import replace

import pytest

from shoal_agent.core import runner
from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import StageFailed
from shoal_agent.core.holdings import DEADLINE_GRACE_S
from shoal_agent.core.ingress import PROMPT_TOKENS_MAX
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import slot_of
from shoal_protocol.headers import (
    Activation,
    CloseReason,
    CloseSession,
    PathBroken,
    RefusalCode,
    Resume,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import DeploymentId, Epoch, SessionId
from shoal_protocol.limits import (
    ORPHAN_S_MAX,
    PREFILL_CHUNK_TOKENS,
    REASON_CHARS_MAX,
    REQUEST_DEADLINE_S_MAX,
    SESSIONS_MAX,
)
from shoal_protocol.tensors import Dtype
from tests.support.stand import OPEN, PROMPT, SESSION, STEP, TOY, Stand, ids
from tests.support.toy import toy_blocks, toy_tokens

ANOTHER = SessionId(b"t" * 16)
RESUME = Resume(TOY, Epoch(0), SESSION, 0, 1, 0, 0)
KV = 4 * 64
"""Bytes of KV per token on one stage: half of the toy's blocks."""


@pytest.fixture
def stand():
    made = Stand()
    yield made
    made.world.check_idle()


# --- opening and closing ----------------------------------------------------------------------------------------------


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


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_prompt_in_chunks_runs_one_chunk_at_a_time_and_in_order(stand):
    prompt = tuple(range(90))
    stand.open_both(prompt=prompt)
    for start in (0, 30, 60):
        chunk = replace(STEP, position=start, token_count=30, last=start == 60, shape=(1, 30))
        stand.feed(chunk, prompt[start : start + 30])
    assert len(stand.runs()) == 1
    stand.world.run(0.1)
    assert [(run.position, run.token_count, run.want_logits) for run in stand.runs()] == [
        (0, 30, False),
        (30, 30, False),
        (60, 30, True),
    ]
    (token,) = stand.heard(Token)
    assert (token.position, token.token) == (90, toy_tokens(prompt, 8, 1)[0])
    stand.close()


REFUSED_STEPS = {
    "more tokens than it brings": (replace(STEP, token_count=PREFILL_CHUNK_TOKENS), RefusalCode.OUT_OF_ORDER),
    "fewer tokens than it brings": (replace(STEP, token_count=1), RefusalCode.OUT_OF_ORDER),
    "no batch": (replace(STEP, shape=(3,)), RefusalCode.OUT_OF_ORDER),
    "two batches": (replace(STEP, shape=(2, 3)), RefusalCode.OUT_OF_ORDER),
    "hidden states for stage 0": (replace(STEP, dtype=Dtype.F32), RefusalCode.OUT_OF_ORDER),
}


@pytest.mark.parametrize(("header", "code"), REFUSED_STEPS.values(), ids=REFUSED_STEPS)
def test_a_step_that_cannot_be_ends_its_session_and_no_other(stand, header, code):
    stand.open_both()
    stand.open_both(ANOTHER)
    stand.feed(header)
    assert stand.refusal().code is code
    assert stand.cell().counts["sessions_refused", code.name] == 1
    assert stand.cell().node.snapshot(stand.world.now).sessions == 1
    stand.feed(replace(STEP, session=ANOTHER))
    stand.world.run(0.1)
    assert [token.token for token in stand.heard(Token)] == toy_tokens(PROMPT, 8, 1)
    for session in (SESSION, ANOTHER):
        stand.close(session)


def test_a_step_without_payload_is_refused(stand):
    stand.open_both()
    stand.say(STEP)
    assert stand.refusal().code is RefusalCode.OUT_OF_ORDER
    assert not stand.runs()
    stand.close()


OF_ANOTHER = {"epoch": replace(STEP, epoch=Epoch(1)), "deployment": replace(STEP, deployment=DeploymentId("no"))}


@pytest.mark.parametrize("header", OF_ANOTHER.values(), ids=OF_ANOTHER)
def test_a_step_of_another_epoch_or_deployment_is_of_another_session(stand, header):
    stand.open_both()
    stand.feed(header)
    assert stand.refusal().code is RefusalCode.STALE_EPOCH
    assert stand.cell().counts["activations_refused", "STALE_EPOCH"] == 1
    stand.feed()
    stand.world.run(0.1)
    assert [token.token for token in stand.heard(Token)] == toy_tokens(PROMPT, 8, 1)
    stand.close()


def test_a_step_that_comes_twice_runs_once(stand):
    stand.open_both()
    stand.feed()
    stand.feed()
    stand.world.run(0.1)
    assert [token.token for token in stand.heard(Token)] == toy_tokens(PROMPT, 8, 1)
    assert len(stand.runs()) == 1
    assert stand.cell().counts["activations_repeated", "SAME"] == 1
    stand.close()


def test_a_gap_suspends_a_session_and_loses_nothing_of_it(stand):
    stand.open_both()
    stand.feed()
    stand.feed(replace(STEP, position=4))
    assert stand.refusal().code is RefusalCode.OUT_OF_ORDER
    stand.world.run(0.1)
    assert stand.cell().node.snapshot(stand.world.now).sessions == 1
    assert not stand.heard(Activation, stand.last)
    stand.feed(replace(STEP, position=3))
    assert stand.cell().counts["activations_refused", "SUSPENDED"] == 1
    stand.say(replace(OPEN, attempt=1))
    assert stand.heard(SessionOpened)[-1] == SessionOpened(SESSION, 0, 1, 3, 0)
    stand.close()


def test_a_session_is_never_longer_than_it_was_opened_for(stand):
    stand.say(replace(OPEN, tokens_max=2))
    stand.feed()
    assert stand.refusal().code is RefusalCode.KV_FULL


def test_what_waits_is_bounded_in_tokens(monkeypatch):
    monkeypatch.setattr(runner, "WAITING_TOKENS_MAX", 5)
    stand = Stand()
    stand.cell().run_s = 1.0
    stand.open_both()
    single = replace(STEP, token_count=1, last=False, shape=(1, 1))
    for position in range(3):
        stand.feed(replace(single, position=position), (1,))
    stand.feed(replace(STEP, position=3))
    assert not stand.heard(SessionRefused)
    stand.feed(replace(single, position=6), (1,))
    assert stand.refusal().code is RefusalCode.OUT_OF_ORDER
    stand.close()
    stand.world.check_idle()


def test_the_longest_prompt_may_wait():
    assert runner.WAITING_TOKENS_MAX >= PROMPT_TOKENS_MAX


@pytest.mark.parametrize("stage", [0, 1])
def test_only_the_stage_before_may_speak(stand, stage):
    stand.open_both()
    host = (stand.first, stand.last)[stage]
    step = replace(STEP, stage=stage, dtype=Dtype.F32 if stage else Dtype.I64, shape=(1, 3, 2)[: 2 + stage])
    stand.feed(step, to=host, by=stand.stranger)
    assert stand.cell(host).counts["activations_refused", "WRONG_SENDER"] == 1
    assert not stand.heard(SessionRefused)
    stand.feed()
    stand.world.run(0.1)
    assert [token.token for token in stand.heard(Token)] == toy_tokens(PROMPT, 8, 1)
    stand.close()


@pytest.mark.parametrize(
    ("header", "code"),
    [(STEP, RefusalCode.UNKNOWN_SESSION), (replace(STEP, epoch=Epoch(9)), RefusalCode.STALE_EPOCH)],
)
def test_a_step_of_a_session_nobody_opened_is_refused(stand, header, code):
    stand.feed(header)
    assert stand.refusal().code is code
    assert stand.cell().counts["activations_refused", code.name] == 1


def test_what_is_still_on_its_way_to_a_session_that_closed_while_running_is_dropped(stand):
    stand.open_both()
    stand.feed()
    stand.close()
    stand.feed(replace(STEP, position=3))
    assert not stand.heard(SessionRefused)
    stand.say(OPEN)
    assert stand.refusal().code is RefusalCode.OUT_OF_ORDER
    stand.world.run(0.1)
    stand.say(OPEN)
    assert stand.heard(SessionOpened)[-1] == SessionOpened(SESSION, 0)
    stand.close()


def test_a_run_that_ends_after_its_session_gives_its_output_back(stand):
    stand.cell().in_vain = True
    stand.open_both()
    stand.feed()
    stand.close()
    stand.world.run(0.1)
    assert not stand.cell().tensors
    assert not stand.heard(Activation, stand.last)
    stand.say(OPEN)
    assert stand.heard(SessionOpened)[-1] == SessionOpened(SESSION, 0)
    stand.close()


def test_chunks_that_wait_are_released_with_their_session(stand):
    stand.open_both()
    for position in (0, 3, 6):
        stand.feed(replace(STEP, position=position, last=False))
    assert len(stand.cell().tensors) == 3
    stand.close()
    stand.world.run(0.1)
    assert not stand.cell().tensors


# --- losing -----------------------------------------------------------------------------------------------------------


def test_only_the_ingress_may_close(stand):
    stand.open_both()
    stand.say(CloseSession(SESSION, CloseReason.CANCELLED), by=stand.stranger)
    assert stand.cell().node.snapshot(stand.world.now).sessions == 1
    stand.close()


def test_a_session_waits_for_another_ingress_when_its_own_is_lost(stand):
    stand.open_both()
    stand.feed()
    stand.world.run(0.1)
    stand.world.break_link(stand.by_hand, stand.first)
    stand.world.run(0.1)
    stand.feed(replace(STEP, position=3), by=stand.by_hand)
    assert stand.cell().counts["activations_refused", "SUSPENDED"] == 1
    stand.say(replace(OPEN, attempt=1), by=stand.stranger)
    assert stand.heard(SessionOpened, stand.stranger) == [SessionOpened(SESSION, 0, 1, 3, 0)]
    stand.say(CloseSession(SESSION, CloseReason.CANCELLED))
    assert stand.cell().node.snapshot(stand.world.now).sessions == 1
    stand.say(CloseSession(SESSION, CloseReason.FINISHED), by=stand.stranger)
    stand.close()


def test_a_session_that_nobody_asks_for_any_more_is_given_up(stand):
    stand.say(replace(OPEN, deadline_ms=90_000))
    stand.say(replace(OPEN, session=ANOTHER, deadline_ms=90_000), by=stand.stranger)
    stand.world.break_link(stand.by_hand, stand.first)
    stand.world.run(ORPHAN_S_MAX)
    assert stand.cell().node.snapshot(stand.world.now).sessions == 2
    stand.world.run(DEADLINE_GRACE_S + 0.1)
    assert stand.cell().node.snapshot(stand.world.now).sessions == 1
    assert stand.cell().counts["sessions_refused", "ORPHANED"] == 1
    stand.say(CloseSession(ANOTHER, CloseReason.FINISHED), by=stand.stranger)


def test_nobody_takes_a_session_from_an_ingress_that_is_there(stand):
    stand.open_both()
    stand.say(replace(OPEN, attempt=1), by=stand.stranger)
    (refusal,) = stand.heard(SessionRefused, stand.stranger)
    assert (refusal.code, refusal.attempt) == (RefusalCode.OLD_ATTEMPT, 1)
    stand.close()


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_neighbour_is_told_to_the_ingress_and_costs_nothing(stand, lost):
    stand.open_both()
    stand.world.break_link(stand.first, stand.last)
    stand.world.run(0.1)
    stage, host, neighbour = ((0, stand.first, stand.last), (1, stand.last, stand.first))[lost]
    assert PathBroken(SESSION, stage, 0, neighbour) in stand.heard(PathBroken)
    assert len(stand.heard(PathBroken)) == 2
    assert stand.cell(host).node.snapshot(stand.world.now).sessions == 1
    stand.close()


def test_a_host_ends_an_expired_session_alone_after_a_grace(stand):
    stand.say(replace(OPEN, deadline_ms=2000))
    stand.world.run(2.0 + DEADLINE_GRACE_S - 0.01)
    assert not stand.heard(SessionRefused)
    stand.world.run(0.02)
    assert stand.refusal().code is RefusalCode.DEADLINE


def test_a_step_after_the_deadline_is_not_run(stand):
    stand.say(replace(OPEN, deadline_ms=0))
    stand.feed()
    assert stand.refusal().code is RefusalCode.DEADLINE
    assert not stand.runs()


def test_no_session_outlives_the_longest_request(stand):
    stand.say(replace(OPEN, deadline_ms=2**62))
    stand.world.run(1.0)
    assert not stand.heard(SessionRefused)
    stand.world.sleep(REQUEST_DEADLINE_S_MAX + DEADLINE_GRACE_S)
    stand.world.run(1.0)
    assert stand.refusal().code is RefusalCode.DEADLINE


def test_a_stage_that_fails_ends_the_session_in_one_line(stand):
    stand.open_both()
    stand.feed()
    stand.cell().post(StageFailed(SESSION, 0, 0, "out of memory " * 1000))
    assert stand.refusal().code is RefusalCode.STAGE_FAILED
    assert len(stand.refusal().detail) == REASON_CHARS_MAX
    stand.close()


def test_a_sampler_that_fails_ends_the_session_in_one_line(stand):
    stand.open_both()
    stand.cell(stand.last).services.drawing[SESSION] = None
    stand.cell(stand.last).services.serve = lambda *_: (_ for _ in ()).throw(ValueError("no " * 1000))
    stand.feed()
    stand.world.run(0.1)
    assert stand.refusal().code is RefusalCode.STAGE_FAILED
    assert len(stand.refusal().detail) == REASON_CHARS_MAX
    stand.close()


def test_hidden_states_travel_from_stage_to_stage_as_they_are(stand):
    stand.open_both()
    stand.feed()
    stand.world.run(0.1)
    (onward,) = stand.heard(Activation, stand.last)
    assert (onward.stage, onward.position, onward.token_count, onward.last) == (1, 0, 3, True)
    assert (onward.dtype, onward.shape) == (Dtype.F32, (1, 3, 2))
    memory: dict[int, int] = {}
    hidden = [toy_blocks(token, 0, 7, memory) for token in PROMPT]
    assert [token.token for token in stand.heard(Token)] == [hidden[-1] % 257]
    stand.close()


# --- attempts ---------------------------------------------------------------------------------------------------------


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


# --- epochs -----------------------------------------------------------------------------------------------------------


def test_one_session_has_a_stage_in_each_epoch_and_each_is_closed_alone(stand):
    stand.adopt(stand.hosts)
    stand.open_both()
    stand.say(replace(OPEN, epoch=Epoch(1), attempt=1))
    stand.say(replace(OPEN, epoch=Epoch(1), attempt=1, stage=1), ids(PROMPT), to=stand.last)
    stand.world.run(0.1)
    assert {key[1] for key in stand.cell().stages} == {0, slot_of(Epoch(1), 0)}
    stand.feed()
    stand.say(CloseSession(SESSION, CloseReason.FINISHED, Epoch(0)))
    stand.say(CloseSession(SESSION, CloseReason.FINISHED, Epoch(0)), to=stand.last)
    assert stand.sessions() == stand.sessions(stand.last) == 1
    assert SESSION in stand.cell(stand.last).services.drawing, "the sampler is the other epoch's as well"
    stand.close()


def test_sessions_of_an_epoch_make_room_and_others_stay(stand):
    stand.adopt(stand.hosts)
    stand.open_both()
    stand.say(replace(OPEN, epoch=Epoch(1), attempt=1))
    out = Outbox(stand.first)
    stand.cell().node._host.evict(TOY, Epoch(0), (1,), out)
    assert not out.effects
    stand.cell().node._host.evict(TOY, Epoch(0), (0, 1), out)
    (refused,) = [effect.header for effect in out.effects if isinstance(effect, SendFrame)]
    assert (refused.code, refused.stage) == (RefusalCode.STALE_EPOCH, 0)
    for effect in out.effects:
        stand.cell().perform(effect)
    assert stand.sessions() == 1
    stand.close()


# --- orphans ----------------------------------------------------------------------------------------------------------


def test_an_ingress_that_is_known_to_be_dead_may_be_followed(stand):
    stand.say(OPEN)
    stand.cell().node._tables.tenures.lost.add(stand.by_hand)
    stand.say(replace(OPEN, attempt=1), by=stand.stranger)
    assert stand.heard(SessionOpened, stand.stranger) == [SessionOpened(SESSION, 0, 1, 0, 0)]
    stand.cell().node._tables.tenures.lost.clear()
    stand.say(CloseSession(SESSION, CloseReason.FINISHED), by=stand.stranger)


def test_an_orphan_is_freed_by_whoever_asks(stand):
    stand.open_both()
    stand.world.break_link(stand.by_hand, stand.first)
    stand.world.run(0.1)
    stand.say(CloseSession(SESSION, CloseReason.FINISHED), by=stand.stranger)
    assert stand.sessions() == 0
    stand.close()


def test_an_orphan_ends_no_later_than_its_session(stand):
    stand.say(replace(OPEN, deadline_ms=5_000))
    stand.world.break_link(stand.by_hand, stand.first)
    stand.world.run(5.0 + DEADLINE_GRACE_S + 0.1)
    assert stand.sessions() == 0

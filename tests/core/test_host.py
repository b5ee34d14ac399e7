"""Whole trips through hosts, and how sessions end; how they begin is in test_opening, what runs in test_runner."""

from dataclasses import replace

import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import StageFailed
from shoal_agent.core.holdings import DEADLINE_GRACE_S
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import slot_of
from shoal_protocol.headers import (
    Activation,
    CloseReason,
    CloseSession,
    PathBroken,
    RefusalCode,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import DeploymentId, Epoch
from shoal_protocol.limits import (
    ORPHAN_S_MAX,
    REASON_CHARS_MAX,
    REQUEST_DEADLINE_S_MAX,
)
from shoal_protocol.tensors import Dtype
from tests.support.stand import ANOTHER, OPEN, PROMPT, SESSION, STEP, TOY, ids
from tests.support.toy import toy_blocks, toy_tokens


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


def test_a_session_is_never_longer_than_it_was_opened_for(stand):
    stand.say(replace(OPEN, tokens_max=2))
    stand.feed()
    assert stand.refusal().code is RefusalCode.KV_FULL


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


def test_what_waits_when_the_deadline_comes_is_not_run_and_goes_no_further(stand):
    stand.cell().run_s = 0.1
    stand.say(replace(OPEN, deadline_ms=50))
    stand.feed()
    stand.feed(replace(STEP, position=3, token_count=1, shape=(1, 1)), (4,))
    stand.world.run(0.15)
    assert stand.refusal().code is RefusalCode.DEADLINE
    assert len(stand.runs()) == 1
    assert not [effect for effect in stand.cell().asked(SendFrame) if isinstance(effect.header, Activation)]
    assert not stand.sessions()


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


def test_an_answer_that_nobody_waits_for_is_harmless(stand):
    stand.open_both()
    stand.cell().post(StageFailed(SESSION, 0, 0, "what?"))
    stand.cell().post(StageFailed(SESSION, 9, 0, "what?"))
    assert not stand.heard(SessionRefused)
    stand.close()


def test_a_run_that_fails_while_it_is_taken_up_ends_the_new_attempt(stand):
    stand.open_both()
    stand.feed()
    stand.say(replace(OPEN, attempt=1))
    stand.cell().post(StageFailed(SESSION, 0, 0, "out of memory"))
    assert (stand.refusal().code, stand.refusal().attempt) == (RefusalCode.STAGE_FAILED, 1)
    stand.world.run(0.1)
    stand.close()

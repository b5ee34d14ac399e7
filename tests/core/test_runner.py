"""Runs, outputs and tokens of served sessions; what begins and ends a session is in test_host."""

from dataclasses import replace

import pytest

from shoal_agent.core import runner
from shoal_agent.core.effects import CallService, ReleaseTensor, SendFrame
from shoal_agent.core.ingress import PROMPT_TOKENS_MAX
from shoal_protocol.headers import Activation, RefusalCode, SessionOpened, SessionRefused, Token
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS
from shoal_protocol.tensors import Dtype
from tests.support.stand import ANOTHER, OPEN, PROMPT, RESUME, SESSION, STEP, Rider, Stand, ids
from tests.support.toy import toy_tokens


def single(position, attempt=0, *, last=True):
    return replace(STEP, position=position, token_count=1, shape=(1, 1), attempt=attempt, last=last)


def onward(stand):
    return [(header.position, header.token_count, header.attempt) for header in stand.heard(Activation, stand.last)]


def again(stand, position, replay_from=0, attempt=1, stage=0, known=PROMPT):
    """Open anew and resume one stage."""
    host = stand.hosts[stage]
    told = ids(known) if host == stand.last else None
    stand.say(replace(OPEN, attempt=attempt, stage=stage), told, to=host)
    stand.world.run(0.02)
    stand.say(replace(RESUME, attempt=attempt, stage=stage, position=position, replay_from=replay_from), to=host)


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_what_is_said_under_another_attempt_is_dropped(stand):
    stand.open_both()
    stand.feed(replace(STEP, attempt=1))
    again(stand, 0)
    stand.feed(STEP)
    assert stand.cell().counts["activations_refused", "OLD_ATTEMPT"] == 2
    assert not stand.runs()
    assert not stand.heard(SessionRefused)
    stand.feed(replace(STEP, attempt=1))
    assert len(stand.runs()) == 1
    stand.world.run(0.1)
    stand.close()


def test_input_that_overtakes_the_word_to_go_on_waits_for_it(stand):
    stand.open_both()
    stand.say(replace(OPEN, attempt=1))
    for header in (replace(STEP, attempt=1), single(3, 1), single(4, 1)):
        stand.feed(header, PROMPT[: header.token_count])
    stand.world.run(0.1)
    assert not stand.runs()
    stand.say(RESUME)
    stand.world.run(0.1)
    assert [(run.position, run.token_count) for run in stand.runs()] == [(0, 3), (3, 1), (4, 1)]
    stand.close()


def test_what_came_too_early_is_judged_by_where_to_go_on(stand):
    stand.open_both()
    stand.feed()
    stand.feed(single(3), (4,))
    stand.world.run(0.1)
    stand.say(replace(OPEN, attempt=1))
    for position in (2, 3, 4):
        stand.feed(single(position, 1), (4,))
    stand.say(replace(RESUME, position=4, replay_from=4))
    assert [run.position for run in stand.runs()] == [0, 3, 4]
    assert stand.cell().counts["activations_repeated", "SAME"] == 2
    stand.world.run(0.1)
    stand.close()


def test_a_gap_in_what_came_too_early_is_one_refusal(stand):
    stand.open_both()
    stand.say(replace(OPEN, attempt=1))
    for position in (3, 4, 5):
        stand.feed(single(position, 1), (4,))
    stand.say(RESUME)
    assert stand.refusal().code is RefusalCode.OUT_OF_ORDER
    stand.close()


def test_a_run_that_is_under_way_ends_and_its_output_is_kept(stand):
    stand.open_both()
    stand.feed()
    stand.feed(single(3), (4,))
    stand.say(replace(OPEN, attempt=1))
    assert len(stand.heard(SessionOpened)) == 2
    stand.world.run(0.1)
    assert stand.heard(SessionOpened)[-1] == SessionOpened(SESSION, 0, 1, 3, 0)
    assert onward(stand) == []
    assert len(stand.runs()) == 1, "what waited is forgotten"
    stand.say(replace(RESUME, position=3))
    assert onward(stand) == [(0, 3, 1)]
    stand.close()


# --- going on ---------------------------------------------------------------------------------------------------------


def test_outputs_are_sent_again_under_the_new_attempt_and_as_they_were(stand):
    stand.open_both()
    stand.feed(replace(STEP, last=False))
    for position in (3, 4):
        stand.feed(single(position, last=position == 4), (4,))
    stand.world.run(0.1)
    first = stand.heard(Activation, stand.last)
    again(stand, 5, 3)
    second = stand.heard(Activation, stand.last)[3:]
    assert [(one.position, one.last, one.shape) for one in second] == [(3, False, (1, 1, 2)), (4, True, (1, 1, 2))]
    assert [one.last for one in first] == [False, False, True]
    assert {one.attempt for one in second} == {1}
    stand.close()


def test_the_same_tensor_is_sent_twice_and_released_once(stand):
    stand.open_both()
    stand.feed()
    stand.world.run(0.1)
    again(stand, 3)
    sent = [effect for effect in stand.cell().asked(SendFrame) if isinstance(effect.header, Activation)]
    assert len(sent) == 2
    assert {effect.payload for effect in sent} == {sent[0].payload}
    assert all(effect.keep for effect in sent)
    stand.close()
    released = [effect.handle for effect in stand.cell().asked(ReleaseTensor)]
    assert released.count(sent[0].payload) == 1


def test_that_outputs_are_forgotten_is_told_once(stand):
    retention = stand.cell().node._host._holdings.retention
    retention._bytes_max = 16
    stand.open_both()
    stand.feed()
    for position in range(3, 8):
        stand.feed(single(position), (4,))
    stand.world.run(0.1)
    assert stand.cell().counts["outputs_forgotten", "ROOM"] == 1
    stand.say(replace(OPEN, attempt=1))
    assert stand.heard(SessionOpened)[-1] == SessionOpened(SESSION, 0, 1, 8, 6)
    stand.close()


def test_going_back_runs_again_from_there(stand):
    stand.open_both()
    stand.feed()
    stand.feed(single(3), (4,))
    stand.world.run(0.1)
    again(stand, 0)
    stand.feed(replace(STEP, attempt=1))
    stand.world.run(0.1)
    assert onward(stand) == [(0, 3, 0), (3, 1, 0), (0, 3, 1)]
    stand.say(replace(OPEN, attempt=2))
    assert stand.heard(SessionOpened)[-1] == SessionOpened(SESSION, 0, 2, 3, 0)
    stand.close()


def test_a_chunk_of_which_a_part_is_here_runs_as_a_whole(stand):
    stand.open_both()
    stand.feed()
    stand.feed(single(3), (4,))
    stand.world.run(0.1)
    again(stand, 4, 4)
    stand.feed(replace(STEP, position=2, attempt=1))
    stand.world.run(0.1)
    assert [(run.position, run.token_count) for run in stand.runs()] == [(0, 3), (3, 1), (2, 3)]
    assert stand.cell().counts["activations_repeated", "PART"] == 1
    assert onward(stand)[-1] == (2, 3, 1)
    stand.close()


def test_a_chunk_that_overlaps_what_runs_is_out_of_order(stand):
    stand.open_both()
    stand.feed()
    stand.feed(replace(STEP, position=2))
    assert stand.refusal().code is RefusalCode.OUT_OF_ORDER
    stand.world.run(0.1)
    stand.close()


def test_what_goes_to_this_very_node_is_its_own_and_never_kept():
    stand = Stand(3, backed=True)
    rider = Rider(stand, length=10)
    rider.lay([stand.hosts[0], stand.hosts[1], stand.hosts[0]])
    stand.world.run_until(lambda: len(rider.answer) == 5)
    rider.lay([stand.hosts[0], stand.hosts[2], stand.hosts[0]])
    assert rider.finish() == toy_tokens(PROMPT, 8, 10)


def test_outputs_kept_for_another_node_can_be_given_to_this_one():
    stand = Stand(3, backed=True)
    first, second, third = stand.hosts
    rider = Rider(stand, length=12)
    rider.lay([second, second, third])
    stand.world.run_until(lambda: len(rider.answer) == 4)
    rider.lay([first, second, third])
    stand.world.run_until(lambda: len(rider.answer) == 8)
    rider.lay([second, third, third])
    assert rider.finish() == toy_tokens(PROMPT, 8, 12)


# --- the sampler ------------------------------------------------------------------------------------------------------


def drawn(stand):
    return [call for call in stand.cell(stand.last).asked(CallService) if call.method == "sample"]


def test_nothing_is_drawn_where_the_token_is_known(stand):
    stand.open_both()
    stand.feed()
    stand.world.run(0.1)
    (token,) = stand.heard(Token)
    told = (*PROMPT, token.token)
    stand.say(replace(OPEN, stage=1, attempt=1), ids(told), to=stand.last)
    again(stand, 0)
    stand.world.run(0.02)
    stand.say(replace(RESUME, stage=1), to=stand.last)
    stand.feed(replace(STEP, attempt=1))
    stand.feed(single(3, 1), told[3:])
    stand.world.run(0.1)
    assert [run.want_logits for run in stand.runs(stand.last)] == [True, False, True]
    assert [one.position for one in stand.heard(Token)] == [3, 4]
    assert [one.token for one in stand.heard(Token)] == toy_tokens(PROMPT, 8, 2)
    assert stand.heard(Token)[-1].attempt == 1
    stand.close()


def test_a_token_drawn_under_an_older_attempt_is_not_told(stand):
    stand.cell(stand.last).slow.add("sample")
    stand.open_both()
    stand.feed()
    stand.world.run(0.1)
    assert len(drawn(stand)) == 1
    stand.say(replace(OPEN, stage=1, attempt=1), ids(PROMPT), to=stand.last)
    stand.world.run(0.1)
    assert len(stand.heard(SessionOpened)) == 2, "the sampler is still busy with the session"
    stand.cell(stand.last).release()
    stand.world.run(0.1)
    assert stand.heard(SessionOpened)[-1] == SessionOpened(SESSION, 1, 1, 3, 3)
    assert not stand.heard(Token)
    stand.close()


def test_a_sampler_that_fails_for_an_older_attempt_harms_nobody(stand):
    stand.cell(stand.last).slow.add("sample")
    stand.open_both()
    stand.feed()
    stand.world.run(0.1)
    stand.say(replace(OPEN, stage=1, attempt=1), ids(PROMPT), to=stand.last)
    stand.cell(stand.last).services.drawing.clear()
    stand.cell(stand.last).services.drawing[SESSION] = (99, OPEN.sampling)
    stand.cell(stand.last).services._sample = lambda *_: (_ for _ in ()).throw(ValueError("no"))
    stand.cell(stand.last).release()
    stand.world.run(0.1)
    assert stand.heard(SessionOpened)[-1].attempt == 1
    assert not stand.heard(SessionRefused)
    stand.close()


def test_a_token_of_a_session_that_is_suspended_is_not_told(stand):
    stand.cell(stand.last).slow.add("sample")
    stand.open_both()
    stand.feed()
    stand.world.run(0.1)
    stand.world.break_link(stand.first, stand.last)
    stand.world.run(0.1)
    stand.cell(stand.last).release()
    stand.world.run(0.1)
    assert not stand.heard(Token)
    stand.close()


# --- input that cannot be ------------------------------------------------------------------------------------------


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


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_what_waits_is_released_with_its_attempt(monkeypatch):
    monkeypatch.setattr(runner, "WAITING_TOKENS_MAX", 8)
    stand = Stand()
    stand.open_both()
    stand.say(replace(OPEN, attempt=1))
    for position in (0, 3):
        stand.feed(replace(STEP, position=position, attempt=1))
    assert len(stand.cell().tensors) == 2
    stand.say(replace(OPEN, attempt=2))
    assert not stand.cell().tensors
    for position in (0, 3, 6):
        stand.feed(replace(STEP, position=position, attempt=2))
    assert stand.refusal().code is RefusalCode.OUT_OF_ORDER
    stand.close()
    stand.world.check_idle()

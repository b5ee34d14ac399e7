"""KV that goes out: to a standby, and to the heirs of a session that moves."""

from dataclasses import replace

import pytest

from shoal_agent.core.copies import LOOK_S, REFUSED_REST_S
from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import KvExported
from shoal_agent.core.kv_stream import ANSWER_S_MAX, INCREMENT_TOKENS, NEAR_TOKENS, STALLS_MAX
from shoal_protocol.headers import (
    CloseReason,
    CloseSession,
    KvKept,
    KvRows,
    PathBroken,
    RefusalCode,
)
from shoal_protocol.ids import Epoch, SessionId
from tests.support.stand import SESSION, TOY, Rider, Stand
from tests.support.toy import toy_tokens

N = INCREMENT_TOKENS


@pytest.fixture
def stand():
    return Stand(backed=True)


def sent(stand, name=None, kind=KvRows, since=0):
    frames = [effect for effect in stand.cell(name).asked(SendFrame) if isinstance(effect.header, kind)]
    return frames[since:]


def spans(stand, name=None, peer=None):
    return [
        (frame.header.position, frame.header.token_count) for frame in sent(stand, name) if peer in (None, frame.peer)
    ]


def ride(stand, answer, **options):
    rider = Rider(stand, **options)
    rider.lay()
    stand.world.run_until(lambda: len(rider.answer) >= answer)
    return rider


def tokens(rider):
    return toy_tokens(rider.prompt, 8, rider.length)


# --- to a standby -----------------------------------------------------------------------------------------------------


def test_rows_follow_a_few_tokens_behind(stand):
    rider = ride(stand, 30)
    assert spans(stand)[:3] == [(0, 3), (3, N), (3 + N, N)]
    (shadow,) = stand.cell(stand.last).node._host._holdings.of(SESSION)[1:]
    assert 31 - NEAR_TOKENS <= shadow.finished <= 31
    assert rider.finish() == tokens(rider)


def test_a_prompt_goes_at_once_after_the_first_frame_asked(stand):
    rider = ride(stand, 1, prompt=tuple(range(100)), length=2)
    stand.world.run(0.1)
    assert spans(stand)[:2] == [(0, N), (N, 100 - N)]
    assert rider.finish() == tokens(rider)


def test_a_plan_without_standbys_exports_nothing():
    stand = Stand()
    rider = ride(stand, 30)
    assert not stand.exports()
    assert rider.finish() == tokens(rider)


def test_whoever_serves_in_place_of_the_primary_sends_to_it(stand):
    rider = Rider(stand, length=30)
    rider.lay([stand.last, stand.last])
    stand.world.run_until(lambda: rider.done)
    assert spans(stand, stand.last, stand.first), "both of its stages have the other host beside it"
    assert rider.finish() == tokens(rider)


def test_a_standby_that_does_not_stand_by_is_not_asked(stand):
    tenure = stand.tenure(stand.first)
    tenure.reports[stand.last] = replace(tenure.reports[stand.last], standing_by=())
    rider = ride(stand, 20)
    assert not stand.exports()
    assert rider.finish() == tokens(rider)


def test_a_lost_standby_is_not_asked_and_found_again(stand):
    lost = stand.cell(stand.first).node._tables.tenures.lost
    lost.add(stand.last)
    rider = ride(stand, 12, length=1000, tokens_max=500)
    assert not stand.exports()
    lost.discard(stand.last)
    began = stand.world.now
    stand.world.run_until(lambda: bool(stand.exports()))
    assert stand.world.now - began <= LOOK_S + 0.1
    rider.length = len(rider.answer) + 1
    assert rider.finish() == tokens(rider)


def test_a_standby_that_is_lost_meanwhile_is_left_at_once(stand):
    rider = ride(stand, 20, length=30)
    stand.cell(stand.first).node._tables.tenures.lost.add(stand.last)
    before = len(spans(stand))
    stand.world.run_until(lambda: rider.done)
    assert len(spans(stand)) <= before + 1
    assert rider.finish() == tokens(rider)


def three(**options):
    """Two standbys for the first stage."""
    stand = Stand(3, **options)
    plan = stand.adopt(stand.hosts, ((stand.hosts[1], stand.hosts[2]), (), ()))
    rider = Rider(stand, length=60, epoch=plan.epoch)
    return stand, rider


def test_a_standby_that_refuses_is_let_alone_and_the_next_one_asked():
    stand, rider = three()
    stand.tenure(stand.hosts[1], 1).held.pop(0)
    rider.lay()
    stand.world.run_until(lambda: rider.done)
    assert spans(stand, peer=stand.hosts[1]) == [(0, 3)]
    assert spans(stand, peer=stand.hosts[2])[0][0] == 0
    assert stand.cell().counts["kv_rows_refused", "NOT_HOSTED"] == 1
    assert len([note for note in stand.cell().notes if note.text == "no copy kept"]) == 1
    assert stand.shadows(stand.hosts[2]) == 1
    stand.tenure(stand.hosts[1], 1).held[0] = stand.tenure(stand.hosts[1], 1).held.get(1)
    assert rider.finish() == tokens(rider)


def test_a_standby_whose_link_broke_begins_anew(stand):
    rider = ride(stand, 20, length=10**6, tokens_max=500)
    stand.world.break_link(stand.first, stand.last)
    stand.world.run(0.1)
    assert len(stand.heard(PathBroken)) == 2
    stand.world.cut.clear()
    before = len(spans(stand, peer=stand.last))
    rider.lay()
    stand.world.run(LOOK_S + 0.5)
    following = spans(stand, peer=stand.last)[before:]
    assert following[0] == (0, N)
    assert following[1][0] > N, "what is there already is not sent again"
    rider.length = len(rider.answer) + 1
    assert rider.finish() == tokens(rider)


def test_a_standby_that_keeps_forgetting_is_given_up(stand):
    stand.world.loses = lambda header: isinstance(header, KvRows)
    rider = ride(stand, 20, length=10**6, tokens_max=500)
    for _ in range(STALLS_MAX + 2):
        sending = [frame.header for frame in sent(stand)][-1]
        stand.say(KvKept(TOY, Epoch(0), SESSION, 0, 0, 3, 0, None), by=stand.last)
        stand.world.run(0.01)
    assert stand.cell().counts["kv_rows_refused", "OUT_OF_ORDER"] == 1
    assert sending.position == 0
    rider.length = len(rider.answer) + 1
    stand.world.loses = lambda header: False
    assert rider.finish() == tokens(rider)


def test_whoever_refused_is_asked_again_after_a_rest(stand):
    stand.tenure(stand.last).held.pop(0)
    rider = ride(stand, 20, length=10**6, tokens_max=500)
    assert spans(stand) == [(0, 3)]
    stand.tenure(stand.last).held[0] = stand.tenure(stand.last).held.get(1)
    for name in stand.hosts:
        stand.cell(name).run_s = 0.5
    stand.world.run(REFUSED_REST_S + 2.0)
    assert len(spans(stand)) > 1
    rider.length = len(rider.answer) + 1
    assert rider.finish() == tokens(rider)


@pytest.mark.parametrize(
    "answer",
    [
        KvKept(TOY, Epoch(0), SESSION, 0, 0, 3, 5, None),
        KvKept(TOY, Epoch(0), SessionId(b"x" * 16), 0, 0, 3, 5, None),
        KvKept(TOY, Epoch(9), SESSION, 63, 0, 3, 5, RefusalCode.KV_FULL),
    ],
)
def test_an_answer_to_nothing_is_dropped(stand, answer):
    rider = ride(stand, 3, length=4)
    for peer in (stand.last, stand.stranger):
        stand.say(answer, by=peer)
    assert stand.cell().counts["frames_dropped", "kv_kept"] == 2
    assert rider.finish() == tokens(rider)


def test_no_answer_makes_a_stream_go_beyond_what_there_is(stand):
    rider = ride(stand, 20, length=10**6, tokens_max=500)
    stand.world.loses = lambda header: isinstance(header, KvRows)
    while not stand.cell().node._host._holdings.of(SESSION)[0].standby.sent:
        stand.world.step()
    stand.say(KvKept(TOY, Epoch(0), SESSION, 0, 0, 3, 2**31 - 1, None), by=stand.last)
    stand.cell().node.check()
    stand.world.loses = lambda header: False
    rider.length = len(rider.answer) + 1
    assert rider.finish() == tokens(rider)


def test_rows_that_cannot_be_copied_end_the_stream_and_nothing_else(stand):
    cell = stand.cell()

    def no_memory(effect):
        asked = (effect.session, effect.stage, effect.first_block, effect.last_block)
        cell.later(0.001, KvExported(*asked, effect.position, effect.token_count, None, 0, "no memory"))

    cell.export = no_memory
    rider = ride(stand, 20, length=30)
    assert cell.counts["kv_rows_refused", "STAGE_FAILED"] == 1
    assert not sent(stand)
    assert rider.finish() == tokens(rider)


def test_rows_of_a_session_that_closed_meanwhile_are_released(stand):
    stand.cell().copy_s = 0.5
    rider = ride(stand, 10)
    assert stand.exports()
    rider.close()
    stand.world.run(0.1)
    assert not stand.cell().node._host.idle(), "an answer is due"
    stand.world.run(1.0)
    stand.world.check_idle()


def test_rows_on_their_way_when_the_session_closes_are_no_shadow_for_nobody(stand):
    rider = ride(stand, 8)
    stand.world.run_until(lambda: bool(sent(stand)))
    stand.say(CloseSession(SESSION, CloseReason.FINISHED), to=stand.last)
    stand.say(CloseSession(SESSION, CloseReason.FINISHED))
    stand.world.run(0.5)
    assert stand.shadows(stand.last) == 0
    rider.close()
    stand.world.check_idle()


def test_whoever_was_sent_rows_hears_of_the_end_from_the_sender_too(stand):
    rider = ride(stand, 20, length=21)
    stand.world.run_until(lambda: rider.done)
    stand.world.run(0.1)
    assert stand.shadows(stand.last) == 1
    stand.world.break_link(stand.by_hand, stand.last)
    stand.world.run(0.1)
    stand.say(CloseSession(SESSION, CloseReason.FINISHED))
    stand.world.run(0.1)
    assert stand.shadows(stand.last) == 0
    stand.world.run(40.0)
    stand.world.check_idle()


def test_rows_that_are_lost_in_silence_are_sent_again(stand):
    stand.world.loses = lambda header: isinstance(header, KvRows)
    rider = ride(stand, 12, length=10**6, tokens_max=500)
    stand.world.loses = lambda header: False
    before = len(spans(stand))
    for name in stand.hosts:
        stand.cell(name).run_s = 0.2
    stand.world.run(ANSWER_S_MAX + 1.0)
    assert len(spans(stand)) > before
    assert stand.shadows(stand.last) == 1
    rider.length = len(rider.answer) + 1
    assert rider.finish() == tokens(rider)


def test_a_standby_that_never_answers_is_given_up(stand):
    stand.world.loses = lambda header: isinstance(header, KvRows)
    rider = ride(stand, 12, length=10**6, tokens_max=500)
    for name in stand.hosts:
        stand.cell(name).run_s = 0.5
    stand.world.run((STALLS_MAX + 2) * ANSWER_S_MAX)
    assert stand.cell().counts["kv_rows_refused", "OUT_OF_ORDER"] == 1
    stand.world.loses = lambda header: False
    rider.length = len(rider.answer) + 1
    assert rider.finish() == tokens(rider)


def test_an_orphan_that_is_given_up_takes_its_copy_along(stand):
    ride(stand, 12)
    stand.world.run(0.1)
    for host in stand.hosts:
        stand.world.break_link(stand.by_hand, host)
    stand.world.run(1.0)
    assert stand.shadows(stand.first) + stand.shadows(stand.last) == 2
    stand.world.run(40.0)
    stand.world.check_idle()

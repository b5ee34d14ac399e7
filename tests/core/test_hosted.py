import pytest

from shoal_agent.core.facts import StageSpan
from shoal_agent.core.hosted import Handover, Hosted, Lease, Stand, Work
from shoal_agent.core.kv_stream import KvStream
from shoal_protocol.headers import HandOver, KvRows
from shoal_protocol.ids import Epoch, Instant, NodeId
from tests.support.stand import OPEN, SESSION, STEP
from tests.support.toy import MODEL
from tests.support.world import TOY

HERE, THERE = NodeId("a" * 32), NodeId("b" * 32)
LEASE = Lease(OPEN, HERE, THERE, 0)


def hosted(row_bytes=(64, 64, 64, 64), **options):
    span = StageSpan(TOY, Epoch(0), MODEL, 4, 3 + len(row_bytes))
    made = Hosted((SESSION, 1), None, 1, span, 100, row_bytes, 0, HERE, **options)
    made.depths = [0] * len(row_bytes)
    return made


def rows(first, last, position, count):
    return KvRows(TOY, Epoch(0), SESSION, 1, first, last, position, count, 100, 1000, HERE)


def stream(kept=0):
    return KvStream(THERE, Epoch(0), 1, 4, 7, 64, kept=kept)


def test_a_shadow_reaches_as_far_as_its_least_block():
    shadow = hosted()
    shadow.deepen(rows(4, 5, 0, 8))
    assert (shadow.finished, shadow.depth(4, 5), shadow.depth(4, 6)) == (0, 8, 0)
    shadow.deepen(rows(6, 7, 0, 5))
    assert (shadow.finished, shadow.depth(4, 7)) == (5, 5)
    shadow.check()


def test_rows_written_again_take_back_what_was_beyond():
    shadow = hosted()
    shadow.deepen(rows(4, 7, 0, 8))
    shadow.deepen(rows(6, 7, 0, 3))
    assert shadow.finished == 3


def test_blocks_without_state_lack_nothing():
    shadow = hosted((64, 0, 64))
    shadow.deepen(rows(4, 4, 0, 8))
    shadow.deepen(rows(6, 6, 0, 9))
    assert shadow.finished == 8
    assert not shadow.stateless
    assert hosted((0, 0)).stateless
    assert hosted((0, 0)).depth(4, 5) == 100


def test_what_rows_take_depends_on_their_blocks():
    assert hosted((1, 2, 4)).bytes_per_row(4, 6) == 7
    assert hosted((1, 2, 4)).bytes_per_row(5, 5) == 2


def test_whoever_goes_back_counts_on_nothing_beyond():
    session = hosted(stand=Stand.OPENED, lease=LEASE, finished=30, position=30)
    session.standby = stream(kept=24)
    asked = HandOver(TOY, Epoch(0), SESSION, 1, 0, Epoch(1), (THERE,), last=False)
    session.handover = Handover(asked, HERE, [stream(kept=30)])
    session.rewind(20)
    assert (session.finished, session.position) == (20, 20)
    assert [each.kept for each in session.streams()] == [20, 20]
    session.check()
    with pytest.raises(AssertionError):
        session.rewind(21)


def test_what_is_left_of_its_time_is_never_negative():
    session = hosted(deadline=Instant(2.5))
    assert session.left_ms(Instant(1.0)) == 1500
    assert session.left_ms(Instant(9.0)) == 0


def test_it_is_busy_while_anything_may_still_change_it():
    session = hosted()
    assert not session.busy
    session.asked = 1
    assert session.busy
    session.asked, session.running = 0, STEP
    assert session.busy


@pytest.mark.parametrize(
    "wrong",
    [
        {"lease": LEASE},
        {"stand": Stand.GOING},
        {"finished": 101},
        {"stand": Stand.GOING, "lease": LEASE, "finished": 5, "position": 4},
        {"waiting_tokens": 3},
        {"sampling": True},
        {"standby": stream()},
    ],
)
def test_what_is_not_of_one_piece_is_noticed(wrong):
    session = hosted()
    session.check()
    for name, value in wrong.items():
        setattr(session, name, value)
    with pytest.raises(AssertionError):
        session.check()


@pytest.mark.parametrize("stand", [Stand.HALTED, Stand.ORPHANED, Stand.GOING])
def test_nothing_waits_for_nothing(stand):
    session = hosted(stand=stand, lease=LEASE)
    session.waiting.append(Work(STEP, None))
    session.waiting_tokens = 3
    with pytest.raises(AssertionError):
        session.check()

from dataclasses import replace

import pytest

from shoal_agent.core.ballots import Memory, Vote
from shoal_agent.core.effects import Persist
from shoal_agent.core.franchise import LISTEN_S, RESTORE_S, SETTLE_S, Franchise
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.votelog import Diary, read
from shoal_protocol.codec import decode_plan
from shoal_protocol.ids import Epoch, Instant
from shoal_protocol.messages import VoteKind
from tests.support.deeds import NAMES, chain, recovery
from tests.support.delegate import DEPLOYMENT

RAWS = chain(5)
PLANS = [decode_plan(raw) for raw in RAWS]
ORDERED = decode_plan(recovery(RAWS[2]).plan)
ME = NAMES[0]
SPOKEN = Memory(0, cast=(Vote(VoteKind.PREVOTE, 0, None),))


def franchise(node=ME):
    return Franchise(DEPLOYMENT, node)


def adopt(right, before, after, now=100.0):
    """A newer plan is adopted; what was persisted."""
    out = Outbox(ME)
    right.advance(before, after, Instant(now))
    right.open_diary(after, out)
    return [read(effect.data) for effect in out.effects if isinstance(effect, Persist)]


def may_vote(right, after, now=100.0):
    return right.diary(after, Instant(now)) is not None


def hear(right, *nodes):
    for node in nodes:
        right.listen(node)


def test_a_new_node_votes_when_others_had_time_to_know_better():
    right = franchise()
    right.meet(Instant(100.0), again=False)
    assert adopt(right, None, PLANS[0]) == [Diary(DEPLOYMENT, Epoch(1))]
    assert not may_vote(right, PLANS[0], 100.0 + SETTLE_S - 0.1)
    assert may_vote(right, PLANS[0], 100.0 + SETTLE_S)


def test_who_is_no_voter_writes_nothing_and_does_not_vote():
    right = franchise(NAMES[3])
    assert adopt(right, None, PLANS[0]) == []
    assert not may_vote(right, PLANS[0])


def test_a_restart_with_its_diary_goes_on_where_it_was():
    right = franchise()
    right.remember(Diary(DEPLOYMENT, Epoch(1), memory=SPOKEN), Instant(0.0))
    right.meet(Instant(100.0), again=True)
    assert right.check(PLANS[0], Outbox(ME))
    assert right.spoke(PLANS[0])
    assert not may_vote(right, PLANS[0], 100.0)
    assert right.diary(PLANS[0], Instant(100.0 + RESTORE_S)).memory == SPOKEN


@pytest.mark.parametrize("diary", [None, Diary(DEPLOYMENT, Epoch(2), memory=SPOKEN)], ids=["none", "of an older epoch"])
def test_a_chain_without_its_diary_bars_from_the_next_epoch_alone(diary):
    right = franchise()
    if diary is not None:
        right.remember(diary, Instant(0.0))
    out = Outbox(ME)
    assert not right.check(PLANS[2], out)
    assert [read(effect.data).barred for effect in out.effects] == [3]
    assert not may_vote(right, PLANS[2])
    assert right.check(PLANS[2], Outbox(ME)), "found out once"
    assert adopt(right, PLANS[2], PLANS[3])[0].barred == 3
    assert may_vote(right, PLANS[3])


def test_the_bar_survives_a_second_restart():
    right = franchise()
    out = Outbox(ME)
    right.check(PLANS[2], out)
    again = franchise()
    again.remember(read(out.effects[-1].data), Instant(0.0))
    assert again.check(PLANS[2], Outbox(ME))
    assert not may_vote(again, PLANS[2])


def test_who_lost_everything_stays_silent_until_it_saw_an_agreement():
    right = franchise()
    right.lose(None, Instant(90.0))
    assert adopt(right, None, PLANS[0])[0].lost
    for before, after in ((0, 1), (1, 2)):
        # Only one voter was heard: this plan is a part of the past that others handed on.
        hear(right, NAMES[1])
        assert adopt(right, PLANS[before], PLANS[after])[0].barred == after + 1
        assert not may_vote(right, PLANS[after])
    hear(right, NAMES[1], NAMES[2])
    adopt(right, PLANS[2], PLANS[3])
    assert may_vote(right, PLANS[3])


def test_who_catches_up_in_one_leap_has_seen_nothing():
    right = franchise()
    right.lose(Epoch(1), Instant(90.0))
    hear(right, NAMES[1], NAMES[2])
    adopt(right, PLANS[0], PLANS[3])
    assert right.barred == 4


def test_strangers_that_speak_are_no_quorum():
    right = franchise()
    right.lose(Epoch(1), Instant(90.0))
    hear(right, NAMES[1], NAMES[3])
    adopt(right, PLANS[0], PLANS[1])
    assert right.barred == 2


@pytest.mark.parametrize(("after_s", "free"), [(LISTEN_S, True), (LISTEN_S - 1, False)])
def test_an_order_frees_who_lost_everything_if_it_is_no_part_of_the_past(after_s, free):
    """Else nobody could vote after the very recovery that mass amnesia asked for."""
    right = franchise()
    right.lose(Epoch(3), Instant(90.0))
    adopt(right, PLANS[2], ORDERED, 90.0 + after_s)
    assert may_vote(right, ORDERED) == free


def test_being_lost_survives_a_restart():
    right = franchise()
    right.remember(Diary(DEPLOYMENT, Epoch(1), Epoch(1), lost=True), Instant(50.0))
    adopt(right, PLANS[0], PLANS[1])
    assert not may_vote(right, PLANS[1])


def test_a_diary_of_a_later_epoch_is_neither_lost_nor_used():
    """The chain was lost, not the diary."""
    right = franchise()
    diary = Diary(DEPLOYMENT, Epoch(3), memory=SPOKEN)
    right.remember(diary, Instant(0.0))
    assert adopt(right, None, PLANS[0]) == adopt(right, PLANS[0], PLANS[1]) == []
    assert not may_vote(right, PLANS[1])
    assert adopt(right, PLANS[1], PLANS[2]) == []
    assert right.diary(PLANS[2], Instant(100.0)) == replace(diary)

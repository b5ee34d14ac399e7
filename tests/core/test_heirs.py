"""Sessions that move to another epoch, their KV first."""

from dataclasses import replace

import pytest

from shoal_agent.core.events import PeerLost
from shoal_agent.core.kv_stream import NEAR_TOKENS
from shoal_protocol.headers import (
    HandedOver,
    HandOver,
    KvRows,
    PathBroken,
    RefusalCode,
    SessionOpened,
)
from shoal_protocol.ids import Epoch, NodeId, SessionId
from tests.support.stand import SESSION, TOY, Rider, Stand
from tests.support.toy import toy_tokens


def tokens(rider):
    return toy_tokens(rider.prompt, 8, rider.length)


def moving(hosts, *, stages=2, length=60, run_s=0.02, backed=True):
    """A session that goes on while the next epoch, of ``hosts``, is opened."""
    stand = Stand(stages, backed=backed)
    rider = Rider(stand, length=length)
    for cell in stand.world.cells.values():
        cell.run_s = run_s
    rider.lay()
    plan = stand.adopt(hosts(stand))
    return stand, rider, plan


MOVES = {
    "swapped": lambda stand: stand.hosts[::-1],
    "the same": lambda stand: stand.hosts,
    "finer": lambda stand: [stand.hosts[1], stand.stranger, stand.hosts[0]],
    "together": lambda stand: [stand.stranger],
    "to one of them": lambda stand: [stand.first],
}


@pytest.mark.parametrize("hosts", MOVES.values(), ids=MOVES)
def test_a_session_moves_with_its_kv(hosts):
    stand, rider, plan = moving(hosts)
    rider.hand_over(plan, last=False)
    stand.world.run_until(lambda: len(rider.handed(last=False)) == 2)
    assert all(said.refusal is None for said in rider.handed(last=False))
    rider.hand_over(plan, last=True)
    stand.world.run_until(lambda: len(rider.handed(last=True)) == 2)
    reached = {said.stage: said.position for said in rider.handed(last=True)}
    assert min(reached.values()) >= len(rider.tokens) - 1
    rider.lay(epoch=1)
    stand.world.run_until(lambda: rider.going)
    assert min(resume.position for resume in rider.resumed[-1]) >= len(rider.tokens) - 2
    rider.close(epoch=0)
    stand.world.run_until(lambda: rider.done)
    assert stand.tenure(stand.first).sessions == 0
    assert rider.finish() == tokens(rider)


def test_a_session_goes_on_while_its_kv_goes_ahead():
    stand, rider, plan = moving(MOVES["swapped"], length=80)
    rider.hand_over(plan, last=False)
    stand.world.run_until(lambda: len(rider.answer) == 60)
    assert len(rider.handed(last=False)) == 2, "it is said once"
    shadows = [hosted for hosted in stand.cell().node._host._holdings.all() if hosted.plan.epoch == 1]
    assert shadows[0].finished >= 60 - NEAR_TOKENS
    assert rider.finish() == tokens(rider)


def test_a_move_that_is_called_off_costs_nothing():
    stand, rider, plan = moving(MOVES["swapped"])
    rider.hand_over(plan, last=True)
    stand.world.run_until(lambda: len(rider.handed(last=True)) == 2)
    rider.holding = False
    stand.world.run(0.2)
    rider.feed(len(rider.tokens) - 1, len(rider.tokens))
    assert rider.finish() == tokens(rider)


def test_a_move_can_be_called_off_by_a_later_attempt():
    stand, rider, plan = moving(MOVES["swapped"])
    rider.hand_over(plan, last=True)
    stand.world.run(0.05)
    rider.lay()
    assert rider.finish() == tokens(rider)


def test_what_is_left_of_a_broken_route_can_be_moved():
    stand, rider, plan = moving(lambda stand: [stand.stranger], backed=False)
    stand.world.kill(stand.last)
    stand.world.run(0.1)
    assert len(stand.heard(PathBroken)) == 1
    rider.hand_over(plan, last=True)
    stand.world.run_until(lambda: bool(rider.handed(last=True)))
    (said,) = rider.handed(last=True)
    assert (said.stage, said.refusal) == (0, None)
    rider.lay(epoch=1)
    assert rider.finish() == tokens(rider)


def test_a_shadow_can_be_moved_too():
    stand, rider, plan = moving(lambda stand: [stand.stranger])
    stand.world.run_until(lambda: len(rider.answer) >= 30)
    stand.world.kill(stand.first)
    stand.world.run(0.1)
    assert stand.shadows(stand.last) == 1
    route = (stand.stranger,)
    for stage in (0, 1):
        asked = HandOver(TOY, Epoch(0), SESSION, stage, rider.attempt, plan.epoch, route, last=True)
        stand.say(asked, to=stand.last)
    stand.world.run_until(lambda: len(rider.handed(last=True)) == 2)
    rider.lay(epoch=1)
    stand.world.run_until(lambda: rider.going)
    assert rider.resumed[-1][0].position >= 16
    assert rider.finish() == tokens(rider)


@pytest.mark.parametrize("orphaned", [False, True], ids=["shadow", "orphan"])
@pytest.mark.parametrize("zone", ["home", "elsewhere"])
def test_what_nobody_serves_is_moved_for_an_ingress_of_its_zone_only(orphaned, zone):
    stand, rider, plan = moving(lambda stand: [stand.first])
    stand.world.run_until(lambda: len(rider.answer) >= 30)
    holder, stage = (stand.last, 1) if orphaned else (stand.last, 0)
    cell = stand.cell(holder)
    cell.node._tables.zones._zones[stand.stranger] = zone
    if orphaned:
        cell.post(PeerLost(stand.by_hand, "gone"))
    asked = HandOver(TOY, Epoch(0), SESSION, stage, rider.attempt, plan.epoch, (stand.first,), last=False)
    dropped = cell.counts["frames_dropped", "hand_over"]
    stand.say(asked, to=holder, by=stand.stranger)
    stand.world.run(0.3)
    told = stand.heard(HandedOver, stand.stranger)
    if zone == "home":
        assert [said.refusal for said in told] == [None]
    else:
        assert not told
        assert cell.counts["frames_dropped", "hand_over"] == dropped + 1
    rider.lay()
    assert rider.finish() == tokens(rider)


def test_a_later_wish_replaces_the_one_before():
    stand, rider, plan = moving(MOVES["swapped"])
    other = stand.adopt([stand.stranger])
    rider.hand_over(plan, last=False)
    stand.world.run_until(lambda: len(rider.handed(last=False)) == 2)
    rider.hand_over(other, last=False)
    stand.world.run_until(lambda: len(rider.handed(last=False)) == 4)
    held = stand.cell(stand.stranger).node._host._holdings.all()
    assert [hosted.plan.epoch for hosted in held] == [2]
    assert rider.finish() == tokens(rider)


def test_a_wish_said_again_is_answered_again():
    stand, rider, plan = moving(MOVES["together"])
    for count in (2, 4):
        rider.hand_over(plan, last=False)
        stand.world.run_until(lambda: len(rider.handed(last=False)) == count)  # noqa: B023 - it runs at once
    assert rider.finish() == tokens(rider)


def test_an_heir_that_refuses_ends_the_move_and_not_the_session():
    stand, rider, plan = moving(MOVES["together"])
    stand.tenure(stand.stranger, 1).held.clear()
    rider.hand_over(plan, last=False)
    stand.world.run_until(lambda: len(rider.handed(last=False)) == 2)
    assert {said.refusal for said in rider.handed(last=False)} == {RefusalCode.NOT_HOSTED}
    assert rider.finish() == tokens(rider)


def test_an_heir_that_is_lost_ends_the_move_and_not_the_session():
    stand, rider, plan = moving(MOVES["together"])
    stand.world.loses = lambda header: isinstance(header, KvRows)
    rider.hand_over(plan, last=False)
    stand.world.run(0.1)
    stand.world.kill(stand.stranger)
    stand.world.run_until(lambda: len(rider.handed(last=False)) == 2)
    assert {said.refusal for said in rider.handed(last=False)} == {RefusalCode.STAGE_FAILED}
    stand.world.loses = lambda header: False
    assert rider.finish() == tokens(rider)


ASKED = HandOver(TOY, Epoch(0), SESSION, 0, 0, Epoch(1), (), last=False)
NOWHERE = {
    "a session nobody knows": ({"session": SessionId(b"x" * 16)}, RefusalCode.UNKNOWN_SESSION),
    "a stage that is not here": ({"stage": 63}, RefusalCode.UNKNOWN_SESSION),
    "an older attempt": ({"attempt": 3}, RefusalCode.OLD_ATTEMPT),
    "an epoch nobody knows": ({"target_epoch": Epoch(9)}, RefusalCode.STALE_EPOCH),
    "the same epoch": ({"target_epoch": Epoch(0)}, RefusalCode.NOT_HOSTED),
    "too short a route": ({"route": ()}, RefusalCode.NOT_HOSTED),
    "a route to strangers": ({"route": (NodeId("x" * 32), NodeId("y" * 32))}, RefusalCode.NOT_HOSTED),
}


@pytest.mark.parametrize(("change", "code"), NOWHERE.values(), ids=NOWHERE)
def test_a_move_to_nowhere_is_refused_and_counted(change, code):
    stand, rider, plan = moving(MOVES["swapped"])
    good = replace(ASKED, route=tuple(stage.node for stage in plan.stages))
    stand.say(replace(good, **change))
    (said,) = [header for header in stand.heard(HandedOver) if header.refusal is not None]
    assert (said.refusal, said.position) == (code, 0)
    assert stand.cell().counts["kv_rows_refused", code.name] == 1
    assert rider.finish() == tokens(rider)


def test_only_the_ingress_moves_a_session():
    stand, rider, plan = moving(MOVES["swapped"])
    good = replace(ASKED, route=tuple(stage.node for stage in plan.stages))
    stand.say(good, by=stand.stranger)
    assert stand.cell().counts["frames_dropped", "hand_over"] == 1
    assert not stand.heard(HandedOver, stand.stranger)
    assert rider.finish() == tokens(rider)


def test_a_stage_without_state_has_nothing_to_hand_over():
    stand = Stand()
    facts = stand.world.facts
    blocks = tuple(replace(block, kv_bytes_per_token=64 * (index < 4)) for index, block in enumerate(facts.blocks))
    for cell in stand.world.cells.values():
        cell.node._tables.models[facts.model] = replace(facts, blocks=blocks)
    plan = stand.adopt([stand.stranger])
    stand.open_both()
    stand.say(replace(ASKED, stage=1, route=(stand.stranger,), last=True), to=stand.last)
    assert stand.heard(HandedOver) == [HandedOver(SESSION, 1, 0, 0, last=True, refusal=None)]
    assert plan.epoch == 1
    assert len(stand.heard(SessionOpened)) == 2
    stand.close()
    stand.world.check_idle()

from random import Random

import pytest

from shoal_agent.sim import machine_faults
from shoal_agent.sim.play import play
from shoal_agent.sim.settings import TOY
from shoal_protocol.ids import Epoch
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.messages import VoteCast, VoteKind
from tests.support.sim import judged

VOTE = VoteCast(TOY, Epoch(1), 0, VoteKind.PREVOTE, None, "", bytes(64))


def test_a_host_that_is_lost_never_comes_back_and_only_one_is():
    world, judge = judged(4, 2)
    for seed in range(5):
        machine_faults.host_loss(world, judge, Random(seed))()
    world.run(1.0)
    assert len(world.lost) == 1
    assert not world.machines[world.lost[0]].alive
    machine_faults.amnesia(world, judge, Random(1))()
    assert len(world.living()) == 3


def test_one_node_may_forget_and_then_no_host_is_lost():
    world, judge = judged(4, 2)
    for seed in range(20):
        machine_faults.amnesia(world, judge, Random(seed))()
    forgetful = [machine for machine in world.living() if machine.boots > 1]
    assert len(forgetful) == 1
    assert forgetful[0].boots > 2


def test_a_lost_quorum_is_replaced_by_operators():
    world, judge = judged(4, 2)
    machine_faults.voters_lost(world, judge, Random(1))
    assert len(world.lost) == 2
    assert not world.may_fail(world.names[0])
    world.run(1.0)
    world.recover(judge.agreed.newest(TOY))
    plan = judge.agreed.newest(TOY)
    assert plan.epoch == EPOCH_LEAP
    living = [machine.name for machine in world.living()]
    assert {stage.node for stage in plan.stages} <= set(living)


def test_nobody_whose_zone_may_host_is_not_all_that_is_left():
    """Found by ``shoal sim --scenario recovery --seeds 2008 --nodes 3``: operators had nobody to name."""
    outcome = play("recovery", 2008, 3)
    assert outcome.violations == ()


def test_the_only_one_who_could_host_is_asked_again_when_it_failed():
    """Found by ``shoal sim --scenario staging-failure --seeds 2088 --nodes 3``: its disk was full for a moment."""
    assert play("staging-failure", 2088, 3).violations == ()


def test_liars_leave_no_room_for_other_failures():
    world, _ = judged(5, 2, faulty=1, liars=1)
    assert not any(world.may_fail(name) for name in world.names)
    assert not world.may_break_quorum()


def test_a_machine_that_was_not_there_joins_and_stays():
    world, judge = judged(3, 2, late=1)
    newcomer = world.machines[world.names[-1]]
    assert not newcomer.alive
    machine_faults.join(world, judge, Random(1))()
    assert newcomer.alive
    assert newcomer.boots == 1


def test_a_restart_rolls_over_everybody_once():
    world, judge = judged(3, 2)
    end = machine_faults.rolling_restart(world, judge, Random(1))
    world.run(8.0)
    end()
    assert [machine.boots for machine in world.machines.values()] == [2, 2, 2]
    assert len(world.living()) == 3


def test_who_speaks_about_plans_is_struck_and_comes_back():
    world, judge = judged(3, 2)
    end = machine_faults.voter_crash(world, judge, Random(1))
    (trip,) = world.tripwires
    said = world.said(world.machines[world.names[0]].setup.sealer, VOTE, 10**6, 0)
    for _ in range(20):
        trip(world.names[0], said)
    world.run(0.01)
    assert not world.machines[world.names[0]].alive
    end()  # what it says about the repair would strike it again
    assert world.tripwires == []
    world.run(3.0)
    assert world.machines[world.names[0]].alive


@pytest.mark.parametrize(
    ("fault", "name", "quiet"),
    [("slow_disk", "disk_s", 0.0), ("slow_host", "slower", 1.0), ("staging_failure", "refuses_blocks", False)],
)
def test_what_slows_or_stops_a_machine_ends(fault, name, quiet):
    world, judge = judged(3, 2)
    end = getattr(machine_faults, fault)(world, judge, Random(1))
    assert sum(getattr(machine, name) != quiet for machine in world.machines.values()) == 1
    end()
    assert all(getattr(machine, name) == quiet for machine in world.machines.values())


def test_a_stopped_agent_says_goodbye_and_comes_back():
    world, judge = judged(3, 2)
    for patience_s in (0.0, 60.0):
        end = machine_faults.leave(world, judge, Random(1))
        world.run(patience_s)
        assert len(world.living()) == (3 if patience_s == 0.0 else 2)
        end()
        assert len(world.living()) == 3
    assert max(machine.boots for machine in world.machines.values()) == 3


def test_a_paused_process_of_another_life_is_not_resumed():
    world, judge = judged(3, 2)
    end = machine_faults.pause(world, judge, Random(1))
    (paused,) = [machine for machine in world.living() if machine.paused]
    world.crash(paused.name)
    world.boot(paused.name)
    world.pause(paused.name)
    end()
    assert paused.paused

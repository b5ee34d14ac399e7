"""What the core gathers. How it reads: tests/shell/test_explanation.py and tests/cli/test_explain.py."""

from dataclasses import replace

from shoal_agent.core.crowding import price
from shoal_agent.core.explain import Explanation
from shoal_protocol.ids import DeploymentId
from shoal_protocol.messages import Terms
from tests.support.world import TOY, World, world_of


def test_the_only_deployment_need_not_be_named():
    world = world_of(2)
    node = world.cells[world.names[0]].node
    told = node.explain(None, None, world.now)
    assert isinstance(told, Explanation)
    assert told == node.explain(TOY, 0, world.now)
    assert (told.node, told.deployment, told.plan.epoch) == (world.names[0], TOY, 0)
    assert told.before is None
    assert told.decided is None
    assert told.outcome.serving
    assert told.story
    assert told.current == price(told.problem, told.plan.stages)


def test_several_deployments_have_to_be_named():
    world = World(2)
    world.start()
    world.announce(world.plan(world.names))
    world.announce(replace(world.plan(world.names), deployment=DeploymentId("other")))
    world.run(1)
    node = world.cells[world.names[0]].node
    assert node.explain(None, None, world.now) is None
    assert node.explain(DeploymentId("other"), None, world.now).deployment == "other"


def test_before_there_is_a_plan_there_is_nothing_to_explain():
    world = World(1)
    world.start()
    assert world.cells[world.names[0]].node.explain(None, None, world.now) is None


def test_asking_changes_nothing():
    world = world_of(2)
    cell = world.cells[world.names[0]]
    before = cell.node.snapshot(world.now), cell.node.deadline(), cell.node.story().told
    cell.node.explain(None, None, world.now)
    assert (cell.node.snapshot(world.now), cell.node.deadline(), cell.node.story().told) == before


def test_standbys_are_told_apart_by_whether_they_are_open():
    world = World(3)
    world.start()
    one, two, three = world.names
    world.cells[three].load_s = 2.0
    world.deploy([one, two], standbys=((two, three), (one,)))
    world.run(1.0)
    told = world.cells[one].node.explain(None, None, world.now)
    assert told.outcome.open == ((two,), (one,))
    assert [stage.standbys for stage in told.account.backing.stages] == [(two, three), (one, three)]
    assert told.account.backing.lacks == (), "there is room, though the plan names fewer"
    world.run(2.0)
    world.kill(two)
    world.run(4.0)
    assert world.cells[one].node.explain(None, None, world.now).outcome.open == ((three,), (one,))


def test_what_nobody_stands_by_for_is_explained():
    world = World(1)
    world.start()
    world.announce(replace(world.plan(world.names), terms=Terms()))
    world.run(1.0)
    (lack,) = world.cells[world.names[0]].node.explain(None, None, world.now).account.backing.lacks
    assert (lack.stage, lack.why) == (0, "there is no other node")


def test_of_the_newest_plan_it_tells_what_doors_and_services_did_too():
    world = world_of(2)
    cell = world.cells[world.names[0]]
    plain = cell.node.explain(None, None, world.now).story
    for subject in ("pipeline:compare", "nothing of ours"):
        cell.node.story().tell(world.now, subject, "refuses")
    more = cell.node.explain(None, None, world.now).story
    assert [entry.subject for entry in more if entry not in plain] == ["pipeline:compare"]

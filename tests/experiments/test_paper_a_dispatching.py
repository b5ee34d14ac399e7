import pytest

from shoal_agent.experiments.paper_a.dispatching import Eyes, Gateways, Sight
from shoal_agent.experiments.paper_a.routes import Routes
from tests.support.paper_a import setting, world


def scene(eyes):
    """A world with stages waiting, and the gateways that look at it."""
    one, base = world(), setting()
    gateways = Gateways(base.scenario, Routes(base.scenario, base.placement), 3.0, eyes, 1)
    while not one.waiting:
        one._open()
        gateways.hear(one)
        one.slot += 1
    one.slot -= 1
    return one, gateways


@pytest.mark.parametrize("sight", Sight)
def test_every_sight_finds_a_node_that_can_take_it(sight):
    one, gateways = scene(Eyes(sight))
    for stage in one.waiting:
        node = gateways.choose(one, stage)
        assert node is not None
        assert one.fits(node, stage.service)


def test_alone_means_the_own_machine():
    one, gateways = scene(Eyes(Sight.ALONE))
    assert all(gateways.choose(one, stage) == stage.task.gateway for stage in one.waiting)


def test_a_busy_node_is_avoided_by_whoever_sees_it():
    one, gateways = scene(Eyes(Sight.ALL))
    stage = one.waiting[0]
    first = gateways.choose(one, stage)
    pool = one.pool(first, stage.service.number)
    one.boot(first, stage.service)
    stage.left_mb = 1e6
    pool.queue.append(stage)
    assert gateways.choose(one, stage) != first


def test_what_was_sent_counts_until_a_digest_does():
    one, gateways = scene(Eyes(Sight.TOLD, age_slots=5))
    stage = one.waiting[0]
    chosen = [gateways.choose(one, stage) for _ in range(400)]
    assert len(set(chosen)) > 1
    one, forgetful = scene(Eyes(Sight.TOLD, age_slots=5, memory=False))
    assert len({forgetful.choose(one, one.waiting[0]) for _ in range(400)}) == 1


def test_a_task_is_hopeless_once_no_way_is_short_enough():
    one, gateways = scene(Eyes())
    stage = one.waiting[0]
    assert not gateways.hopeless(one, stage)
    one.slot = int(stage.task.due_ms)
    assert gateways.hopeless(one, stage)

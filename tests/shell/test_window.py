"""What the API and the metrics see of a node, from not knowing any plan to serving one."""

from shoal_agent.shell.blocks import Blocks
from shoal_agent.shell.clock import Clock
from shoal_agent.shell.engine import Engine
from shoal_agent.shell.tensors import Tensors
from shoal_agent.shell.window import Window
from tests.support.world import CLUSTER, TOY, World, world_of


class At(Clock):
    """The world's time."""

    def __init__(self, world):
        super().__init__()
        self._world = world

    def now(self):
        return self._world.now


async def look(world, name, store):
    blocks = Blocks(store, lambda event: None)
    engine = Engine(blocks, Tensors(), lambda event: None)
    try:
        return Window(world.cells[name].node, At(world), CLUSTER, engine, Tensors())
    finally:
        await engine.close()
        await blocks.close()


async def test_without_a_plan_nothing_is_ready_and_the_reasons_say_so(tiny_store):
    world = World(2)
    window = await look(world, world.names[0], tiny_store)
    assert window.models() == ()
    assert not window.ready().ready
    assert set(window.ready().reasons) == {"no broker is connected", "no deployment is known"}
    assert not window.readings().ready


async def test_a_served_model_is_listed_with_its_epoch_and_keeps_its_birthday(tiny_store):
    world = world_of(2)
    window = await look(world, world.names[2], tiny_store)
    (model,) = window.models()
    assert (model.id, model.epoch, model.context_tokens_max) == (TOY, 0, world.facts.context_tokens_max)
    assert window.models() == (model,)
    assert window.ready().ready
    assert window.readings().nodes == 3


async def test_a_plan_whose_host_loads_is_known_and_not_ready(tiny_store):
    world = World(2)
    world.start()
    world.cells[world.names[1]].load_s = 1000.0
    world.announce(world.plan(world.names))
    world.run(1.0)
    window = await look(world, world.names[0], tiny_store)
    assert [model.id for model in window.models()] == [TOY]
    assert window.ready().reasons == ("no deployment has all its stages ready",)


async def test_addresses_come_from_the_records_of_the_nodes_themselves(tiny_store):
    world = world_of(2)
    window = await look(world, world.names[0], tiny_store)
    endpoint = window.resolve(world.names[1])
    assert endpoint is not None
    assert endpoint.port == 1000
    assert window.resolve("a" * 32) is None


async def test_a_plan_is_explained_with_the_planners_answer(tiny_store):
    world = world_of(2)
    window = await look(world, world.names[0], tiny_store)
    told = await window.explain(None, None)
    assert (told["deployment"], told["epoch"]) == (TOY, 0)
    assert told["now"]["best"]["score_us"] <= told["now"]["score_us"]
    assert await window.explain(TOY, 7) is None

"""`/shoal/v1/state` is an interface: its keys, and that everything in it is JSON."""

import json

from shoal_agent.core.events import PeerRelayed
from shoal_agent.shell.state import state_json
from tests.support.world import CLUSTER, world_of


def told(world, name):
    state = state_json(world.cells[name].node.snapshot(world.now), CLUSTER)
    return json.loads(json.dumps(state))


def test_the_state_tells_who_is_here_and_who_holds_what():
    world = world_of(2)
    state = told(world, world.names[2])
    assert state["node"] == world.names[2]
    assert {node["node"] for node in state["nodes"]} == set(world.names)
    assert all(node["alive"] for node in state["nodes"])
    (deployment,) = state["deployments"]
    assert deployment["phase"] == "SERVING"
    assert [(stage["node"], stage["ready"]) for stage in deployment["stages"]] == [
        (world.names[0], True),
        (world.names[1], True),
    ]
    assert deployment["stages"][0]["first_block"] == 0
    assert deployment["stages"][1]["last_block"] == len(world.facts.blocks) - 1


def test_a_silent_node_is_not_alive_and_a_stage_that_waits_is_not_ready():
    world = world_of(2)
    gone = world.names[1]
    world.cells[gone].dead = True
    world.run(10.0)
    state = told(world, world.names[0])
    (lost,) = [node for node in state["nodes"] if node["node"] == gone]
    assert not lost["alive"]
    assert lost["silent_s"] > 5


def test_links_are_told_as_they_are_measured_and_which_way_they_go():
    world = world_of(2)
    here, there = world.names[:2]
    world.run(5.0)
    links = {node["node"]: node["link"] for node in told(world, here)["nodes"]}
    assert links[here] == {"rtt_ms": None, "relayed": False}
    assert links[there]["rtt_ms"] > 0
    assert not links[there]["relayed"]
    world.cells[here].post(PeerRelayed(there, relayed=True))
    world.run(2.0)
    links = {node["node"]: node["link"] for node in told(world, here)["nodes"]}
    assert links[there]["relayed"]
    assert links[there]["rtt_ms"] > 0, "measured anew"


def test_temperature_is_null_where_there_is_no_sensor():
    world = world_of(1)
    state = told(world, world.names[0])
    assert {node["load"]["temperature_celsius"] for node in state["nodes"]} == {None}
    assert state["rejected"] == {}

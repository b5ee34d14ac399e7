"""News, drift and noise."""

from dataclasses import replace

import pytest

from shoal_agent.core.portrait import RTT_STEP_US, has_drifted, has_news, paced
from shoal_protocol.ids import DeploymentId, NodeId
from shoal_protocol.limits import BYTES_PER_S_MAX
from shoal_protocol.measured import DemandMeasured, LinkMeasured
from shoal_protocol.messages import Capacity, Endpoint, Load, NodePhase, NodeState

GB = 10**9
ASKED = DemandMeasured(DeploymentId("chat"), 0, 1)
PEER, OTHER = NodeId("a" * 32), NodeId("b" * 32)
TOLD = NodeState(
    version=3,
    phase=NodePhase.READY,
    data=Endpoint("127.0.0.1", 1),
    api="",
    capacity=Capacity(4, 8 * GB, 10 * GB, 100 * GB, GB, ("CPU",)),
    load=Load(100, 5 * GB, 40_000, 2, GB),
    hosted=(),
    models=(),
    services=(),
    software="test",
    links=(LinkMeasured(PEER, 800),),
)


def loaded(**changes: int | None) -> NodeState:
    return replace(TOLD, load=replace(TOLD.load, **changes))


def linked(*links: tuple[NodeId, int]) -> NodeState:
    return replace(TOLD, links=tuple(LinkMeasured(peer, rtt_us) for peer, rtt_us in links))


@pytest.mark.parametrize(
    "state",
    [
        replace(TOLD, phase=NodePhase.DRAINING),
        replace(TOLD, data=Endpoint("127.0.0.2", 1)),
        replace(TOLD, api="http://x"),
        replace(TOLD, capacity=replace(TOLD.capacity, memory_bytes=7 * GB)),
        replace(TOLD, capacity=replace(TOLD.capacity, speed_macs_per_s=2 * GB)),
        replace(TOLD, services=("sampler",)),
        replace(TOLD, software="later"),
        replace(TOLD, locked=True),
    ],
)
def test_what_others_may_have_to_act_on_is_news(state: NodeState):
    assert has_news(TOLD, state)
    assert has_news(state, TOLD)


@pytest.mark.parametrize(
    "state",
    [
        replace(TOLD, version=4),
        loaded(cpu_permille=900, session_count=7),
        replace(TOLD, capacity=replace(TOLD.capacity, disk_free_bytes=1)),
        replace(TOLD, stage_permille=2000),
        linked((OTHER, 10)),
        replace(TOLD, demands=(ASKED,)),
    ],
)
def test_what_moves_all_the_time_is_no_news(state: NodeState):
    assert not has_news(TOLD, state)


@pytest.mark.parametrize(
    ("state", "drifted"),
    [
        (TOLD, False),
        (loaded(cpu_permille=149), False),
        (loaded(cpu_permille=150), True),
        (loaded(cpu_permille=50), True),
        (loaded(foreign_permille=50), True),
        (loaded(memory_available_bytes=5 * GB - GB // 2 + 1), False),
        (loaded(memory_available_bytes=5 * GB - GB // 2), True),
        (loaded(kv_bytes=GB + 4 * GB // 10), True),
        (loaded(kv_bytes=GB + 3 * GB // 10), False),
        (loaded(session_count=3), True),
        (loaded(moved_owed_s=29), False),
        (loaded(moved_owed_s=30), True),
        (loaded(temperature_millicelsius=44_999), False),
        (loaded(temperature_millicelsius=45_000), True),
        (loaded(temperature_millicelsius=None), False),
        (replace(TOLD, capacity=replace(TOLD.capacity, disk_free_bytes=96 * GB)), False),
        (replace(TOLD, capacity=replace(TOLD.capacity, disk_free_bytes=95 * GB)), True),
        (replace(TOLD, stage_permille=1050), True),
        (linked((PEER, 800 + RTT_STEP_US - 1)), False),
        (linked((PEER, 800 + RTT_STEP_US)), True),
        (linked(), True),
        (linked((OTHER, 800)), True),
        (replace(TOLD, links=(LinkMeasured(PEER, 800, relayed=True),)), True),
        (replace(TOLD, demands=(ASKED,)), True),
    ],
)
def test_a_reading_has_drifted_when_it_is_a_step_away_from_what_was_told(state: NodeState, drifted: bool):
    assert has_drifted(TOLD, state) is drifted


def test_a_reading_on_the_edge_of_a_step_does_not_flicker():
    """Rounding both to steps would see a change each time."""
    readings = [loaded(cpu_permille=value) for value in (124, 126, 124, 126)]
    assert not any(has_drifted(TOLD, reading) for reading in readings)


@pytest.mark.parametrize(("rate", "drifted"), [(0, False), (8_000, True)])
def test_what_a_link_carries_is_told_when_it_is_known(rate: int, drifted: bool):
    state = replace(TOLD, links=paced(TOLD.links, ((OTHER, 7), (PEER, rate))))
    assert state.links[0].bytes_per_s == rate
    assert has_drifted(TOLD, state) is drifted


@pytest.mark.parametrize(
    ("rate", "drifted"), [(9_000, False), (7_000, False), (10_001, True), (5_999, True), (0, True)]
)
def test_what_a_link_carries_drifts_by_a_quarter(rate: int, drifted: bool):
    known = replace(TOLD, links=paced(TOLD.links, ((PEER, 8_000),)))
    assert has_drifted(known, replace(TOLD, links=paced(TOLD.links, ((PEER, rate),)))) is drifted


def test_no_more_is_told_than_a_field_holds():
    assert paced(TOLD.links, ((PEER, 10**30),))[0].bytes_per_s == BYTES_PER_S_MAX
    assert paced(TOLD.links, ((PEER, -5),))[0].bytes_per_s == 0


def test_a_long_link_drifts_by_its_own_measure():
    far, farther = linked((PEER, 100_000)), linked((PEER, 100_000 + 10 * RTT_STEP_US))
    assert not has_drifted(far, farther)
    assert has_drifted(far, linked((PEER, 150_000)))

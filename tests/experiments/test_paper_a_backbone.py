import math
from dataclasses import replace

from shoal_agent.core.backbone_audit import verify
from shoal_agent.experiments.paper_a import backbone, tables
from shoal_agent.experiments.paper_a.affinity import affinity
from shoal_agent.experiments.paper_a.regimes import REGIMES, RESERVE
from tests.support.paper_a import setting

TIGHT = REGIMES["R2"]


def test_the_placement_is_one_that_every_voter_would_accept():
    one = setting()
    counts = tuple(tuple(one.placement.get((v, m), 0) for v in one.scenario.nodes) for m in tables.CORES)
    assert not verify(backbone.problem(one.scenario, TIGHT), counts, None)


def test_demand_hosts_and_reserve_are_kept():
    one = setting(load=2.0)
    known = affinity(one.scenario, RESERVE)
    for number in tables.CORES:
        hosts = {v: c for (v, m), c in one.placement.items() if m == number}
        assert len(hosts) >= 2
        assert sum(hosts.values()) >= TIGHT.headroom * known.busy[number] - 0.01
    for node, room in enumerate(one.scenario.rooms):
        for k, r in enumerate(room):
            taken = sum(c * one.scenario.services[m].needs[k] for (v, m), c in one.placement.items() if v == node)
            assert taken <= (1 - RESERVE) * r + 1e-6


def test_demand_to_the_letter_is_an_instance_for_every_stage_of_a_slot():
    one = setting(regime="R1-literal")
    for number in tables.CORES:
        service = one.scenario.services[number]
        came = sum(u.tasks_per_ms for u in one.scenario.users if number in one.scenario.pipelines[u.pipeline].parents)
        spread = backbone.least_loaded(one.scenario, REGIMES["R1-literal"])
        assert spread is not None
        for placement in (one.placement, spread):
            count = sum(c for (_, m), c in placement.items() if m == number)
            assert count >= came * math.ceil(service.run_ms) - 0.01


def test_a_system_without_room_has_no_placement():
    tiny = replace(setting().scenario, rooms=tuple((1.0, 1.0, 1.0, 1.0) for _ in setting().scenario.rooms))
    assert backbone.place(tiny, TIGHT) is None
    assert backbone.least_loaded(tiny, TIGHT) is None


def test_least_loaded_places_as_many_but_elsewhere():
    one = setting()
    spread = backbone.least_loaded(one.scenario, TIGHT)
    assert spread is not None
    assert {m for _, m in spread} == set(tables.CORES)
    assert spread != one.placement

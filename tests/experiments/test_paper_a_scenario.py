import math

from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.regimes import REGIMES
from shoal_agent.experiments.paper_a.scenario import sample

TIGHT = REGIMES["R2"]


def test_the_same_seed_is_the_same_system_and_another_is_not():
    assert sample(TIGHT, 2.0, 3) == sample(TIGHT, 2.0, 3)
    assert sample(TIGHT, 2.0, 3) != sample(TIGHT, 2.0, 4)


def test_load_changes_rates_alone():
    one, two = sample(TIGHT, 1.0, 3), sample(TIGHT, 2.0, 3)
    assert (one.services, one.rooms, one.ms_per_mb, one.pipelines) == (
        two.services,
        two.rooms,
        two.ms_per_mb,
        two.pipelines,
    )
    for a, b in zip(one.users, two.users, strict=True):
        assert b.tasks_per_ms == 2 * a.tasks_per_ms


def test_everything_lies_within_table_i():
    for seed in range(5):
        one = sample(TIGHT, 1.0, seed)
        for service in one.services.values():
            work = tables.CORE_WORK_MB if service.core else tables.LIGHT_WORK_MB
            assert work[0] <= service.work_mb <= work[1]
            assert service.core or math.isclose(service.rate, service.shape * service.scale)
        for pipeline in one.pipelines:
            assert 10 <= pipeline.deadline_ms <= 20
        for user in one.users:
            assert user.gateway == tables.DEVICES + tables.SERVER_OF[user.device]


def test_ways_are_shortest_symmetric_and_reach_everybody():
    ms = sample(TIGHT, 1.0, 0).ms_per_mb
    nodes = range(len(ms))
    for a in nodes:
        assert ms[a][a] == 0
        for b in nodes:
            assert math.isclose(ms[a][b], ms[b][a])
            assert math.isfinite(ms[a][b])
            assert all(ms[a][b] <= ms[a][c] + ms[c][b] + 1e-9 for c in nodes)

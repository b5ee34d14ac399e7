from shoal_agent.experiments.paper_a.digests import Digests, look
from shoal_agent.experiments.paper_a.world import Stage
from tests.support.paper_a import world


def test_a_digest_is_as_old_as_gossip_makes_it():
    one, fresh, stale = world(), Digests(0), Digests(2)
    service = one.scenario.services[1]
    assert fresh.of(7, 1) is None
    for _ in range(4):
        fresh.tell(one)
        stale.tell(one)
        one.boot(7, service)
    seen = [digests.of(7, 1) for digests in (fresh, stale)]
    assert [state.instances for state in seen if state] == [3, 1]


def test_a_look_counts_queued_and_started_work_and_free_cores():
    one = world()
    one._open()
    task = one.tasks[0] if one.tasks else None
    assert task is not None
    service = one.scenario.services[1]
    instance = one.boot(7, service)
    one.pool(7, 1).queue.append(Stage(task, service, 0.0, 7, 0.0, 0.75))
    instance.jobs.append(Stage(task, service, 0.0, 7, 0.0, 0.25))
    state = look(one, 7, service)
    assert (state.instances, state.work_mb) == (1, 1.0)
    number = next(m for m, hosts in one.cores.items() if hosts)
    node = min(one.cores[number])
    one.cores[number][node][:] = [4.0] * len(one.cores[number][node])
    assert look(one, node, one.scenario.services[number]).free_ms == 4.0

from math import inf, isinf, log1p

import numpy as np

from shoal_agent.experiments.paper_a.delays import _theta, expected_ms
from shoal_agent.experiments.paper_a.scenario import Service

SERVICE = Service(1, False, (1.0,), 0.5, 1.0, 4.0, 2.0, 2.0)


def test_capacity_meets_what_is_offered():
    theta = _theta(SERVICE, 1.5)
    assert abs(SERVICE.shape * log1p(theta * SERVICE.scale) / theta - 1.5) < 1e-9


def test_more_tasks_take_longer_until_no_rate_is_enough():
    delays = expected_ms(SERVICE, 0.2)
    finite = [delay for delay in delays if not isinf(delay)]
    assert finite == sorted(finite)
    assert [isinf(delay) for delay in delays].index(True) == 8  # 8 tasks of 0.5 MB are the mean of 4 MB per slot
    assert all(tail >= mean for tail, mean in zip(delays[1:], expected_ms(SERVICE, None)[1:], strict=True))


def test_a_single_task_is_always_possible():
    slow = Service(1, False, (1.0,), 2.0, 1.0, 1.0, 1.0, 1.0)
    delays = expected_ms(slow, 0.2)
    assert delays[1] == 10.0
    assert delays[2] == inf


def test_the_tail_of_a_constant_stream_is_about_epsilon():
    """(21) is right for what it assumes: constant arrivals at the rate that it admits."""
    rng = np.random.default_rng(1)
    served = rng.gamma(SERVICE.shape, SERVICE.scale, 200_000)
    queue, late, limit = 0.0, 0, expected_ms(SERVICE, 0.2)[7]
    for work in served:
        queue = max(0.0, queue + 3.5 - work)
        late += queue > 3.5 * limit
    assert 0.1 < late / len(served) / 0.2 < 1.5

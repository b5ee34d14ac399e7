import pytest

from shoal_agent.experiments.paper_b.measures import figures, outages
from shoal_agent.experiments.paper_b.serving import PATIENCE_S, Outcome, Request


def asked(*pairs):
    """Requests by (arrived, took), took None if never answered."""
    return [Request(at, answered=None if took is None else at + took) for at, took in pairs]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        pytest.param([(0.0, 0.1), (9.0, 0.1)], [0.1, 0.1], id="when nobody waits nothing is out"),
        pytest.param([(0.0, 0.1), (5.0, 2.5)], [0.1, 2.5], id="from the moment somebody waits"),
        pytest.param([(0.0, 2.0), (1.0, 0.5)], [1.5, 0.5], id="an answer to anybody ends it"),
        pytest.param([(0.0, None), (1.0, None), (5.0, 0.1)], [5.1], id="those given up count until the next answer"),
        pytest.param([(0.0, None)], [PATIENCE_S], id="nobody is ever answered"),
        pytest.param([(0.0, 0.1), (1.0, None)], [0.1, PATIENCE_S], id="the last one is given up"),
        pytest.param([], [], id="nobody comes"),
    ],
)
def test_an_outage_is_somebody_waiting_and_nobody_answered(requests, expected):
    assert outages(asked(*requests)) == pytest.approx(expected)


def test_every_arrival_is_in_every_figure():
    requests = asked(*[(float(n), 0.1) for n in range(90)], *[(90.0 + n, 0.5) for n in range(5)], *[(99.0, None)] * 5)
    found = figures(Outcome(requests), 3600.0, 7_000_000, 3)
    assert (found.qos, found.failed, found.moved_mb_per_h, found.epochs_per_h) == (0.9, 0.05, 7.0, 3.0)
    assert found.mean_ms == pytest.approx((90 * 100 + 5 * 500 + 5 * 1000 * PATIENCE_S) / 100)
    assert found.p95_ms > 500
    assert (found.incidents_per_h, found.downtime_s_per_h) == (1.0, PATIENCE_S)


def test_rates_are_per_hour():
    found = figures(Outcome(asked((0.0, 2.0), (10.0, 2.0))), 60.0, 0, 0)
    assert (found.incidents_per_h, found.downtime_s_per_h) == (120.0, 240.0)

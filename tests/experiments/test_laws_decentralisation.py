import pytest

from shoal_agent.experiments.laws.decentralisation import control, run, setting
from shoal_agent.experiments.options import Options, silent


def test_every_size_is_there_and_the_price_of_the_centre_is_one():
    report = run(Options(seeds=1, methods=("ours", "central")), silent, node_slots=1, sizes=(5,))
    assert [row.extra["nodes"] for row in report.rows] == [5.0, 5.0]
    assert report.rows[1].extra["price"] == 1.0
    assert len(report.bands) == 2


def test_only_the_distant_centre_is_late_and_away():
    world = setting(5, 1)
    assert control("central", world) == control("ours", world)
    (begin, end), *_ = control("central-rtt", world).away
    assert world.warm_slots < begin < end < world.slots
    assert (end - begin) * 10 == world.slots - world.warm_slots


@pytest.mark.long
def test_the_price_is_small():
    report = run(Options(seeds=1), silent)
    assert report.passed, report.as_markdown()

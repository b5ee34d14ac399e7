import pytest

from shoal_agent.experiments.paper_a.regimes import REGIMES, Hold


@pytest.mark.parametrize("name", REGIMES)
def test_every_number_of_a_regime_is_among_its_assumptions(name):
    regime = REGIMES[name]
    text = "\n".join(regime.assumptions())
    for figure in (regime.headroom, regime.deadline_factor, regime.eta, *regime.scale):
        assert f"{figure:g}" in text
    assert ("Gb/s" in text) is regime.radio
    assert ("is held while" in text) is (regime.hold is not Hold.COMPUTING)
    assert ("to the end of the slot" in text) is (regime.hold is Hold.SLOTS)
    assert ("stages that come in a slot" in text) is regime.sized_by_slots
    assert all(line == line.strip() and line.endswith(".") for line in regime.assumptions())


def test_a_stage_counts_for_whole_slots_only_to_the_letter():
    assert REGIMES["R1"].busy_ms(0.1) == 0.1
    assert REGIMES["R1-literal"].busy_ms(0.1) == 1.0
    assert REGIMES["R1-literal"].busy_ms(1.2) == 2.0


def test_the_tight_one_is_the_default():
    assert next(iter(REGIMES)) == "R2"

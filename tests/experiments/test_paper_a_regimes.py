import pytest

from shoal_agent.experiments.paper_a.regimes import REGIMES


@pytest.mark.parametrize("name", REGIMES)
def test_every_number_of_a_regime_is_among_its_assumptions(name):
    regime = REGIMES[name]
    text = "\n".join(regime.assumptions())
    for figure in (regime.headroom, regime.deadline_factor, regime.eta, *regime.scale):
        assert f"{figure:g}" in text
    assert ("Gb/s" in text) is regime.radio
    assert ("is held while" in text) is regime.held
    assert all(line == line.strip() and line.endswith(".") for line in regime.assumptions())


def test_the_tight_one_is_the_default():
    assert next(iter(REGIMES)) == "R2"

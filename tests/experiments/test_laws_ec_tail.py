import numpy as np
import pytest

from shoal_agent.experiments.laws.ec_tail import KINDS, PROMISES, Watched, blocks_of, run, sized, watch
from shoal_agent.experiments.options import Options, silent


def test_blocks_note_what_an_agent_sees():
    assert blocks_of(np.full(80, 2.0), 0.1).mean == pytest.approx(2.0)
    assert blocks_of(np.full(80, 2.0), 0.1).blocks == 10


def test_a_tail_is_foretold_within_its_factor():
    _, ratios = watch(Watched(KINDS[1], 0.7, 1.0, 1, 100_000))
    assert all(abs(ratio) < np.log(1.5) for ratio in ratios)


def test_mean_rates_are_too_few_and_ours_are_enough():
    promise = PROMISES[0]
    digest, ours, late = sized((promise, "ours", 0, 40_000))
    same, fewest, missed = sized((promise, "mean-rate", 0, 40_000))
    assert digest == same
    assert ours > fewest
    assert late <= promise.epsilon + 0.01 < missed


def test_a_tail_in_long_weather_is_foretold_within_its_factor():
    """The mean of three seeds: two hours of weather are a sample, too."""
    ratios = np.array([watch(Watched(KINDS[4], 0.5, 1.0, seed, 200_000))[1] for seed in range(3)])
    assert (abs(ratios.mean(axis=0)) < np.log(1.3)).all()


@pytest.mark.long
def test_tails_and_sizes():
    """As docs/control.md has it; some ten minutes."""
    report = run(Options(seeds=20), silent)
    assert report.passed, report.as_markdown()

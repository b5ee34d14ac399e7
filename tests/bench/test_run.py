"""The benchmark still measures what it says; nothing here judges a time."""

from dataclasses import dataclass

import pytest

from tests.bench import figures, run
from tests.bench.run import Settings, kept, measure, table
from tests.bench.variants import Model, Sample

SETTINGS = Settings(
    variants=("unsplit", "whole", "two"),
    sittings=1,
    rounds=2,
    prompt_tokens=4,
    decode_tokens=8,
    prefill_tokens=32,
    prefills=1,
    patience_s=0.0,
)


def a_round(**decode):
    return {name: {"decode_ms": gaps, "prefill_ms": [10 * gaps[0]]} for name, gaps in decode.items()}


def test_the_figure_is_the_median_of_the_ratios_of_each_round():
    rounds = [
        a_round(whole=[10.0, 10.0, 90.0], two=[11.0, 11.0, 11.0]),
        a_round(whole=[20.0, 20.0, 20.0], two=[24.0, 24.0, 99.0]),
        a_round(whole=[10.0, 10.0, 10.0], two=[13.0, 13.0, 13.0]),
    ]
    ratio = figures.summary(rounds)["decode_ms"]["two"]["ratio"]
    assert ratio["per_round"] == [1.1, 1.2, 1.3]
    assert (ratio["median"], ratio["min"], ratio["max"], ratio["of_minima"]) == (1.2, 1.1, 1.3, 1.1)


@pytest.mark.parametrize(("gap", "is_kept"), [(1.15, True), (1.16, False)])
def test_a_bar_is_kept_or_broken(gap, is_kept):
    found = figures.summary([a_round(whole=[1.0], two=[gap])])
    assert found["decode_ms"]["two"]["kept"] is is_kept
    assert kept(found) is is_kept
    assert ("BROKEN" in table(found)) is not is_kept


def test_a_spread_is_of_the_samples():
    found = figures.spread([4.0, 1.0, 2.0, 3.0, 10.0])
    assert (found["count"], found["min"], found["median"], found["max"], found["mean"]) == (5, 1.0, 3.0, 10.0, 4.0)


async def test_every_variant_gives_the_same_tokens_and_is_measured(tiny_store, tmp_path):
    found = await measure(Model(tiny_store.root, "tiny"), SETTINGS, tmp_path)
    assert len(found["tokens"]) == SETTINGS.decode_tokens
    assert len(found["rounds"]) == len(found["disturbances"]) == SETTINGS.rounds
    for one in found["rounds"]:
        assert {name: len(one[name]["decode_ms"]) for name in one} == dict.fromkeys(SETTINGS.variants, 7)
        assert all(time > 0 for name in one for kind in figures.KINDS for time in one[name][kind])
        assert 0 < one["two"]["inside_ms"][0] < 1000
    assert set(found["summary"]["decode_ms"]) == set(SETTINGS.variants)


@dataclass
class Parrot:
    """Answers the same whatever is asked."""

    tokens: list[int]

    async def generate(self, prompt, count):
        return Sample(self.tokens, 1.0, [1.0])


async def test_a_variant_that_answers_something_else_ends_the_run():
    with pytest.raises(SystemExit, match=r"two answers \[1, 3\]"):
        await run._tokens({"whole": Parrot([1, 2]), "two": Parrot([1, 3])}, [0], SETTINGS)
    assert await run._tokens({"whole": Parrot([1, 2]), "two": Parrot([1, 2])}, [0], SETTINGS) == [1, 2]

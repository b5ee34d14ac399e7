import pytest

from shoal_agent.errors import ExitCode, UserError
from shoal_agent.experiments.options import SEEDS_MAX, Options, silent


@pytest.mark.parametrize("seeds", [0, -1, SEEDS_MAX + 1])
def test_a_number_of_seeds_nobody_can_mean_is_refused(seeds):
    with pytest.raises(UserError) as refused:
        Options(seeds=seeds)
    assert refused.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("load", [0.0, -1.0, float("nan"), float("inf")])
def test_a_load_nobody_can_mean_is_refused(load):
    with pytest.raises(UserError):
        Options(loads=(1.0, load))


def test_no_method_named_means_all_of_them():
    assert Options().wanted(("ours", "static")) == ("ours", "static")
    assert Options(methods=("static",)).wanted(("ours", "static")) == ("static",)


def test_an_unknown_method_names_the_known_ones():
    with pytest.raises(UserError, match="nope") as refused:
        Options(methods=("nope",)).wanted(("ours", "static"))
    assert refused.value.hint == "ours, static"


def test_the_first_choice_is_the_default():
    assert Options().one_of("regime", "", ("R2", "R1")) == "R2"
    assert Options().one_of("regime", "R1", ("R2", "R1")) == "R1"
    with pytest.raises(UserError, match="no regime 'R3'"):
        Options().one_of("regime", "R3", ("R2", "R1"))


def test_nobody_needs_to_watch():
    silent(1, 2, "a run")
    with pytest.raises(AssertionError):
        silent(3, 2, "a run too many")

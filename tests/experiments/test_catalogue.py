import pytest

from shoal_agent.errors import ExitCode, UserError
from shoal_agent.experiments.catalogue import EXPERIMENTS, find


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_found_by_its_name_and_can_run(name):
    experiment = find(name)
    assert experiment.name == name
    assert experiment.summary.endswith(".")
    assert callable(experiment.load())


def test_an_unknown_name_names_the_known_ones():
    with pytest.raises(UserError) as refused:
        find("nope")
    assert refused.value.exit_code == ExitCode.USAGE
    assert refused.value.hint == ", ".join(EXPERIMENTS)

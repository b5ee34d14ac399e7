from dataclasses import replace

import pytest

from shoal_agent.core.events import BrokerLost
from shoal_agent.core.flight import Departure, Step, UnreadableFlight, read, write
from shoal_agent.sim.replay import replay
from tests.support.flights import recorded_life


@pytest.fixture
def file(tmp_path):
    recorded_life(tmp_path / "flight")
    return tmp_path / "flight"


def rewritten(file, change):
    """The recording with ``change`` made to its values."""
    values = list(read(iter([file.read_bytes()])))
    file.write_bytes(b"".join(map(write, change(values))))
    return file


def test_a_life_is_repeated_step_by_step(file):
    result = replay(file)
    assert result.difference is None
    assert result.steps > 100
    assert result.seconds > 3.0
    assert result.events["EnvelopeReceived"] > 10
    assert result.events["WillAsked"] == 1
    assert any("ACTIVE" in entry.text for entry in result.story)


def test_a_step_that_gives_something_else_is_named(file):
    def change(values):
        at = next(i for i, each in enumerate(values) if isinstance(each, Step) and each.mark and i > 20)
        values[at] = replace(values[at], mark=b"otherwise")
        return values[: at + 5]

    result = replay(rewritten(file, change))
    assert result.difference is not None
    assert "now gives" in result.difference


def test_an_event_that_did_not_happen_is_noticed(file):
    def change(values):
        values.insert(30, replace(values[30], event=BrokerLost("a", "invented")))
        return values

    assert replay(rewritten(file, change)).difference is not None


def test_a_step_that_signs_more_than_was_recorded_is_named(file):
    def change(values):
        at = next(i for i, each in enumerate(values) if isinstance(each, Step) and each.signatures and i > 20)
        values[at] = replace(values[at], signatures=())
        return values

    result = replay(rewritten(file, change))
    assert result.difference is not None
    assert "signs more" in result.difference


def test_only_the_first_steps_are_lived_if_so_wished(file):
    assert replay(file, 10).steps == 10


def test_a_roster_that_its_roots_did_not_sign_is_refused(file):
    def change(values):
        assert isinstance(values[0], Departure)
        values[0] = replace(values[0], root_keys=(b"k" * 32,))
        return values

    with pytest.raises(UnreadableFlight, match="roster"):
        replay(rewritten(file, change))

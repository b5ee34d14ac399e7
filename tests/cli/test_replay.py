import pytest

from shoal_agent.core.events import RequestArrived
from shoal_agent.core.flight import Step, read, write
from shoal_agent.errors import ExitCode
from tests.support.commands import shoal
from tests.support.flights import recorded_life


@pytest.fixture
def file(tmp_path):
    recorded_life(tmp_path / "flight")
    return tmp_path / "flight"


def test_a_life_is_told_to_people(file):
    ended = shoal("sim", "replay", file)
    assert ended.code == 0
    assert "ACTIVE" in ended.out
    assert ended.out.rstrip().endswith("every step was the recorded one")


def test_a_life_is_one_object_for_scripts(file):
    ended = shoal("sim", "replay", file, "--json")
    assert ended.code == 0
    assert ended.json["difference"] is None
    assert ended.json["steps"] == sum(ended.json["events"].values()) > 100
    assert {"at_s", "subject", "text"} == set(ended.json["story"][0])


def test_only_the_first_steps(file):
    assert shoal("sim", "replay", file, "--steps", 5, "--json").json["steps"] == 5


def test_a_life_that_went_otherwise_is_a_failure(file):
    values = list(read(iter([file.read_bytes()])))
    values = [each for each in values if not (isinstance(each, Step) and isinstance(each.event, RequestArrived))]
    file.write_bytes(b"".join(map(write, values)))
    ended = shoal("sim", "replay", file)
    assert ended.code == ExitCode.FAILED
    assert "now gives" in ended.out or "signs more" in ended.out


def test_what_is_no_recording_is_refused_with_a_hint(tmp_path):
    (tmp_path / "flight").write_bytes(b"\x93\x01\x02")
    ended = shoal("sim", "replay", tmp_path / "flight", "--json")
    assert ended.code == ExitCode.CORRUPT
    assert "copy the whole file" in ended.json["error"]["hint"]


def test_a_file_that_is_not_there_is_a_usage_error(tmp_path):
    assert shoal("sim", "replay", tmp_path / "nothing").code == ExitCode.USAGE

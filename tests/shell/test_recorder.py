import stat

from shoal_agent.core.flight import read
from shoal_agent.shell.recorder import RecordingSealer
from shoal_protocol.sealing import Ed25519Sealer
from tests.support.flights import recorded_life


def test_a_recording_is_its_owners_alone(tmp_path):
    recorded_life(tmp_path / "flight")
    assert stat.S_IMODE((tmp_path / "flight").stat().st_mode) == 0o600


def test_a_recorded_node_lives_as_any_other(tmp_path):
    world = recorded_life(tmp_path / "flight")
    answers = world.cells[world.names[0]].answers
    assert len(answers) == 1
    assert type(next(iter(answers.values()))[-1]).__name__ == "Finish"


def test_a_recording_that_is_full_ends_with_a_whole_step(tmp_path):
    recorded_life(tmp_path / "whole")
    recorded_life(tmp_path / "part", bytes_max=20_000)
    assert (tmp_path / "part").stat().st_size <= 20_000
    assert (tmp_path / "whole").read_bytes().startswith((tmp_path / "part").read_bytes())
    assert len(list(read(iter([(tmp_path / "part").read_bytes()])))) > 3


def test_signatures_are_the_sealers_own_and_handed_over_once():
    plain = Ed25519Sealer(b"k" * 32)
    sealer = RecordingSealer(plain)
    made = (sealer.sign(b"one"), sealer.sign(b"two"))
    assert made == (plain.sign(b"one"), plain.sign(b"two"))
    assert sealer.public_key == plain.public_key
    assert sealer.collect() == made
    assert sealer.collect() == ()

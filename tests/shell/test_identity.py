import pytest

from shoal_agent.config import ClusterSection
from shoal_agent.errors import ConfigError, DeniedError
from shoal_agent.shell.clock import unix_s
from shoal_agent.shell.identity import member_in, open_roster, open_sealer
from shoal_protocol.ids import ClusterId, node_id_of
from shoal_protocol.roster import Member, Role, Roster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer

ROOT, NODE, STRANGER = (Ed25519Sealer(bytes([i]) * 32) for i in (1, 2, 3))


@pytest.fixture
def section(tmp_path):
    return write(tmp_path, unix_s() + 3600)


def write(folder, expires_unix_s, pinned=ROOT):
    members = (Member(node_id_of(NODE.public_key), NODE.public_key, (Role.AGENT,), "lab", b""),)
    roster = Roster(ClusterId("c" * 32), 4, expires_unix_s, (ROOT.public_key,), 1, members)
    file = folder / "roster.bin"
    file.write_bytes(sign_roster(roster, [ROOT]))
    return ClusterSection.model_construct(roster_file=file, root_keys=(pinned.public_key.hex(),), root_threshold=1)


def test_a_roster_signed_by_the_pinned_roots_is_opened(section):
    assert open_roster(section).version == 4


def test_a_roster_of_other_roots_is_denied(tmp_path):
    with pytest.raises(DeniedError, match="not signed by the roots of this configuration"):
        open_roster(write(tmp_path, unix_s() + 3600, pinned=STRANGER))


def test_an_expired_roster_is_denied(tmp_path):
    with pytest.raises(DeniedError, match="expired") as caught:
        open_roster(write(tmp_path, unix_s() - 1))
    assert "renew" in caught.value.hint


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_what_is_no_roster(section, damage):
    if damage is None:
        section.roster_file.unlink()
    else:
        section.roster_file.write_bytes(damage)
    with pytest.raises(ConfigError, match=str(section.roster_file)):
        open_roster(section)


def test_a_file_of_any_length_is_read_within_bounds(section):
    with section.roster_file.open("r+b") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ConfigError, match="no roster"):
        open_roster(section)


def test_a_key_file_signs_as_its_seed_does(tmp_path):
    (tmp_path / "node.key").write_bytes(bytes([2]) * 32)
    assert open_sealer(tmp_path / "node.key").public_key == NODE.public_key


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_what_is_no_key(tmp_path, seed):
    (tmp_path / "node.key").write_bytes(seed)
    with pytest.raises(ConfigError, match="32 bytes are needed"):
        open_sealer(tmp_path / "node.key")


def test_who_we_are_is_what_the_roster_says(section):
    roster = open_roster(section)
    assert member_in(roster, NODE, Role.AGENT).zone == "lab"
    with pytest.raises(DeniedError, match="is agent in roster 4, not operator"):
        member_in(roster, NODE, Role.OPERATOR)
    with pytest.raises(DeniedError, match="is not in roster 4") as caught:
        member_in(roster, STRANGER, Role.AGENT)
    assert "shoal roster admit" in caught.value.hint

import stat

from cryptography import x509

from shoal_agent.errors import ExitCode
from shoal_agent.shell.api.auth import hash_key
from shoal_agent.shell.enrolment import read_enrolment
from shoal_protocol.ids import node_id_of
from shoal_protocol.sealing import Ed25519Sealer
from tests.support.commands import shoal


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_node_s_keys_belong_together(tmp_path):
    folder = tmp_path / "new" / "node"
    ended = shoal("keygen", "--out", folder, "--json")
    assert ended.code == 0, ended.err
    sealer = Ed25519Sealer((folder / "node.key").read_bytes())
    node = node_id_of(sealer.public_key)
    enrolment = read_enrolment((folder / "enrol.json").read_text())
    certificate = x509.load_pem_x509_certificate((folder / "data.crt").read_bytes())
    assert ended.json["node"] == enrolment.node == node
    assert ended.json["fingerprint"] == enrolment.fingerprint
    assert certificate.subject.rfc4514_string() == f"CN={node}"
    assert x509.load_der_x509_certificate(enrolment.certificate) == certificate


def test_private_files_are_private(tmp_path):
    shoal("keygen", "--out", tmp_path)
    assert [mode(tmp_path / name) for name in ("node.key", "data.key")] == [0o600, 0o600]
    assert [mode(tmp_path / name) for name in ("data.crt", "enrol.json")] == [0o644, 0o644]


def test_nothing_secret_is_printed_or_enrolled(tmp_path):
    ended = shoal("keygen", "--out", tmp_path)
    seed = (tmp_path / "node.key").read_bytes().hex()
    assert seed not in ended.out + ended.err + (tmp_path / "enrol.json").read_text()
    assert "shoal roster admit" in ended.out


def test_a_key_is_never_overwritten(tmp_path):
    assert shoal("keygen", "--out", tmp_path).code == 0
    before = (tmp_path / "node.key").read_bytes()
    again = shoal("keygen", "--out", tmp_path)
    assert again.code == ExitCode.CONFIG
    assert "node.key" in again.err
    assert (tmp_path / "node.key").read_bytes() == before


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    ended = shoal("keygen", "--out", tmp_path / "file")
    assert ended.code == ExitCode.CONFIG
    assert ended.err.startswith("error: ")


def test_every_api_key_is_new_and_comes_with_its_hash():
    one, two = (shoal("api-key", "--json").json for _ in range(2))
    assert one["key"] != two["key"]
    assert one["hash"] == hash_key(one["key"])
    assert len(one["key"]) >= 38
    lines = dict(line.split() for line in shoal("api-key").out.splitlines())
    assert lines["hash"] == hash_key(lines["key"])

import ssl
import stat
import tomllib

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from shoal_agent.config import ClusterSection
from shoal_agent.errors import ExitCode
from shoal_agent.shell.identity import open_roster, open_sealer
from shoal_protocol.ids import node_id_of
from shoal_protocol.roster import Role
from tests.support.commands import shoal


@pytest.fixture
def folder(tmp_path):
    cluster = tmp_path / "cluster"
    assert shoal("roster", "init", cluster).code == 0
    return cluster


def new_node(tmp_path, name="node"):
    """A node's id and its enrolment."""
    told = shoal("keygen", "--out", tmp_path / name, "--json").json
    return told["node"], tmp_path / name / "enrol.json", told["fingerprint"]


def opened(folder):
    """The roster as an agent opens it, with the section the operator hands out."""
    section = tomllib.loads((folder / "cluster.toml").read_text())["cluster"]
    section["roster_file"] = folder / section["roster_file"]
    return open_roster(ClusterSection.model_construct(**section))


def test_a_new_cluster_is_ready_for_its_first_node(folder):
    roster = opened(folder)
    operator = node_id_of(open_sealer(folder / "operator.key").public_key)
    assert roster.version == 1
    assert [(member.node, member.roles) for member in roster.members] == [(operator, (Role.OPERATOR,))]
    for name in ("root-1.key", "operator.key", "broker-ca.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_cluster_is_never_overwritten(folder):
    before = (folder / "root-1.key").read_bytes()
    assert shoal("roster", "init", folder).code == ExitCode.CONFIG
    assert (folder / "root-1.key").read_bytes() == before


def test_a_node_is_admitted_with_key_certificate_zone_and_role(folder, tmp_path):
    node, enrolment, fingerprint = new_node(tmp_path)
    ended = shoal("roster", "admit", folder, enrolment, "--zone", "home", "--json")
    assert ended.code == 0, ended.err
    assert ended.json == {"version": 2, "admitted": {node: fingerprint}}
    member = opened(folder).member(node)
    assert (member.zone, member.roles) == ("home", (Role.AGENT,))
    assert x509.load_der_x509_certificate(member.certificate).subject.rfc4514_string() == f"CN={node}"
    assert member.public_key == open_sealer(tmp_path / "node" / "node.key").public_key


def test_every_change_is_one_version_that_follows_the_last(folder, tmp_path):
    one, two = new_node(tmp_path, "one"), new_node(tmp_path, "two")
    first = opened(folder)
    shoal("roster", "admit", folder, one[1])
    second = first.update((folder / "roster.bin").read_bytes(), 0)
    shoal("roster", "admit", folder, two[1])
    third = second.update((folder / "roster.bin").read_bytes(), 0)
    assert third.version == 3
    assert {one[0], two[0]} < {member.node for member in third.members}
    ended = shoal("roster", "remove", folder, one[0])
    assert ended.code == 0, ended.err
    fourth = third.update((folder / "roster.bin").read_bytes(), 0)
    assert fourth.member(one[0]) is None
    assert fourth.member(two[0]) is not None
    assert shoal("roster", "renew", folder, "--days", "7").code == 0
    assert fourth.update((folder / "roster.bin").read_bytes(), 0).members == fourth.members


def test_admitting_again_changes_the_zone_and_doubles_nothing(folder, tmp_path):
    node, enrolment, _ = new_node(tmp_path)
    for zone in ("home", "away"):
        assert shoal("roster", "admit", folder, enrolment, "--zone", zone).code == 0
    assert [member.zone for member in opened(folder).members if member.node == node] == ["away"]


def test_a_witness_has_no_data_plane(folder, tmp_path):
    node, enrolment, _ = new_node(tmp_path)
    assert shoal("roster", "admit", folder, enrolment, "--role", "witness").code == 0
    member = opened(folder).member(node)
    assert (member.roles, member.certificate) == ((Role.WITNESS,), b"")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--zone", "A B"], "is no zone"),
        (["--role", "king"], "there is no role 'king'"),
    ],
)
def test_what_cannot_be_admitted(folder, tmp_path, options, said):
    _, enrolment, _ = new_node(tmp_path)
    ended = shoal("roster", "admit", folder, enrolment, *options)
    assert ended.code == ExitCode.CONFIG
    assert said in ended.err
    assert opened(folder).version == 1


def test_a_tampered_enrolment_is_refused(folder, tmp_path):
    _, enrolment, _ = new_node(tmp_path, "one")
    _, other, _ = new_node(tmp_path, "two")
    signature = other.read_text().split('"signature": "')[1][:128]
    mine = enrolment.read_text().split('"signature": "')[1][:128]
    enrolment.write_text(enrolment.read_text().replace(mine, signature))
    ended = shoal("roster", "admit", folder, enrolment)
    assert ended.code == ExitCode.CONFIG
    assert "does not hold its key" in ended.err
    assert shoal("roster", "admit", folder, tmp_path / "absent.json").code == ExitCode.CONFIG


def test_removing_nobody_is_a_mistake(folder):
    ended = shoal("roster", "remove", folder, "a" * 32)
    assert ended.code == ExitCode.CONFIG
    assert opened(folder).version == 1


def test_a_threshold_needs_its_keys(tmp_path):
    folder = tmp_path / "cluster"
    assert shoal("roster", "init", folder, "--roots", "3", "--threshold", "2").code == 0
    (folder / "root-1.key").unlink()
    assert shoal("roster", "renew", folder).code == 0
    (folder / "root-2.key").unlink()
    ended = shoal("roster", "renew", folder)
    assert ended.code == ExitCode.DENIED
    assert "1 of the root keys signed, 2 must" in ended.err
    assert shoal("roster", "init", tmp_path / "x", "--threshold", "2").code == ExitCode.CONFIG


def test_show_names_the_members(folder, tmp_path):
    node, enrolment, _ = new_node(tmp_path)
    shoal("roster", "admit", folder, enrolment, "--zone", "home")
    out = shoal("roster", "show", folder).out
    assert f"{node}  agent  zone home" in out
    told = shoal("roster", "show", folder, "--json").json
    assert told["version"] == 2
    assert {"node": node, "roles": ["agent"], "zone": "home"} in told["members"]


def test_verify_believes_the_pinned_keys_only(folder, tmp_path):
    key = shoal("roster", "show", folder, "--json").json["root_keys"][0]
    assert shoal("roster", "verify", folder / "roster.bin", "--root-key", key).code == 0
    ended = shoal("roster", "verify", folder / "roster.bin", "--root-key", "ab" * 32)
    assert ended.code == ExitCode.DENIED
    assert "not signed by the roots" in ended.err
    (tmp_path / "junk").write_bytes(b"junk")
    assert shoal("roster", "verify", tmp_path / "junk", "--root-key", key).code == ExitCode.CONFIG
    assert shoal("roster", "verify", folder / "roster.bin", "--root-key", "short").code == ExitCode.CONFIG
    twice = ["--root-key", key, "--root-key", key, "--threshold", "2"]
    assert shoal("roster", "verify", folder / "roster.bin", *twice).code == ExitCode.CONFIG


def test_a_folder_that_is_none(tmp_path):
    ended = shoal("roster", "show", tmp_path)
    assert ended.code == ExitCode.CONFIG
    assert "shoal roster init" in ended.err


def test_a_broker_and_its_client_trust_one_authority(folder):
    issued = shoal("roster", "broker-cert", folder, "--host", "127.0.0.1", "--host", "broker.example.net", "--json")
    assert issued.code == 0, issued.err
    node = opened(folder).members[0].node
    client = shoal("roster", "client-cert", folder, node, "--json").json
    context = ssl.create_default_context(cafile=issued.json["ca"])
    context.load_cert_chain(client["certificate"], client["key"])
    certificate = x509.load_pem_x509_certificate((folder / "127.0.0.1.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example.net"]
    common = x509.load_pem_x509_certificate((folder / f"{node}.crt").read_bytes()).subject
    assert common.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == node


@pytest.mark.parametrize(
    "arguments",
    [("broker-cert", "--host", "../x"), ("broker-cert", "--host", "a b"), ("client-cert", "../../etc/passwd")],
)
def test_names_that_would_leave_the_folder(folder, arguments):
    command, *rest = arguments
    assert shoal("roster", command, folder, *rest).code == ExitCode.CONFIG


def test_a_certificate_is_never_overwritten(folder):
    assert shoal("roster", "broker-cert", folder, "--host", "localhost").code == 0
    assert shoal("roster", "broker-cert", folder, "--host", "localhost").code == ExitCode.CONFIG


def test_every_command_shows_an_example():
    for command in ("init", "admit", "remove", "renew", "show", "verify", "broker-cert", "client-cert"):
        assert "Example: shoal roster " in shoal("roster", command, "--help").out

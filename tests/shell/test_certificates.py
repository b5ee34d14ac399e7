import datetime as dt
import ipaddress
import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal_agent.shell.certificates import Purpose, der_of, issue, make_ca, make_node_certificate
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import CERTIFICATE_BYTES_MAX

NODE = NodeId("a" * 32)


def common_name(certificate):
    return certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value


def handshake(server, client, server_hostname):
    """Both sides of a TLS handshake in memory; raises as a socket would."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=server_hostname),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(10):
        for side in list(sides):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            sides.remove(side)
        if not sides:
            return
    raise AssertionError("a handshake takes fewer turns")


def context(protocol, ca, credentials, folder):
    made = ssl.SSLContext(protocol)
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=ca.certificate_der)
    credentials.write(folder / "crt", folder / "key")
    made.load_cert_chain(folder / "crt", folder / "key")
    return made


def test_a_node_certificate_says_who_and_for_how_long():
    certificate = x509.load_der_x509_certificate(make_node_certificate(NODE).certificate_der)
    now = dt.datetime.now(dt.UTC)
    assert common_name(certificate) == NODE
    assert certificate.issuer == certificate.subject
    assert certificate.not_valid_before_utc < now - dt.timedelta(hours=23)
    assert now + dt.timedelta(days=3640) < certificate.not_valid_after_utc < now + dt.timedelta(days=3660)
    key = certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.name == "secp256r1"
    key.verify(certificate.signature, certificate.tbs_certificate_bytes, ec.ECDSA(certificate.signature_hash_algorithm))


def test_a_node_certificate_fits_the_roster():
    assert len(make_node_certificate(NODE).certificate_der) < CERTIFICATE_BYTES_MAX / 4


def test_no_two_certificates_are_alike():
    assert make_node_certificate(NODE).certificate_der != make_node_certificate(NODE).certificate_der


def test_pem_and_der_are_of_one_certificate():
    made = make_node_certificate(NODE)
    assert der_of(made.certificate_pem) == made.certificate_der


def test_what_is_no_certificate_is_a_value_error():
    with pytest.raises(ValueError):
        der_of(b"no certificate")


def test_the_key_is_written_privately_and_never_printed(tmp_path):
    made = make_node_certificate(NODE)
    made.write(tmp_path / "data.crt", tmp_path / "data.key")
    assert stat.S_IMODE((tmp_path / "data.key").stat().st_mode) == 0o600
    assert (tmp_path / "data.crt").read_bytes() == made.certificate_pem
    assert "PRIVATE" not in repr(made)


def test_a_broker_and_its_client_know_each_other_through_the_authority(tmp_path):
    ca = make_ca("brokers of a test")
    (tmp_path / "s").mkdir()
    (tmp_path / "c").mkdir()
    broker = issue(ca, "broker", ["127.0.0.1", "broker.example.net"], Purpose.SERVER)
    server = context(ssl.PROTOCOL_TLS_SERVER, ca, broker, tmp_path / "s")
    client = context(ssl.PROTOCOL_TLS_CLIENT, ca, issue(ca, NODE, [], Purpose.CLIENT), tmp_path / "c")
    handshake(server, client, "127.0.0.1")
    handshake(server, client, "broker.example.net")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "127.0.0.2")


def test_a_client_certificate_does_not_make_a_broker(tmp_path):
    ca = make_ca("brokers of a test")
    (tmp_path / "s").mkdir()
    (tmp_path / "c").mkdir()
    impostor = issue(ca, NODE, ["127.0.0.1"], Purpose.CLIENT)
    server = context(ssl.PROTOCOL_TLS_SERVER, ca, impostor, tmp_path / "s")
    client = context(ssl.PROTOCOL_TLS_CLIENT, ca, issue(ca, NODE, [], Purpose.CLIENT), tmp_path / "c")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "127.0.0.1")


def test_an_issued_certificate_names_what_was_asked():
    ca = make_ca("brokers of a test")
    certificate = x509.load_der_x509_certificate(
        issue(ca, "b", ["10.1.2.3", "b.example"], Purpose.SERVER).certificate_der
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("10.1.2.3")]
    assert names.get_values_for_type(x509.DNSName) == ["b.example"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert certificate.issuer == x509.load_pem_x509_certificate(ca.certificate_pem).subject

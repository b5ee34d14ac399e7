"""Certificates of the two kinds this system knows, which never meet.

*Data plane.* Every node has one self-signed certificate (ECDSA P-256, common name = node id). Nobody vouches for it:
the roster carries its exact bytes, and that is the trust. It lives for ten years because its expiry is not what ends
it; the next roster is. It is dated back by a day, so that a peer whose clock is slow still takes it.

*Brokers.* A small authority issues certificates to brokers (named by their addresses) and to their clients (common
name = node id, which the broker's ACL speaks of). They open the broker's door and prove nothing inside an envelope.

P-256 because every TLS stack has it in constant time; 100 us per handshake, once per link.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal_agent.shell.files import write_private, write_public
from shoal_protocol.ids import NodeId

LIFE_DAYS: Final = 3650
"""The roster revokes; a device that was asleep for years should not be locked out by a date."""
BACKDATE_DAYS: Final = 1
"""How slow the clock of the other side may be."""


class Purpose(Enum):
    """Which end of a broker's connection a certificate is for."""

    SERVER = ExtendedKeyUsageOID.SERVER_AUTH
    CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Credentials:
    """A private key and its certificate, both in PEM. The key stays out of logs."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes

    @property
    def certificate_der(self) -> bytes:
        """The certificate as the roster carries it."""
        return der_of(self.certificate_pem)

    def write(self, certificate_file: Path, key_file: Path) -> None:
        """Both to files: the key first and private, so that there is never a certificate whose key was lost."""
        write_private(key_file, self.key_pem)
        write_public(certificate_file, self.certificate_pem)


def der_of(certificate_pem: bytes) -> bytes:
    """The DER of a certificate in PEM; ValueError if it is none."""
    return x509.load_pem_x509_certificate(certificate_pem).public_bytes(serialization.Encoding.DER)


def make_node_certificate(node: NodeId) -> Credentials:
    """A fresh data-plane key for ``node`` and its self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(node)
    builder = _builder(name, name, key.public_key()).add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    return _credentials(key, builder.sign(key, hashes.SHA256()))


def make_ca(name: str) -> Credentials:
    """An authority for the brokers of one cluster; its key is the operator's and goes to no machine of the fleet."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_name(name), _name(name), key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_signing_only(), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _credentials(key, builder.sign(key, hashes.SHA256()))


def issue(ca: Credentials, name: str, addresses: Sequence[str], purpose: Purpose) -> Credentials:
    """A certificate signed by ``ca``; ``name`` becomes its common name, ``addresses`` what a client may call it.

    ``addresses`` are host names or IP addresses; a broker needs at least one, a client none.
    """
    authority = x509.load_pem_x509_certificate(ca.certificate_pem)
    signing_key = serialization.load_pem_private_key(ca.key_pem, password=None)
    assert isinstance(signing_key, ec.EllipticCurvePrivateKey), "an authority of ours has an EC key"
    key = ec.generate_private_key(ec.SECP256R1())
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    builder = (
        _builder(_name(name), authority.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose.value]), critical=False)
        .add_extension(issuer_key, critical=False)
    )
    if addresses:
        names = x509.SubjectAlternativeName([_address(address) for address in addresses])
        builder = builder.add_extension(names, critical=False)
    return _credentials(key, builder.sign(signing_key, hashes.SHA256()))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _address(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=BACKDATE_DAYS))
        .not_valid_after(now + dt.timedelta(days=LIFE_DAYS))
    )


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )


def _credentials(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Credentials:
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Credentials(key_pem, certificate.public_bytes(serialization.Encoding.PEM))

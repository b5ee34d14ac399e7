"""TLS of the data plane: both sides show a certificate, and the roster is the whole truth about certificates.

There is no authority, no chain, no name check: the trust store holds exactly the members' self-signed certificates,
and after the handshake the exact bytes of the peer's certificate are looked up to learn which member it is. TLS 1.3
only. Session tickets are off: a resumed session would skip the look at the certificate, and links live long anyway.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

from shoal_agent.errors import ConfigError
from shoal_agent.shell.certificates import der_of
from shoal_protocol.ids import NodeId
from shoal_protocol.roster import TrustedRoster


@dataclass(frozen=True, slots=True)
class DataTls:
    """One context per direction, and whose each certificate is (DER to node)."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    members: dict[bytes, NodeId]


def data_tls(node: NodeId, certificate_file: Path, key_file: Path, roster: TrustedRoster) -> DataTls:
    """What ``node`` needs to speak to the members of ``roster``; ConfigError if its files and the roster disagree."""
    members = {member.certificate: member.node for member in roster.members if member.certificate}
    try:
        own = der_of(certificate_file.read_bytes())
    except (OSError, ValueError) as fault:
        raise ConfigError(f"{certificate_file}: {fault}", "name the certificate that `shoal keygen` wrote") from fault
    if members.get(own) != node:
        raise ConfigError(
            f"{certificate_file} is not the certificate the roster has for {node}",
            "admit this certificate with `shoal roster admit`, or name the one that was admitted",
        )
    server = _context(ssl.PROTOCOL_TLS_SERVER, certificate_file, key_file, members)
    server.num_tickets = 0
    return DataTls(server, _context(ssl.PROTOCOL_TLS_CLIENT, certificate_file, key_file, members), members)


def _context(
    protocol: ssl._SSLMethod, certificate_file: Path, key_file: Path, members: dict[bytes, NodeId]
) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_cert_chain(certificate_file, key_file)
    except (OSError, ssl.SSLError) as fault:
        raise ConfigError(f"{key_file} is not the key of {certificate_file}: {fault}", "run: shoal keygen") from fault
    try:
        context.load_verify_locations(cadata=b"".join(members))
    except ssl.SSLError as fault:
        raise ConfigError(f"the roster holds a certificate that is none: {fault}", "ask whoever signed it") from fault
    return context

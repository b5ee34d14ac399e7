"""Where a broker is, and the certificates by which it and this node know each other: TLS 1.3, both sides."""

import ssl
from dataclasses import dataclass

from shoal_agent.config import BrokerSection
from shoal_agent.errors import ConfigError


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is; ``url`` names it everywhere. Without ``tls`` it is on loopback."""

    url: str
    host: str
    port: int
    tls: ssl.SSLContext | None


def broker_address(section: BrokerSection) -> BrokerAddress:
    """A broker as the configuration names it, its certificates loaded; ConfigError if they do not fit."""
    if section.ca_file is None:
        return BrokerAddress(section.url, section.host, section.port, None)
    assert section.certificate_file is not None, "the configuration demands all three"
    assert section.key_file is not None
    try:
        context = ssl.create_default_context(cafile=str(section.ca_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.sslsocket_class = _ClosingSocket
        context.load_cert_chain(section.certificate_file, section.key_file)
    except (OSError, ssl.SSLError) as fault:
        raise ConfigError(
            f"the certificates for {section.url} do not fit together: {fault}",
            "name the authority's certificate, and a certificate it issued with its key",
        ) from fault
    return BrokerAddress(section.url, section.host, section.port, context)


class _ClosingSocket(ssl.SSLSocket):
    """A socket that does not outlive a handshake that failed; paho forgets to close it."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - ssl's own signature
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise

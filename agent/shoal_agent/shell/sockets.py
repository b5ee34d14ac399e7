"""Listening sockets, and the one thing that goes wrong with them for the person at the keyboard."""

import errno
import socket
from typing import Final

from shoal_agent.errors import UserError

BACKLOG: Final = 128
"""Connections the kernel holds for us while we are busy: every peer of a large cluster reconnecting at once."""
UNSENT_BYTES: Final = 64 * 1024
"""A link's socket counts as full with so much not sent; Linux would take 4 MiB, and no token overtakes what it has."""


class PortInUseError(UserError):
    """Another process listens there already."""


class AddressError(UserError):
    """No interface of this machine has that address, or this user may not listen on that port."""


def listen(host: str, port: int) -> socket.socket:
    """A non-blocking TCP socket that listens on ``host`` and ``port`` (0: any free one).

    PortInUseError or AddressError if it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as fault:
        raise AddressError(f"cannot listen on {host!r}: {fault}", "name an address of this machine") from fault
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.settimeout(0)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as fault:
        listener.close()
        if fault.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is in use", "stop the other process, or choose another port (0: any)"
            ) from fault
        raise AddressError(f"cannot listen on {host}:{port}: {fault.strerror}", "choose another address") from fault
    return listener


def port_of(listener: socket.socket) -> int:
    """The port it really listens on."""
    return int(listener.getsockname()[1])


def without_delay(connection: socket.socket) -> None:
    """Send small things at once, and take little more than the network does."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

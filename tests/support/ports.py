"""Ports that stay free until somebody listens on them.

They lie below those that kernels lend to outgoing connections: one of these might sit on the port by then, or, on its
way to a listener that is not there yet, meet itself.
"""

import contextlib
import secrets
from typing import Final

from shoal_agent.shell.sockets import PortInUseError, listen

PORTS: Final = range(16_384, 32_768)


def fixed_ports(count: int) -> list[int]:
    """So many different ports on which nobody listens."""
    found: list[int] = []
    candidates = list(PORTS)
    secrets.SystemRandom().shuffle(candidates)
    for port in candidates:
        with contextlib.suppress(PortInUseError), listen("127.0.0.1", port):
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"{count} free ports are not to be had")


def fixed_port() -> int:
    """One of them."""
    (port,) = fixed_ports(1)
    return port

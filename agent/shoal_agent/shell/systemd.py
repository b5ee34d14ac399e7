"""sd_notify: what a service of ``Type=notify`` tells systemd, over the socket it names in ``$NOTIFY_SOCKET``.

READY when everything listens, WATCHDOG while the loop turns (half as often as systemd asks, so that one late beat is
no restart), STOPPING when it is over. A name that begins with ``@`` is an abstract socket. Without the variable
nothing is sent: the same agent runs in a terminal.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Final

_MICROSECONDS: Final = 1_000_000
SEND_TIMEOUT_S: Final = 1.0
"""systemd reads at once; a supervisor that does not must not stop the agent."""


class Systemd:
    """The supervisor, if there is one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(usec) / _MICROSECONDS / 2 if mine and usec.isdigit() and int(usec) else None
        """Seconds between two beats; None if nobody watches."""

    def notify(self, *lines: str) -> bool:
        """Send ``lines`` (such as ``READY=1``); False if there is no supervisor or it does not listen."""
        if not self._address:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(SEND_TIMEOUT_S)
                out.connect(self._address)
                out.send("\n".join(lines).encode())
        except OSError:
            return False
        return True

    async def beat(self) -> None:
        """Tell systemd that the loop turns, until cancelled; returns at once if nobody watches."""
        while self.watchdog_s is not None:
            self.notify("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s)

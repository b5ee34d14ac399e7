"""Which way frames go to a peer: directly, or through the brokers while there is no direct way.

::

    DIRECT ── dialled in vain ``FAILURES`` times, or for ``PATIENCE_S`` ──► a circuit is opened beside it
       ▲                                                                        │ it stands
       └──── the direct way stands, and all the circuit carried is acknowledged ┴── RELAYED, dialling now and then

A peer that is dead is called through the brokers too, in vain: nobody knows better, and a knock is a few hundred
bytes. While a circuit stands, failed attempts to connect directly are nobody's business; they come more and more
rarely.

Both links may stand at once for a moment. For the node there is one: it is told of the first that comes and of the last
that goes, and that its frames took another way (``PeerRelayed``), which says that what it measured is no longer true.
The change is made between two frames, when nothing is under way on the old link, so it loses none and changes no order.
"""

from dataclasses import dataclass
from typing import Final

from shoal_protocol.messages import Endpoint

FAILURES: Final = 2
"""One failure is a restart; the watch repeats a refused ping after 150 ms, so two cost nothing."""
PATIENCE_S: Final = 1.5
"""A firewall that drops packets says nothing for ``LINK_CONNECT_S_MAX``; a busy machine connects within this."""
RETRY_S_MIN: Final = 5.0
RETRY_S_MAX: Final = 60.0
"""A peer behind a relay is dialled directly this often, at first and at last: a firewall opens rarely."""


@dataclass(slots=True)
class Way:
    """What was found out about the direct way to one peer."""

    failures: int = 0
    """Attempts in a row that failed."""
    tried: Endpoint | None = None
    """Where; an address that is news is tried at once."""
    retry_at: float = 0.0
    wait_s: float = RETRY_S_MIN

    def failed(self, now: float) -> None:
        """The direct way is closed."""
        self.failures += 1
        self.retry_at = now + self.wait_s
        self.wait_s = min(RETRY_S_MAX, 2 * self.wait_s)

    @property
    def blocked(self) -> bool:
        """Whether to look for another way."""
        return self.failures >= FAILURES

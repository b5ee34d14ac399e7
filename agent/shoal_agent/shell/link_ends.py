"""What a link stands between: this end of it, who owns it, and what it writes on.

A link does not ask how its bytes travel. Over a TLS connection its wire is asyncio's transport; where two nodes cannot
connect it is a circuit through a broker (``circuit``), which does the same four things.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shoal_agent.core.facts import LinkFault
from shoal_protocol.frames import Frame
from shoal_protocol.ids import Incarnation, NodeId
from shoal_protocol.limits import CREDIT_BYTES, LINK_HELLO_S_MAX, LINK_QUIET_S, LINK_SILENCE_S_MAX

if TYPE_CHECKING:
    from shoal_agent.shell.links import Link


@dataclass(frozen=True, slots=True)
class Pace:
    """The waiting times of a link, in seconds; tests shorten them."""

    hello_s: float = LINK_HELLO_S_MAX
    quiet_s: float = LINK_QUIET_S
    silence_s: float = LINK_SILENCE_S_MAX
    tick_s: float = 1.0
    """How often links look at the clock: half of the shortest time they judge."""


@dataclass(frozen=True, slots=True)
class Here:
    """This end of every link. ``identify`` tells whose a certificate (DER) is."""

    node: NodeId
    incarnation: Incarnation
    identify: Callable[[bytes], NodeId | None]
    credit_bytes: int = CREDIT_BYTES


class Events(Protocol):
    """Who owns the links; called from the loop's thread, each time about one link."""

    def identified(self, link: "Link") -> None:
        """``link.peer`` is known by its certificate."""

    def opened(self, link: "Link") -> None:
        """The peer's Hello is here."""

    def received(self, link: "Link", frame: Frame) -> None:
        """A frame for the node; it counts as consumed when this returns."""

    def timed(self, link: "Link", rate: int) -> None:
        """A large frame came in at ``rate`` bytes a second."""

    def misbehaved(self, link: "Link", fault: str) -> None:
        """The peer broke the protocol; ``ended`` follows."""

    def ended(self, link: "Link", reason: str, fault: LinkFault) -> None:
        """The link is over, once; what was queued on it is gone."""


class Wire(Protocol):
    """A stream of bytes to the peer; tells the link when it is full, has room again, and is gone."""

    def write(self, data: bytes | memoryview) -> None: ...

    def set_write_buffer_limits(self, high: int) -> None: ...

    def close(self) -> None:
        """Deliver what was written, then go."""

    def abort(self) -> None:
        """Go at once."""

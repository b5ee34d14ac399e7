"""How long a silent node is suspected before it is dead. Lifeguard (Dadgar, Phillips, Currey 2017), with our budget.

A single observer may be at fault itself: its link, its load, its clock. So it waits long when it is alone with its
suspicion, and less with everybody who says the same (memberlist's formula; c accusers beside ourselves, C expected)::

    timeout = (1 + health) * max(min, max - (max - min) * log(c + 1) / log(C + 1))

``health`` is Lifeguard's local health multiplier (see ``health``): 0 is well. C is 2, or as many other observers as
there are. memberlist scales ``min`` with log10 N, because gossip takes so long to reach the accused and to bring its
answer back; here both are one hop of a broker or a link for every N, so it does not appear.

The constants follow from what a watcher is to achieve with 5 nodes, heartbeats of 1 s, and three or more observers who
see the same within a few milliseconds, so that c = C when the timeout matters:

    SIGSTOP   silence 1.7 s (``detector``) + ping 0.5 s + min 0.6 s           = 2.8 s, of 3 s
    kill -9   broken link or last will 0.1 s + refused ping 0.1 s + 0.3 s     = 0.5 s, of 1.5 s
              the same, one observer alone                        + 1.0 s     = 1.2 s, of 1.5 s
    a pause   the first chance to be declared dead comes when the process stopped just before a beat was due
              at 0.9 s: silence 0.8 s + ping 0.5 s + min 0.6 s                = 1.9 s, of 1 s that it must survive
              a beat due at 1.1 s: silence 0.6 s + ping 0.5 s + min 0.6 s     = 1.7 s

Two kinds of evidence, because they differ in what else could explain them. Nobody *answers*: a paused process, a
partition, a collector, a busy machine; most of these pass. Nobody *listens*: the peer's own machine says that the
process is gone, which nothing explains but a firewall that came up this second.
"""

from dataclasses import dataclass, field
from math import log
from typing import Final

from shoal_protocol.ids import Instant, NodeId

CONFIRMATIONS: Final = 2
"""Accusers beside ourselves that settle a matter: three links and three schedulers do not fail together."""
ACCUSERS_MAX: Final = 16
"""Accusers remembered; far more than count."""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds that a suspicion lasts: with all confirmations, and with none."""

    min_s: float
    max_s: float


UNANSWERED: Final = Span(0.6, 3.6)
"""Pings are not answered. Six times ``min`` alone, as in memberlist: a partition of one link gets time to be told."""
REFUSED: Final = Span(0.3, 1.0)
"""Nobody listens any more. Not zero: whatever it said just before it died is still under way."""


def timeout_s(span: Span, accusers: int, expected: int, health: int) -> float:
    """How long to suspect. ``accusers`` beside ourselves, of ``expected`` who could say the same."""
    if accusers >= expected:
        return (1 + health) * span.min_s
    share = log(accusers + 1) / log(expected + 1)
    return (1 + health) * (span.max_s - (span.max_s - span.min_s) * share)


@dataclass(slots=True)
class Suspicion:
    """A node that we ourselves found silent. ``expected``: observers beside us who could confirm it."""

    since: Instant
    expected: int
    span: Span = UNANSWERED
    accusers: dict[NodeId, None] = field(default_factory=dict)

    def accuse(self, accuser: NodeId) -> bool:
        """Somebody else says the same; True if that is new."""
        if accuser in self.accusers or len(self.accusers) >= ACCUSERS_MAX:
            return False
        self.accusers[accuser] = None
        return True

    def ends(self, health: int) -> Instant:
        """When the node is dead, unless it is heard before."""
        return Instant(self.since + timeout_s(self.span, len(self.accusers), self.expected, health))

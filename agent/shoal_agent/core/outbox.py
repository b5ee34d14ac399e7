"""What one call of ``handle`` wants done, in order.

Frames a node addresses to itself never leave the core: they are looped back and handled before ``handle`` returns,
so a node that is ingress and stage at once pays no socket, and the state machines need no second path for it.
"""

from collections import deque
from dataclasses import dataclass, field

from shoal_agent.core.effects import Count, Effect, Note, ReleaseTensor, SendFrame
from shoal_agent.core.facts import TensorHandle
from shoal_protocol.headers import Header
from shoal_protocol.ids import NodeId

Payload = TensorHandle | bytes | None


@dataclass(slots=True)
class Outbox:
    """Effects gathered while one event is handled."""

    node: NodeId
    effects: list[Effect] = field(default_factory=list)
    loopback: deque[tuple[Header, Payload]] = field(default_factory=deque)

    def add(self, effect: Effect) -> None:
        """Ask for ``effect`` after all that was asked before."""
        self.effects.append(effect)

    def send(self, peer: NodeId, header: Header, payload: Payload = None, *, keep: bool = False) -> None:
        """Send a frame to ``peer``, which may be this node; ``keep`` a payload that may have to be sent again."""
        if peer == self.node:
            assert not keep, "what a node sends to itself is its own from then on"
            self.loopback.append((header, payload))
        else:
            self.effects.append(SendFrame(peer, header, payload, keep))

    def release(self, payload: Payload) -> None:
        """Nobody needs ``payload`` any more."""
        if payload is not None and not isinstance(payload, bytes):
            self.effects.append(ReleaseTensor(payload))

    def count(self, name: str, label: str, amount: int = 1) -> None:
        """Add to a metric."""
        self.effects.append(Count(name, label, amount))

    def note(self, level: str, text: str, **fields: str | float) -> None:
        """Leave a line for the log."""
        self.effects.append(Note(level, text, tuple(fields.items())))

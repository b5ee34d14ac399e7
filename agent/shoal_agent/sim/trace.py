"""The trace: every event and every effect of a world, in order, as one hash.

Two runs of one seed are the same run if their hashes are equal; in two processes, with two hash seeds, they must be.
What travelled sealed is hashed as its bytes, everything else as its ``repr``: both are fixed by the values alone.
"""

import hashlib
from collections.abc import Callable, Sequence

from shoal_agent.core.effects import Broadcast, Effect
from shoal_agent.core.events import EnvelopeReceived, Event
from shoal_protocol.ids import NodeId

_DIGEST_BYTES = 16


class Trace:
    """The hash of what happened so far; ``tell`` is also given every line of it."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self._tell = tell

    def add(self, at_s: float, node: NodeId, event: Event, effects: Sequence[Effect]) -> None:
        """``node`` took in ``event`` at ``at_s`` and asked for ``effects``."""
        self._hash.update(f"{at_s!r} {node} ".encode())
        for part in (event, *effects):
            if isinstance(part, EnvelopeReceived | Broadcast):
                self._hash.update(part.topic.encode())
                self._hash.update(part.wire)
            else:
                self._hash.update(repr(part).encode())
        if self._tell is not None:
            self._tell(f"{at_s:10.6f} {node[:8]} {event!r}")
            for effect in effects:
                self._tell(f"{'':19} -> {effect!r}")

    def hexdigest(self) -> str:
        """32 hexadecimal characters."""
        return self._hash.hexdigest()

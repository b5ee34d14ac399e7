"""CloseSession that did not arrive: said again when its node can be reached.

What was said on a link that breaks may be lost, and a node that was paused, or cut off for a minute, would keep the KV
of a session that is over until its deadline. So what was said lately is remembered; if the link breaks it is owed, and
paid when the node is back. Closing twice is harmless.

Bounded in time, by the deadline at which a host frees a session by itself, and in number: a host has at most
``SESSIONS_MAX`` sessions, so of no node more are owed.
"""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.limits import LINK_CONNECT_S_MAX, LINK_SILENCE_S_MAX, SESSIONS_MAX

LATELY_S: Final = LINK_SILENCE_S_MAX + LINK_CONNECT_S_MAX
"""A link that takes nothing any more is known to be broken after this."""
SAID_MAX: Final = 1024
"""Farewells that are remembered: 70 sessions a second."""


@dataclass(frozen=True, slots=True)
class _Said:
    at: Instant
    session: SessionId
    nodes: Collection[NodeId]
    deadline: Instant


class Farewells:
    """What was said lately, and what is owed."""

    def __init__(self) -> None:
        self._said: deque[_Said] = deque(maxlen=SAID_MAX)
        self._owed: dict[NodeId, dict[SessionId, Instant]] = {}

    def say(self, session: SessionId, nodes: Collection[NodeId], deadline: Instant, now: Instant) -> None:
        """``nodes`` are told that ``session`` is over, which they would find at ``deadline``."""
        while self._said and self._said[0].at < now - LATELY_S:
            self._said.popleft()
        self._said.append(_Said(now, session, nodes, deadline))

    def lost(self, node: NodeId, now: Instant) -> None:
        """The link to ``node`` broke: what was said lately may not have arrived."""
        for said in self._said:
            if node in said.nodes and said.at >= now - LATELY_S:
                owed = self._owed.setdefault(node, {})
                owed[said.session] = said.deadline
                if len(owed) > SESSIONS_MAX:
                    del owed[next(iter(owed))]

    def back(self, node: NodeId, now: Instant) -> list[tuple[SessionId, Instant]]:
        """``node`` can be reached: the sessions to be closed there, and their deadlines; they are owed no longer."""
        owed = self._owed.pop(node, {})
        return [(session, deadline) for session, deadline in owed.items() if deadline > now]

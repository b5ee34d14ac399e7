"""The core's own alarm clock: many alarms in, one deadline out.

Handing every timer to the shell would make the shell's scheduling part of the protocol; instead the shell is told
one instant, ``deadline()``, and answers with one ``TimePassed`` (aioquic's shape). Re-arming a name replaces its
alarm, so a stale heap entry is recognised by its ticket and skipped, or swept out once stale ones outnumber the
living: most deadlines are cleared long before they would ring. Ties break by the order of arming, never by
name, so a replay wakes in the same order.
"""

import heapq
from dataclasses import dataclass
from enum import Enum
from typing import Final

from shoal_agent.core.facts import CallId
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId, SessionId

STALE_PER_LIVE_MAX: Final = 2
"""Heap entries per alarm that is set: a sweep then removes at least half, so its cost per alarm is constant."""
HEAP_ENTRIES_MIN: Final = 64
"""Below this nobody counts."""


class Routine(Enum):
    """What a node does over and over."""

    HEARTBEAT = "heartbeat"
    RECORD_SOON = "record-soon"
    """The record may have news."""
    DRIFT = "drift"
    """Readings have drifted from what the record says."""
    REFRESH = "refresh"
    """Say again whatever lasts."""
    EXCHANGE = "exchange"
    """Compare with a random peer."""
    PURSUE = "pursue"
    """Ask a peer again that had more to give."""
    SILENCE = "silence"
    """Somebody's heartbeat may be overdue."""
    PING = "ping"
    """Measure one link of the circle again."""
    SETTLE = "settle"
    """Bring this node's blocks in line with the plans there are."""
    STEER = "steer"
    """Ask whether another plan is better."""
    SLOT = "slot"
    """A tenth of a second of light services' work is over."""
    LEAVE = "leave"
    """Others had their time to take over: go."""


@dataclass(frozen=True, slots=True)
class RequestDeadline:
    """A client's request must be over."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class RequestDue:
    """Something that a client's request waits for may be overdue."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class HostDeadline:
    """A hosted session, or a shadow of one, must be over."""

    session: SessionId
    slot: int


@dataclass(frozen=True, slots=True)
class JournalDeadline:
    """What another ingress wrote of its session is kept no longer."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class ProbeDue:
    """The next step of asking a silent node: ask others too, judge, or ask again."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class SuspicionDue:
    """A suspected node is dead, unless it was heard."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class RelayDue:
    """Others wait to hear whether ``node`` answers us; it did not."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class ErrandDeadline:
    """A client's errand must be over."""

    errand: int


@dataclass(frozen=True, slots=True)
class CallDue:
    """A light-service call that another node is to run, or its probes, may be overdue."""

    call: CallId


WatchAlarm = ProbeDue | SuspicionDue | RelayDue


@dataclass(frozen=True, slots=True)
class VoteDue:
    """A voter has waited long enough for ``waited`` (one of AGREE/1's alarms) in ``round``."""

    deployment: DeploymentId
    epoch: Epoch
    waited: str
    round: int


@dataclass(frozen=True, slots=True)
class WordDue:
    """Say again what this voter has said about ``deployment``, or begin to vote about it."""

    deployment: DeploymentId


CouncilAlarm = VoteDue | WordDue

Alarm = (
    Routine
    | RequestDeadline
    | RequestDue
    | HostDeadline
    | JournalDeadline
    | CallDue
    | ErrandDeadline
    | WatchAlarm
    | CouncilAlarm
)


class Timers:
    """Named alarms on the caller's clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[Instant, int]] = []
        self._live: dict[Alarm, int] = {}
        self._names: dict[int, Alarm] = {}
        """The living by their tickets: every event asks for the deadline, and an integer is looked up fastest."""
        self._tickets = 0

    def set(self, name: Alarm, at: Instant) -> None:
        """Ring ``name`` at ``at``, instead of when it was to ring before."""
        self.clear(name)
        self._tickets += 1
        self._live[name] = self._tickets
        self._names[self._tickets] = name
        heapq.heappush(self._heap, (at, self._tickets))
        if len(self._heap) > STALE_PER_LIVE_MAX * len(self._live) + HEAP_ENTRIES_MIN:
            self._heap = [entry for entry in self._heap if entry[1] in self._names]
            heapq.heapify(self._heap)

    def clear(self, name: Alarm) -> None:
        """Forget ``name``; nothing happens if it is not set."""
        ticket = self._live.pop(name, None)
        if ticket is not None:
            del self._names[ticket]

    def deadline(self) -> Instant | None:
        """The next instant at which something rings."""
        heap = self._heap
        while heap and heap[0][1] not in self._names:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: Instant) -> list[Alarm]:
        """The names that ring by ``now``, in order; they are no longer set."""
        names = []
        while (at := self.deadline()) is not None and at <= now:
            name = self._names.pop(heapq.heappop(self._heap)[1])
            del self._live[name]
            names.append(name)
        return names

    def __contains__(self, name: Alarm) -> bool:
        return name in self._live

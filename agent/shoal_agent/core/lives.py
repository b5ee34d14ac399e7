"""A node's earlier lives and its later ones: what happens when a node forgets how often it was born.

The boot counter orders the lives of a node. If it was lost with the disk, the node speaks as one long gone and nobody
listens; so whoever hears a word older than one it keeps shows the speaker the later one. That has the speaker's own
signature, so it needs no other proof: the speaker goes on above it, once that is durable, and tells (``Reborn``) those
in the node who must not do twice what the lost life did.

The lost life may bear the very number of the present one, if both are the first. Then the speaker knows it by a record
it has not said, or said otherwise, under that number. A retained copy on a broker shows it as well as a peer does.

Two processes with one key would drive each other to ever later lives; so rebirth is rare, and noted in the log.
"""

from dataclasses import dataclass
from typing import Final

from shoal_agent.core.effects import AdoptIncarnation
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.records import RECORD_KINDS
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import Routine
from shoal_agent.core.voice import Voice
from shoal_protocol.envelope import Envelope
from shoal_protocol.ids import Incarnation, Instant, NodeId

HINT_SPACING_S: Final = 5.0
"""A speaker from the past is shown its later life at most so often by one node."""
HINTS_MAX: Final = 64
"""Speakers remembered for that."""
REBIRTH_SPACING_S: Final = 10.0
"""Between two rebirths."""
LIFE_MAX: Final = 10**17
"""No device boots so often: whoever signs this has the key and means harm, and the counter must be able to grow."""


@dataclass(frozen=True, slots=True)
class Reborn:
    """This node's state was lost; it goes on as ``incarnation``, and trusts nothing that it kept of its own deeds."""

    incarnation: Incarnation


class Lives:
    """What this node knows of lives: its own, and whom it reminded of theirs."""

    def __init__(self, tables: Tables, voice: Voice) -> None:
        self._tables = tables
        self._voice = voice
        self._reminded: dict[NodeId, Instant] = {}
        self._reborn_at: Instant | None = None

    def may_remind(self, speaker: NodeId, now: Instant) -> bool:
        """Whether to show ``speaker`` its later life now; a broker that repeats the past makes nobody busy."""
        last = self._reminded.pop(speaker, None)
        due = last is None or now - last >= HINT_SPACING_S
        self._reminded[speaker] = now if last is None or due else last
        if len(self._reminded) > HINTS_MAX:
            del self._reminded[next(iter(self._reminded))]
        return due

    def spoken(self, envelope: Envelope, wire: bytes, now: Instant, out: Outbox) -> list[Reborn]:
        """This node's own signature: if it has not said this yet, it said so in a life it has forgotten."""
        if self._was_said(envelope, wire) or envelope.incarnation >= LIFE_MAX:
            return []
        out.note("warning", "our own later word", incarnation=envelope.incarnation, sequence=envelope.sequence)
        if self._reborn_at is not None and now - self._reborn_at < REBIRTH_SPACING_S:
            return []
        self._reborn_at = now
        life, who = Incarnation(envelope.incarnation + 1), self._voice.identity.node
        out.add(AdoptIncarnation(life))
        self._voice.be_reborn(life)
        self._tables.story.tell(now, who, f"goes on as life {life}: its state was lost")
        self._tables.timers.set(Routine.REFRESH, now)
        return [Reborn(life)]

    def _was_said(self, envelope: Envelope, wire: bytes) -> bool:
        """Whether this life, or one before it, said this."""
        life = self._voice.identity.incarnation
        if envelope.incarnation == life and isinstance(envelope.message, RECORD_KINDS):
            return self._voice.said(envelope.sequence, wire)
        return (envelope.incarnation, envelope.sequence) <= (life, self._voice.sequence)

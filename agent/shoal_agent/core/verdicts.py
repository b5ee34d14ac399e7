"""What is said and recorded of the nodes that are watched: suspicions, verdicts, accusations, and the story of them.

A suspicion begins with an unanswered ping of ours, is told to the cluster as ``Accused(SUSPECT)``, and ends either with
a sign of life or, when its time is over, as DEAD and ``Accused(DEAD)``. Who has heard enough others say the same does
not repeat it: three accusations settle a matter, and a shard has fifty observers.

Every change of standing is one line of the story, with the numbers it rests on.
"""

from typing import Final

from shoal_agent.core.facts import Standing, StandingChanged, Symptom
from shoal_agent.core.health import LATE_S, Health
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.sight import Sight, Step
from shoal_agent.core.suspicion import CONFIRMATIONS, REFUSED, UNANSWERED, Span, Suspicion
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import ProbeDue, SuspicionDue
from shoal_agent.core.voice import Voice
from shoal_protocol.ids import Incarnation, Instant, NodeId, Sequence
from shoal_protocol.messages import Accused, Verdict

ACCUSED_S: Final = 5.0
"""An accusation of this age no longer confirms anything."""
ACCUSERS_MAX: Final = 16
"""Accusers of one node that are remembered before we suspect it ourselves."""

Changes = tuple[StandingChanged, ...]


class Verdicts:
    """The suspicions of one node, and its standing as a witness."""

    def __init__(self, tables: Tables, voice: Voice) -> None:
        self._tables = tables
        self._voice = voice
        self._suspicions: dict[NodeId, Suspicion] = {}
        self._due: dict[NodeId, Instant] = {}
        """When each suspicion's alarm rings."""
        self.health = Health()
        self.circle: tuple[NodeId, ...] = ()
        """Who is told directly, whatever the brokers do."""

    @property
    def broker_up(self) -> bool:
        """Whether any broker is connected."""
        return any(self._tables.brokers.values())

    # --- suspicion ------------------------------------------------------------------------------------------------

    def suspect(self, sight: Sight, span: Span, detail: str, now: Instant, out: Outbox) -> Changes:
        """A ping of ours got no answer, or was refused."""
        node = sight.node
        if span is UNANSWERED:
            self.health.silent(node)
        else:
            self.health.explained(node)
        self.weigh(now)
        known = self._suspicions.get(node)
        if known is not None:
            if span is REFUSED:
                known.span = span
            self._arm(node, known, now)
            return ()
        others = self.health.living_count - (1 if self.health.is_living(node) else 0)
        suspicion = Suspicion(now, min(CONFIRMATIONS, others), span)
        for accuser, at in sight.accusers.items():
            if now - at <= ACCUSED_S:
                suspicion.accuse(accuser)
        self._suspicions[node] = suspicion
        self._arm(node, suspicion, now)
        changes = self.stand(sight, Standing.SUSPECT, sight.symptom(), now, detail)
        self._say(sight, suspicion, Verdict.SUSPECT, now, out)
        return changes

    def accuse(self, sight: Sight, accuser: NodeId, now: Instant) -> None:
        """``accuser`` does not reach it either."""
        if accuser in sight.accusers or len(sight.accusers) < ACCUSERS_MAX:
            sight.accusers[accuser] = now
            sight.calm = False
        suspicion = self._suspicions.get(sight.node)
        if suspicion is not None and suspicion.accuse(accuser):
            self._arm(sight.node, suspicion, now)

    def acquit(self, node: NodeId) -> None:
        """``node`` is not suspected any more."""
        if self._suspicions.pop(node, None) is not None:
            del self._due[node]
            self._tables.timers.clear(SuspicionDue(node))

    def due(self, sight: Sight, now: Instant, out: Outbox) -> Changes:
        """The time of a suspicion is over, unless it was our time that stood still."""
        node = sight.node
        suspicion = self._suspicions.get(node)
        if suspicion is None:
            return ()
        if now - self._due[node] > LATE_S:
            self.health.sicken(now)
            self._arm(node, suspicion, Instant(now + suspicion.span.min_s))
            return ()
        self.weigh(now)
        if self.health.isolated and suspicion.span is UNANSWERED:
            suspicion.since = now
            self._arm(node, suspicion, now)
            return ()
        if suspicion.ends(self.health.multiplier) > now:
            self._arm(node, suspicion, now)
            return ()
        self.acquit(node)
        detail = f"after {now - suspicion.since:.2f} s of suspicion, with {len(suspicion.accusers)} other accusers"
        changes = self.stand(sight, Standing.DEAD, sight.symptom(), now, detail)
        self._say(sight, suspicion, Verdict.DEAD, now, out)
        return changes

    def _arm(self, node: NodeId, suspicion: Suspicion, earliest: Instant) -> None:
        self._due[node] = Instant(max(earliest, suspicion.ends(self.health.multiplier)))
        self._tables.timers.set(SuspicionDue(node), self._due[node])

    def _say(self, sight: Sight, suspicion: Suspicion, verdict: Verdict, now: Instant, out: Outbox) -> None:
        if self.health.isolated or len(suspicion.accusers) > CONFIRMATIONS:
            return
        life, sequence = Incarnation(sight.newest_life), Sequence(sight.newest_sequence)
        message = Accused(sight.node, life, sequence, verdict, sight.symptom().value)
        self._voice.say(message, now, out, direct=[node for node in self.circle if node != sight.node])
        out.count("accusations_made", verdict.name.lower())

    # --- standing -------------------------------------------------------------------------------------------------

    def stand(self, sight: Sight, new: Standing, why: Symptom, now: Instant, detail: str = "") -> Changes:
        """``sight.node`` is seen as ``new`` from now on."""
        node, old = sight.node, sight.standing
        sight.standing = new
        sight.calm = sight.is_settled()
        if old is new:
            return ()
        sight.since = now
        if sight.over:
            sight.step = Step.IDLE
            self.acquit(node)
            self._tables.timers.clear(ProbeDue(node))
            self.health.gone(node)
            self.weigh(now)
        self._tables.membership.stand(node, new)
        silent_s = sight.silent_s(now)
        text = f"{old} -> {new} ({why}): silent {silent_s:.2f} s, {sight.failures} pings unanswered"
        self._tables.story.tell(now, node, f"{text}, {detail}" if detail else text)
        return (StandingChanged(node, old, new, why, silent_s),)

    def lives(self, sight: Sight, now: Instant) -> None:
        """There is a sign of it: nothing is held against it any more."""
        sight.accusers.clear()
        sight.hearsay_since = None
        self.spare(sight, now)

    def spare(self, sight: Sight, now: Instant) -> None:
        """It is not dead, as far as we know."""
        self.acquit(sight.node)
        self.health.lives(sight.node)
        self.weigh(now)

    def weigh(self, now: Instant) -> None:
        """Judge again whether it is rather we who are cut off."""
        if self.health.weigh(now, broker_up=self.broker_up):
            self._tables.story.tell(now, "self", "half of the living are silent at once: it may be this node")
        self._tables.isolated = self.health.isolated

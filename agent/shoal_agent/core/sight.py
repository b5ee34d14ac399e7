"""What one node has seen of another, and what follows from it: the judgements of the watch, without its deeds.

                        heard lately                      beats overdue, or its connection broke
    ping in time        ALIVE (MQTT_LOST if only by frames) ALIVE, and MQTT_LOST if no broker brings anything
    ping late           SLOW, until three are in time       SLOW
    ping unanswered     LINK_LOST                           SUSPECT; LINK_LOST if others reach it

A word is an envelope of the node's own that came as it was said; an answer is that to a ping. An unanswered ping and a
word that came *after* it was sent together mean that only the link is gone; a single failure does not say so yet,
because a node that paused a moment ago was heard a moment ago, too. Once a link counts as lost, only an answer says
otherwise.

Instants of what never happened are 0, which is before everything.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from shoal_agent.core.facts import Road, Standing, Symptom
from shoal_protocol.ids import Instant, NodeId

PING_S: Final = 0.5
"""An answer within this is in time: on a LAN it takes 1 ms, two new TLS links 100 ms, a busy interpreter 200 ms."""
SLOW_PING_S: Final = 2.0
"""Patience with a node known to be slow, so that it does not flap."""
ON_TIME_MIN: Final = 3
"""Answers in time that make a slow node well."""
FAILURES_MIN: Final = 2
"""Unanswered pings that make a link lost though its other end is heard."""
UNDER_WAY_S: Final = 0.25
"""What a node said before it died arrives within this after its death was noticed."""
MQTT_S: Final = 3.3
"""Nothing by a broker for so long, three beats: its link to the brokers is down, or theirs to us."""
HEARSAY_S: Final = 15.0
"""That others reach a node counts so long without a new word of its own, which records bring every 10 s."""

LIVING: Final = (Standing.ALIVE, Standing.SLOW, Standing.LINK_LOST, Standing.MQTT_LOST)
OVER: Final = (Standing.DEAD, Standing.LEFT)


class Step(Enum):
    """How far asking a node has come."""

    IDLE = "idle"
    ASKED = "asked"
    HELPED = "helped"


@dataclass(slots=True)
class Sight:
    """One watched node."""

    node: NodeId
    newest_life: int = 0
    newest_sequence: int = 0
    """The stamp of the newest thing it said, as far as we know."""
    life: int = 0
    """The incarnation that ``standing`` is about: the newest that was heard itself."""
    standing: Standing = Standing.UNKNOWN
    since: float = 0.0
    word_at: float = 0.0
    brokered_at: float = 0.0
    """Its last word that a broker brought, or when a broker came up here."""
    answered_at: float = 0.0
    broken_at: float = 0.0
    refused_at: float = 0.0
    refusal_void: bool = False
    """It was heard although nobody listens there: no evidence, until a ping is answered."""
    links: int = 0
    """Connections with it that stand, in either direction."""
    link_lost: bool = False
    accusers: dict[NodeId, Instant] = field(default_factory=dict)
    hearsay_since: float | None = None
    """Since when only others vouch for it."""
    vouched: bool = False
    """Somebody reached it in our place since we last asked."""
    step: Step = Step.IDLE
    doubted_at: float = 0.0
    """When somebody here first waited for it in vain, and it gave no sign since."""
    asked_at: float = 0.0
    nonce: int = 0
    series: int = 0
    """The nonce of the first ping since the last answer."""
    due: float = 0.0
    """When its ProbeDue is to ring."""
    failures: int = 0
    """Pings unanswered in a row."""
    on_time: int = 0
    """Pings answered in time in a row."""
    calm: bool = False
    """Alive, never accused and not being asked: another word of it changes nothing."""

    @property
    def patience_s(self) -> float:
        """How long to wait for the answer to a ping."""
        return SLOW_PING_S if self.standing is Standing.SLOW else PING_S

    @property
    def living(self) -> bool:
        """Whether there is some sign of it."""
        return self.standing in LIVING

    @property
    def over(self) -> bool:
        """Whether nothing is awaited of it."""
        return self.standing in OVER

    def silent_s(self, now: Instant) -> float:
        """Since the last sign of it; 0 if there never was one."""
        sign_at = max(self.word_at, self.answered_at)
        return now - sign_at if sign_at else 0.0

    def doubt(self, now: Instant) -> bool:
        """Somebody waits for it in vain: whether it gave no sign for as long as a ping takes since that began."""
        if max(self.word_at, self.answered_at) >= self.doubted_at:
            self.doubted_at = now
        return now >= self.doubted_at + PING_S

    def is_settled(self) -> bool:
        """Whether the next word of it will change nothing; to be kept in ``calm``."""
        return self.standing is Standing.ALIVE and self.step is Step.IDLE and not self.accusers

    def believe_hearsay(self, now: Instant) -> bool:
        """Whether that somebody else reaches it still counts; the first time starts the clock."""
        if self.hearsay_since is None:
            self.hearsay_since = now
        return now - self.hearsay_since <= HEARSAY_S

    def is_stale_word(self, now: Instant) -> bool:
        """Whether a word that comes now was under way when nobody listened any more."""
        return self.standing is Standing.SUSPECT and self.refused_at > 0.0 and now < self.refused_at + UNDER_WAY_S

    def answered(self, now: Instant) -> None:
        """It answered a ping: it lives, and so does the link."""
        self.answered_at = now
        self.failures = self.series = 0
        self.refused_at = self.broken_at = 0.0
        self.refusal_void = self.link_lost = self.vouched = False

    # --- judgements -----------------------------------------------------------------------------------------------

    def after_word(self, road: Road, now: Instant, *, broker_up: bool) -> Standing:
        """A word of it came, already noted here."""
        if not self.living:
            return Standing.LINK_LOST if self.link_lost else Standing.ALIVE
        by_frames_only = broker_up and road is Road.DIRECT and now - self.brokered_at > MQTT_S
        if self.standing is Standing.ALIVE and by_frames_only:
            return Standing.MQTT_LOST
        if self.standing is Standing.MQTT_LOST and not by_frames_only:
            return Standing.ALIVE
        return self.standing

    def after_answer(self, took_s: float, now: Instant, *, broker_up: bool) -> Standing:
        """It answered a ping."""
        if took_s > PING_S:
            self.on_time = 0
            return Standing.SLOW
        self.on_time += 1
        if self.standing is Standing.SLOW and self.on_time < ON_TIME_MIN:
            return Standing.SLOW
        if broker_up and now - self.brokered_at > MQTT_S:
            return Standing.MQTT_LOST
        return Standing.ALIVE

    def after_no_answer(self, *, silent: bool) -> Standing:
        """It did not answer a ping; ``silent``: its beats are overdue as well."""
        self.failures += 1
        self.on_time = 0
        heard_since = self.word_at > self.asked_at
        broken = self.broken_at > 0.0 and self.word_at < self.broken_at + UNDER_WAY_S
        if not heard_since and self.vouched:
            return Standing.LINK_LOST
        if not heard_since and (silent or broken):
            return Standing.SUSPECT
        if heard_since and self.failures >= FAILURES_MIN:
            return Standing.LINK_LOST
        return self.standing

    def symptom(self) -> Symptom:
        """Why it gives no sign."""
        if self.refused_at > self.word_at and not self.refusal_void:
            return Symptom.KILLED
        if self.broken_at > self.word_at:
            return Symptom.BROKEN
        return Symptom.PAUSED if self.links else Symptom.SILENT

"""The one door for bytes from brokers.

Whatever a broker hands over is untrusted, its topic included. Behind this door there are only envelopes whose
sender is in the roster, whose role may say such a thing, whose signature covers these very bytes, whose topic is
the sender's own, which are not too old and were never accepted before. Everything else is counted by its reason.

Every node is connected to all brokers, so each envelope arrives several times: the same bytes from *another* broker
are a copy, not a replay. So is what a broker says it repeats (a retained message after a reconnect, a second try); a
broker that lies about it gains nothing, since a copy is dropped like a replay and only counted elsewhere. The bytes
lately accepted recognise all of them before the costly signature check. They are kept in two generations: when the
young one is full it becomes the old one, which is forgotten whole; nothing is moved, and nothing is sorted.

``Opener`` is a seam. Whether bytes are a member's word, and may come on a topic, is a function of these, the roster
and the cluster alone; so a world of a thousand nodes may open each envelope once and share what came out.
"""

from collections.abc import Callable
from typing import Final

from shoal_agent.core.events import EnvelopeReceived
from shoal_protocol.envelope import Envelope, check_age, open_envelope
from shoal_protocol.errors import OversizedMessage, RemoteProtocolError, ReplayedMessage
from shoal_protocol.ids import ClusterId, NodeId
from shoal_protocol.limits import CLOCK_SKEW_MS_MAX, ENVELOPE_BYTES_MAX
from shoal_protocol.replay import HeardBefore, ReplayWindow
from shoal_protocol.roster import TrustedRoster
from shoal_protocol.topics import check_topic, parse

COPIES_MAX: Final = 1024
"""Envelopes lately accepted, both generations together: with 50 heartbeats a second, at least ten seconds, far longer
than two brokers drift apart."""
COPIES_BYTES_MAX: Final = 4 * 1024 * 1024
"""Their bytes: 16 of the largest envelopes, or all of 1,024 heartbeats and records."""


class DuplicateEnvelope(Exception):  # noqa: N818 - an outcome, not an error
    """A copy of an accepted envelope that is to be expected: from another broker, or repeated by its own."""


_Bringers = str | tuple[str, ...]
"""The brokers an envelope came from: one, or several."""

Opener = Callable[[bytes, str | None, TrustedRoster, ClusterId], Envelope]
"""The member's word that the bytes are, if it may come on that topic (None: that does not matter), or
RemoteProtocolError."""


def open_addressed(wire: bytes, topic: str | None, roster: TrustedRoster, cluster: ClusterId) -> Envelope:
    """The opener of a real node: everything is verified, every time."""
    named = None if topic is None else parse(topic)
    envelope = open_envelope(wire, roster, cluster)
    if named is not None:
        check_topic(named, envelope)
    return envelope


class Gate:
    """Opens envelopes; keeps what is needed to accept each only once."""

    def __init__(
        self, cluster: ClusterId, node: NodeId, roster: TrustedRoster, opener: Opener = open_addressed
    ) -> None:
        self._cluster = cluster
        self._node = node
        self._roster = roster
        self._opener = opener
        self._replay = ReplayWindow()
        self._young: dict[bytes, _Bringers] = {}
        self._young_bytes = 0
        self._old: dict[bytes, _Bringers] = {}

    def open(self, arrival: EnvelopeReceived, wall_ms: int) -> Envelope:
        """The verified envelope; RemoteProtocolError, or DuplicateEnvelope if it is a harmless copy."""
        wire, young = arrival.wire, self._young
        size = len(wire)
        if size > ENVELOPE_BYTES_MAX:
            raise OversizedMessage(f"{size} bytes")
        if wire in young or wire in self._old:
            self._refuse_copy(arrival)
        envelope = self._opener(wire, arrival.topic, self._roster, self._cluster)
        if not -CLOCK_SKEW_MS_MAX <= wall_ms - envelope.sent_ms <= envelope.ttl_ms:
            check_age(envelope, wall_ms, known_sender=self._replay.knows(envelope.sender))
        try:
            self._replay.accept(envelope)
        except HeardBefore:
            if arrival.redelivered:
                raise DuplicateEnvelope from None
            raise
        if len(young) >= COPIES_MAX // 2 or self._young_bytes + size > COPIES_BYTES_MAX // 2:
            self._old, self._young, self._young_bytes = young, {}, 0
            young = self._young
        young[wire] = arrival.broker
        self._young_bytes += size
        return envelope

    def reopen(self, wire: bytes) -> Envelope:
        """An envelope this node stored, or that somebody relays: verified, but neither age nor replay matters."""
        return self._opener(wire, None, self._roster, self._cluster)

    def _refuse_copy(self, arrival: EnvelopeReceived) -> None:
        wire, broker = arrival.wire, arrival.broker
        generation = self._young if wire in self._young else self._old
        known = generation[wire]
        brokers = (known,) if isinstance(known, str) else known
        if broker not in brokers:
            generation[wire] = (*brokers, broker)
        elif not arrival.redelivered:
            raise ReplayedMessage("the same bytes from the same broker")
        raise DuplicateEnvelope


__all__ = ["DuplicateEnvelope", "Gate", "Opener", "RemoteProtocolError", "open_addressed"]

"""The one door for bytes from brokers.

Whatever a broker hands over is untrusted, its topic included. Behind this door there are only envelopes whose
sender is in the roster, whose role may say such a thing, whose signature covers these very bytes, whose topic is
the sender's own, which are not too old and were never accepted before. Everything else is counted by its reason.

Every node is connected to all brokers, so each envelope arrives several times: the same bytes from *another* broker
are a copy, not a replay. So is what a broker says it repeats (a retained message after a reconnect, a second try); a
broker that lies about it gains nothing, since a copy is dropped like a replay and only counted elsewhere. A small ring
of digests recognises all of them before the costly signature check.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from shoal_protocol.envelope import Envelope, check_age, open_envelope
from shoal_protocol.errors import OversizedMessage, RemoteProtocolError, ReplayedMessage
from shoal_protocol.ids import ClusterId, NodeId
from shoal_protocol.limits import ENVELOPE_BYTES_MAX
from shoal_protocol.replay import ReplayWindow
from shoal_protocol.roster import TrustedRoster
from shoal_protocol.topics import check_topic, parse

COPIES_MAX: Final = 4096
"""Digests of envelopes lately accepted: a few seconds of 1,000 nodes, far longer than two brokers drift apart."""


class DuplicateEnvelope(Exception):  # noqa: N818 - an outcome, not an error
    """A copy of an accepted envelope that is to be expected: from another broker, or repeated by its own."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes as a broker delivered them."""

    broker: str
    topic: str
    wire: bytes
    redelivered: bool = False


class Gate:
    """Opens envelopes; keeps what is needed to accept each only once."""

    def __init__(self, cluster: ClusterId, node: NodeId, roster: TrustedRoster) -> None:
        self._cluster = cluster
        self._node = node
        self._roster = roster
        self._replay = ReplayWindow()
        self._copies: OrderedDict[bytes, list[str]] = OrderedDict()

    def open(self, arrival: Arrival, wall_ms: int) -> Envelope:
        """The verified envelope; RemoteProtocolError, or DuplicateEnvelope if it is a harmless copy."""
        if len(arrival.wire) > ENVELOPE_BYTES_MAX:
            raise OversizedMessage(f"{len(arrival.wire)} bytes")
        mark = hashlib.blake2b(arrival.wire, digest_size=16).digest()
        self._refuse_copy(mark, arrival)
        topic = parse(arrival.topic)
        envelope = open_envelope(arrival.wire, self._roster, self._cluster)
        check_topic(topic, envelope)
        check_age(envelope, wall_ms, known_sender=self._replay.knows(envelope.sender))
        try:
            self._replay.accept(envelope)
        except ReplayedMessage:
            if arrival.redelivered:
                raise DuplicateEnvelope from None
            raise
        self._remember(mark, arrival.broker)
        return envelope

    def reopen(self, wire: bytes) -> Envelope:
        """An envelope this node itself stored after accepting it: verified again, but neither age nor replay matter."""
        return open_envelope(wire, self._roster, self._cluster)

    def _refuse_copy(self, mark: bytes, arrival: Arrival) -> None:
        brokers = self._copies.get(mark)
        if brokers is None:
            return
        if arrival.broker not in brokers:
            brokers.append(arrival.broker)
        elif not arrival.redelivered:
            raise ReplayedMessage("the same bytes from the same broker")
        raise DuplicateEnvelope

    def _remember(self, mark: bytes, broker: str) -> None:
        self._copies[mark] = [broker]
        if len(self._copies) > COPIES_MAX:
            self._copies.popitem(last=False)


__all__ = ["Arrival", "DuplicateEnvelope", "Gate", "RemoteProtocolError"]

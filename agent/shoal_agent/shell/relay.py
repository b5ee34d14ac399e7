"""Links through brokers, for two nodes that cannot connect: opened, told apart, and nothing believed before it is due.

::

    dialler   knock (OPEN) on every broker, twice a second ── OPENED ──► the circuit stands, the link says Hello
    answerer  OPEN ── signed by an agent ──► OPENED, wait ── the first sealed message ──► the circuit stands

An OPEN may be played back by a broker at any time. So it costs its hearer an answer and a place among few that wait,
never a link that stands: that is replaced when a sealed message proves that the caller has the secret of its key.

A circuit speaks by one broker, the one that brought the last message of its other end. A message that was published in
vain goes by the next one, so a broker that dies costs a quarter of a second and no message.

Whatever a broker may have made up, or played back, is refused here, counted, and changes nothing.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from shoal_agent.core.facts import LinkFault
from shoal_agent.shell.circuit import Circuit
from shoal_agent.shell.links import Link
from shoal_agent.shell.ports import Carrier
from shoal_protocol.errors import MalformedMessage, RemoteProtocolError
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import CIRCUIT_BYTES, RELAY_OPEN_S_MAX, RELAY_OPENINGS_MAX, RELAYS_MAX
from shoal_protocol.relay import (
    SECRET_BYTES,
    CircuitBox,
    CircuitStatement,
    RelayKind,
    circuit_keys,
    circuit_of,
    ephemeral_of,
    kind_of,
    read_circuit,
    sign_circuit,
)
from shoal_protocol.roster import TrustedRoster
from shoal_protocol.sealing import Sealer
from shoal_protocol.topics import RelayTopic, build, parse

KNOCK_S: Final = 0.5
"""An opening that is not answered is said again: MQTT promises nothing."""
FULL: Final = "full"
UNKNOWN: Final = "unknown circuit"

Count = Callable[[str, str, int], None]


@dataclass(slots=True)
class _Opening:
    """We knocked, and wait for an answer."""

    peer: NodeId
    link: Link
    secret: bytes
    message: bytes
    gives_up_at: float


@dataclass(frozen=True, slots=True)
class _Caller:
    """Somebody knocked and was answered; perhaps long ago, and a broker played it back."""

    peer: NodeId
    box: CircuitBox
    answer: bytes
    forgotten_at: float


class Relay:
    """All circuits of one node. Use it on the loop's thread."""

    def __init__(self, node: NodeId, roster: TrustedRoster, sealer: Sealer, carrier: Carrier, count: Count) -> None:
        self._node = node
        self._roster = roster
        self._cluster = roster.cluster
        self._sealer = sealer
        self._carrier = carrier
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._welcome: Callable[[NodeId], Link] | None = None
        self._openings: dict[bytes, _Opening] = {}
        self._callers: dict[bytes, _Caller] = {}
        self._circuits: dict[bytes, Circuit] = {}
        self._brokers: dict[bytes, str] = {}
        """By which broker a circuit speaks."""

    @property
    def open_count(self) -> int:
        """Circuits that stand, in either direction."""
        return len(self._circuits)

    # --- the port of the data plane -----------------------------------------------------------------------------------

    def attach(self, welcome: Callable[[NodeId], Link]) -> None:
        """From now on whoever calls gets a link from ``welcome``."""
        self._welcome = welcome

    def dial(self, link: Link, peer: NodeId) -> None:
        """Open a circuit to ``peer`` below ``link``; if nobody answers, the link ends."""
        if len(self._openings) + len(self._circuits) >= RELAYS_MAX:
            link.end("too many relayed links")
            return
        circuit, secret = secrets.token_bytes(CIRCUIT_BYTES), secrets.token_bytes(SECRET_BYTES)
        message = self._sign(peer, circuit, secret, None)
        opening = _Opening(peer, link, secret, message, self._loop.time() + RELAY_OPEN_S_MAX)
        self._openings[circuit] = opening
        self._carrier.hurry(on=True)
        self._knock(circuit, opening)

    def drained(self, link: Link) -> bool:
        """Whether everything that ``link`` wrote is acknowledged."""
        return all(circuit.drained for circuit in self._circuits.values() if circuit.link is link)

    # --- messages -----------------------------------------------------------------------------------------------------

    def arrived(self, broker: str, topic: str, message: bytes) -> None:
        """``broker`` brought a message on a topic of ours."""
        try:
            place = parse(topic)
            if not isinstance(place, RelayTopic) or place.node != self._node:
                raise MalformedMessage(f"{topic} is no relay topic of ours")
            kind = kind_of(message)
            if kind is RelayKind.OPEN:
                self._called(broker, place.source, message)
            elif kind is RelayKind.OPENED:
                self._answered(broker, place.source, message)
            else:
                self._sealed(broker, place.source, message)
        except RemoteProtocolError as fault:
            self._refuse(fault.reason)

    def _refuse(self, reason: str) -> None:
        self._count("relay_refused", reason, 1)

    def _publish(self, broker: str, peer: NodeId, message: bytes) -> None:
        self._count("relay_bytes", "out", len(message))
        self._carrier.carry(broker, build(RelayTopic(self._cluster, peer, self._node)), message)

    def _read(self, source: NodeId, message: bytes) -> CircuitStatement:
        said = read_circuit(message, self._roster, self._cluster, self._node)
        if said.sender != source:
            raise MalformedMessage(f"{said.sender} speaks on the topic of {source}")
        return said

    def _sign(self, peer: NodeId, circuit: bytes, secret: bytes, answers: bytes | None) -> bytes:
        ours = CircuitStatement(self._cluster, self._node, peer, circuit, ephemeral_of(secret), answers)
        return sign_circuit(self._sealer, ours)

    # --- we call ------------------------------------------------------------------------------------------------------

    def _knock(self, circuit: bytes, opening: _Opening) -> None:
        """Say it on every broker, until it is answered or given up."""
        if self._openings.get(circuit) is not opening:
            return
        if self._loop.time() >= opening.gives_up_at:
            del self._openings[circuit]
            self._rest()
            opening.link.end("nobody answered through the brokers", LinkFault.SILENT)
            return
        for broker in self._carrier.up:
            self._publish(broker, opening.peer, opening.message)
        self._loop.call_later(KNOCK_S, self._knock, circuit, opening)

    def _answered(self, broker: str, source: NodeId, message: bytes) -> None:
        said = self._read(source, message)
        opening = self._openings.get(said.circuit)
        if opening is None:
            if said.circuit not in self._circuits:
                self._refuse(UNKNOWN)
            return
        if opening.peer != source or said.answers != ephemeral_of(opening.secret):
            raise MalformedMessage(f"{source} answers what it was not asked")
        ours, theirs = circuit_keys(opening.secret, said.ephemeral, opening.message, message)
        del self._openings[said.circuit]
        self._stand(said.circuit, broker, source, opening.link, CircuitBox(said.circuit, ours, theirs))

    # --- we are called ------------------------------------------------------------------------------------------------

    def _called(self, broker: str, source: NodeId, message: bytes) -> None:
        said = self._read(source, message)
        if said.circuit in self._circuits:
            return
        caller = self._callers.get(said.circuit)
        if caller is None:
            caller = self._greet(said, message)
        if caller is None or caller.peer != source:
            self._refuse(FULL)
            return
        self._publish(broker, source, caller.answer)

    def _greet(self, said: CircuitStatement, message: bytes) -> _Caller | None:
        """Remember a caller until it proves itself; None if there is no place."""
        now = self._loop.time()
        self._callers = {name: caller for name, caller in self._callers.items() if now < caller.forgotten_at}
        of_the_same = [name for name, caller in self._callers.items() if caller.peer == said.sender]
        if len(of_the_same) >= RELAY_OPENINGS_MAX:
            del self._callers[of_the_same[0]]
        elif len(self._callers) + len(self._circuits) >= RELAYS_MAX:
            return None
        secret = secrets.token_bytes(SECRET_BYTES)
        answer = self._sign(said.sender, said.circuit, secret, said.ephemeral)
        theirs, ours = circuit_keys(secret, said.ephemeral, message, answer)
        caller = _Caller(said.sender, CircuitBox(said.circuit, ours, theirs), answer, now + 2 * RELAY_OPEN_S_MAX)
        self._callers[said.circuit] = caller
        return caller

    # --- circuits -----------------------------------------------------------------------------------------------------

    def _sealed(self, broker: str, source: NodeId, message: bytes) -> None:
        name = circuit_of(message)
        circuit, caller = self._circuits.get(name), self._callers.get(name)
        known = circuit or caller
        if known is None or known.peer != source:
            self._refuse(UNKNOWN)
            return
        if circuit is None:
            assert caller is not None
            assert self._welcome is not None, "attached before anybody is heard"
            caller.box.open(message)
            del self._callers[name]
            circuit = self._stand(name, broker, source, self._welcome(source), caller.box)
        said = circuit.open(message)
        self._count("relay_bytes", "in", len(message))
        if name in self._circuits:
            self._brokers[name] = broker
        circuit.received(*said)

    def _stand(self, name: bytes, broker: str, peer: NodeId, link: Link, box: CircuitBox) -> Circuit:
        def ended(_: Circuit) -> None:
            del self._circuits[name], self._brokers[name]
            self._rest()

        circuit = Circuit(peer, link, box, partial(self._say, name, peer), ended)
        self._circuits[name] = circuit
        self._brokers[name] = broker
        self._carrier.hurry(on=True)
        link.begin(circuit, peer)
        return circuit

    def _say(self, name: bytes, peer: NodeId, message: bytes, *, in_vain: bool = False) -> None:
        """Publish by the circuit's broker, or by the next one that is up."""
        up, broker = self._carrier.up, self._brokers[name]
        if not up:
            return
        if in_vain or broker not in up:
            broker = up[(up.index(broker) + 1) % len(up)] if broker in up else up[0]
            self._brokers[name] = broker
        self._publish(broker, peer, message)

    def _rest(self) -> None:
        if not self._circuits and not self._openings:
            self._carrier.hurry(on=False)

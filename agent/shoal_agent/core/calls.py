"""Light-service calls: made here or there, answered with the same event.

A conductor asks for a call on a node; if that is this node it becomes a ``CallService`` effect, otherwise a
``ServiceCall`` frame whose ``ServiceResult`` is turned back into ServiceReturned or ServiceFailed. Calls that peers
make of this node are kept apart, bounded, and answered to the peer. A lost link gives up every call that was on it,
so nobody waits for an answer that cannot come. ``deadline_ms`` is what remains, counted from arrival: whoever runs the
call answers it as late if it could not begin before.
"""

from dataclasses import dataclass

from shoal_agent.core.effects import CallService
from shoal_agent.core.events import ServiceFailed, ServiceReturned
from shoal_agent.core.facts import CallId
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.services import Parcel, pack
from shoal_protocol.headers import ServiceCall, ServiceFault, ServiceResult
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import LEVEL_MILLI_MAX, REASON_CHARS_MAX, SERVICE_CALLS_MAX

Answer = ServiceReturned | ServiceFailed


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a light service, wherever that is."""

    service: str
    method: str
    request: Parcel
    left_ms: int
    """Until nobody wants the answer any more."""
    owed: float = 0.0
    """Z of the class of the request that it is part of."""


def came_too_late(fault: ServiceFault, left_ms: int) -> bool:
    """Whether a call that failed has only missed its deadline.

    Others know the deadline in whole milliseconds, so their "too late" may come before our own alarm. What a service
    refuses it would have refused in time as well.
    """
    return left_ms == 0 and fault is not ServiceFault.REFUSED


class Calls:
    """Calls under way, in both directions."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._next = 0
        self._abroad: dict[CallId, NodeId] = {}
        self._served: dict[CallId, tuple[NodeId, int]] = {}

    def fresh(self) -> CallId:
        """An id never used before by this node."""
        self._next += 1
        return CallId(self._next)

    def make(self, where: NodeId, ask: Ask, out: Outbox) -> CallId:
        """Have ``where`` answer; only a request that travels is packed."""
        call = self.fresh()
        if where == self._node:
            out.add(CallService(call, ask.service, ask.method, ask.request, None, ask.left_ms / 1000))
        else:
            self.send(call, where, ask, out)
        return call

    def send(self, call: CallId, where: NodeId, ask: Ask, out: Outbox) -> None:
        """Have ``where``, another node, answer ``call``."""
        owed_milli = min(LEVEL_MILLI_MAX, round(1000 * ask.owed))
        self._abroad[call] = where
        # A member of an enum of strings is a string to Python and none to the codec.
        header = ServiceCall(call, str(ask.service), str(ask.method), ask.left_ms, owed_milli)
        out.send(where, header, pack(ask.request))

    def result(self, peer: NodeId, header: ServiceResult, payload: Payload) -> Answer | None:
        """The answer in a frame, as an event; None if nobody asked that peer."""
        call = CallId(header.call)
        if self._abroad.get(call) != peer:
            return None
        del self._abroad[call]
        if header.fault is not None:
            return ServiceFailed(call, header.error, header.fault)
        return ServiceReturned(call, payload if isinstance(payload, bytes) else b"")

    def serve(self, peer: NodeId, header: ServiceCall, payload: Payload, out: Outbox) -> None:
        """A peer calls a service of this node."""
        effect = self.accept(peer, header, payload, out)
        if effect is not None:
            out.add(effect)

    def accept(self, peer: NodeId, header: ServiceCall, payload: Payload, out: Outbox) -> CallService | None:
        """What is to be done about a peer's call; None if there is no room for it."""
        if len(self._served) >= SERVICE_CALLS_MAX:
            busy = f"{SERVICE_CALLS_MAX} calls are under way"
            out.send(peer, ServiceResult(header.call, busy, ServiceFault.BUSY))
            return None
        call = self.fresh()
        self._served[call] = (peer, header.call)
        request = payload if isinstance(payload, bytes) else b""
        return CallService(call, header.service, header.method, request, None, header.deadline_ms / 1000)

    def answered(self, event: Answer, out: Outbox) -> None:
        """Pass the answer to a peer's call on; what nobody waits for any more is dropped."""
        asked = self._served.pop(event.call, None)
        if asked is None:
            return
        peer, theirs = asked
        if isinstance(event, ServiceFailed):
            out.send(peer, ServiceResult(theirs, event.reason[:REASON_CHARS_MAX] or "refused", event.fault))
        else:
            out.send(peer, ServiceResult(theirs, "", None), pack(event.result))

    def peer_lost(self, peer: NodeId) -> list[CallId]:
        """The calls that ``peer`` will not answer any more; its own calls are forgotten."""
        self._served = {call: asked for call, asked in self._served.items() if asked[0] != peer}
        lost = [call for call, where in self._abroad.items() if where == peer]
        for call in lost:
            del self._abroad[call]
        return lost

    def forget(self, call: CallId) -> None:
        """Nobody waits for ``call`` any more; its answer, if it still comes, will be dropped."""
        self._abroad.pop(call, None)

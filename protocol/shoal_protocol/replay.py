"""Replay windows: each envelope is accepted at most once, however often brokers deliver it.

A sender numbers its envelopes, and its lives: ``incarnation`` grows at every boot, ``sequence`` within one. Two
brokers reorder a little, so what was heard is remembered as a window of the last ``REPLAY_WINDOW_BITS`` numbers below
the highest; below the window nobody can tell any more, so nothing is accepted.

One window per sender would refuse honest words. A heartbeat counts the numbers up every second, while a retained
record keeps the number it was sent with: after 17 minutes it lies below the window, and so does a last will, which
is sealed at connect and delivered hours later. So a sender has one window per **slot**: the kind of message, and for
what concerns a deployment, the deployment. The slot follows from the signed body, not from the topic.

All that a node says about itself ends with its life: an incarnation below the highest one heard is refused in every
such slot. A plan that carries its proof does not: an operator's was said by a command that ended at once, a certificate
is retained and outlives whoever published it, and a node that joins later hears those of two deployments in any order.

Only what is said *to us* passes through here. An envelope relayed inside a delta or as evidence is somebody's earlier
word: it is opened without a window (the gate's ``reopen``), and its place in its sender's order says if it is news.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from shoal_protocol.codec import KIND_OF, decode_plan
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import OversizedMessage, ReplayedMessage
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import REPLAY_SLOTS_MAX, REPLAY_WINDOW_BITS, SENDERS_MAX
from shoal_protocol.messages import (
    Certified,
    ControlMessage,
    PhaseReported,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    VoteCast,
)

Slot = tuple[int, str]
"""Kind of message, and the deployment it is about or nothing."""

_IMMORTAL: Final = (PlanAnnounced, Certified, RecoveryOrdered)
"""What stands whatever became of its sender: plans, with their proofs."""


class HeardBefore(ReplayedMessage):
    """A member's word that is not new: a broker repeats it in vain, or the member has forgotten what it said."""

    def __init__(self, envelope: Envelope, why: str) -> None:
        super().__init__(why)
        self.envelope = envelope


_MORTAL_ABOUT_ONE: Final = (PhaseReported, Proposed, VoteCast)
"""What a node says of one deployment, and may not say again in a later life."""
_SLOT_OF: Final[dict[type, Slot]] = {
    cls: (kind, "") for cls, kind in KIND_OF.items() if cls not in (*_MORTAL_ABOUT_ONE, *_IMMORTAL)
}
"""What is about no deployment."""
_WINDOW: Final = (1 << REPLAY_WINDOW_BITS) - 1


@dataclass(slots=True)
class _Window:
    """Bit ``i`` of ``seen`` stands for the sequence ``highest - i``."""

    incarnation: int
    highest: int
    seen: int


class _Sender:
    """What one sender was heard to say: a window for each kind of message, and slots in the order of their last use."""

    __slots__ = ("incarnation", "kinds", "slots")

    def __init__(self) -> None:
        self.incarnation = -1
        self.kinds: dict[type, _Window] = {}
        self.slots: OrderedDict[Slot, _Window] = OrderedDict()


class ReplayWindow:
    """Remembers, for every sender, what was accepted. Raising changes nothing."""

    def __init__(self) -> None:
        self._senders: dict[NodeId, _Sender] = {}

    def knows(self, sender: NodeId) -> bool:
        """Whether anything of ``sender`` was ever accepted."""
        return sender in self._senders

    def accept(self, envelope: Envelope) -> None:
        """Remember ``envelope``; HeardBefore if it is not new, OversizedMessage beyond ``SENDERS_MAX`` senders."""
        sender = self._senders.get(envelope.sender)
        if sender is None:
            if len(self._senders) >= SENDERS_MAX:
                raise OversizedMessage(f"more than {SENDERS_MAX} senders")
            sender = _Sender()
        # Nearly every message is about no deployment, and a thousand simulated nodes hear fifty thousand a second.
        message = envelope.message
        plain = type(message) in _SLOT_OF
        mortal = plain or not isinstance(message, _IMMORTAL)
        if mortal and envelope.incarnation < sender.incarnation:
            raise HeardBefore(envelope, f"incarnation {envelope.incarnation}, {sender.incarnation} was heard")
        if plain:
            window = sender.kinds.get(type(message))
            if window is None:
                sender.kinds[type(message)] = _Window(envelope.incarnation, envelope.sequence, 1)
            else:
                _slide(window, envelope)
        else:
            self._accept_about_one(sender, envelope)
        if mortal:
            sender.incarnation = envelope.incarnation
        self._senders[envelope.sender] = sender

    @staticmethod
    def _accept_about_one(sender: _Sender, envelope: Envelope) -> None:
        """What concerns one deployment: there may be any number of them."""
        slot = slot_of(envelope.message)
        window = sender.slots.get(slot)
        if window is None:
            sender.slots[slot] = _Window(envelope.incarnation, envelope.sequence, 1)
            if len(sender.slots) > REPLAY_SLOTS_MAX:
                sender.slots.popitem(last=False)
        else:
            _slide(window, envelope)
            sender.slots.move_to_end(slot)


def slot_of(message: ControlMessage) -> Slot:
    """Which window of its sender ``message`` counts in."""
    slot = _SLOT_OF.get(type(message))
    if slot is not None:
        return slot
    if isinstance(message, _MORTAL_ABOUT_ONE):
        return KIND_OF[type(message)], message.deployment
    if isinstance(message, _IMMORTAL):
        return KIND_OF[type(message)], decode_plan(message.plan).deployment
    raise AssertionError(f"{type(message).__name__} has no slot")


def _slide(window: _Window, envelope: Envelope) -> None:
    """Enter its sequence into ``window``; HeardBefore if it is there, or below, or of an earlier life."""
    incarnation, sequence = envelope.incarnation, envelope.sequence
    if incarnation < window.incarnation:
        raise HeardBefore(envelope, f"incarnation {incarnation}, {window.incarnation} was heard")
    ahead = sequence - window.highest
    if incarnation > window.incarnation or ahead >= REPLAY_WINDOW_BITS:
        window.incarnation, window.highest, window.seen = incarnation, sequence, 1
    elif ahead > 0:
        window.highest, window.seen = sequence, (window.seen << ahead | 1) & _WINDOW
    elif -ahead >= REPLAY_WINDOW_BITS:
        raise HeardBefore(envelope, f"sequence {sequence} is below the window of {window.highest}")
    elif window.seen >> -ahead & 1:
        raise HeardBefore(envelope, f"sequence {sequence} was accepted before")
    else:
        window.seen |= 1 << -ahead

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
_FRESH_BITS: Final = 60
"""Two digits of Python's integers."""


@dataclass(slots=True)
class _Window:
    """Bit ``i`` of ``fresh`` stands for the sequence ``highest - i``, bit ``i`` of ``older`` for ``span`` numbers less.

    Nearly every word has a number above all others; it costs a shift of the few ``fresh`` bits. The whole window is
    only put together (``fold``) when those are full, or when a word comes late.
    """

    incarnation: int
    highest: int
    fresh: int = 1
    span: int = 1
    older: int = 0

    def fold(self) -> None:
        """Have all of it in ``older``."""
        self.older = (self.older << self.span | self.fresh) & _WINDOW
        self.fresh = self.span = 0


class ReplayWindow:
    """Remembers, for every sender, what was accepted. Raising changes nothing."""

    def __init__(self) -> None:
        self._lives: dict[NodeId, int] = {}
        """Every sender, and the latest life in which it spoke of itself; -1: in none so far."""
        self._kinds: dict[type, dict[NodeId, _Window]] = {kind: {} for kind in _SLOT_OF}
        self._subjects: dict[NodeId, OrderedDict[Slot, _Window]] = {}
        """What concerns one deployment: there may be any number of them; in the order of their last use."""

    def knows(self, sender: NodeId) -> bool:
        """Whether anything of ``sender`` was ever accepted."""
        return sender in self._lives

    def accept(self, envelope: Envelope) -> None:
        """Remember ``envelope``; HeardBefore if it is not new, OversizedMessage beyond ``SENDERS_MAX`` senders."""
        sender = envelope.sender
        windows = self._kinds.get(type(envelope.message))
        window = None if windows is None else windows.get(sender)
        if window is None:
            self._accept_rare(envelope, windows)
            return
        # Nearly every message comes here: a thousand simulated nodes hear fifty thousand heartbeats a second.
        life = self._lives[sender]
        if envelope.incarnation < life:
            raise HeardBefore(envelope, f"incarnation {envelope.incarnation}, {life} was heard")
        _slide(window, envelope)
        if envelope.incarnation > life:
            self._lives[sender] = envelope.incarnation

    def _accept_rare(self, envelope: Envelope, windows: dict[NodeId, _Window] | None) -> None:
        """What concerns one deployment (``windows`` is None), or is the first of its kind."""
        sender, incarnation = envelope.sender, envelope.incarnation
        life = self._lives.get(sender)
        if life is None:
            if len(self._lives) >= SENDERS_MAX:
                raise OversizedMessage(f"more than {SENDERS_MAX} senders")
            life = -1
        mortal = not isinstance(envelope.message, _IMMORTAL)
        if mortal and incarnation < life:
            raise HeardBefore(envelope, f"incarnation {incarnation}, {life} was heard")
        if windows is not None:
            windows[sender] = _Window(incarnation, envelope.sequence)
        else:
            self._accept_about_one(envelope)
        self._lives[sender] = incarnation if mortal else life

    def _accept_about_one(self, envelope: Envelope) -> None:
        slot, subjects = slot_of(envelope.message), self._subjects.setdefault(envelope.sender, OrderedDict())
        window = subjects.get(slot)
        if window is None:
            subjects[slot] = _Window(envelope.incarnation, envelope.sequence)
            if len(subjects) > REPLAY_SLOTS_MAX:
                subjects.popitem(last=False)
        else:
            _slide(window, envelope)
            subjects.move_to_end(slot)


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
        window.incarnation, window.highest = incarnation, sequence
        window.fresh, window.span, window.older = 1, 1, 0
    elif ahead > 0:
        window.highest = sequence
        window.fresh = window.fresh << ahead | 1
        window.span += ahead
        if window.span > _FRESH_BITS:
            window.fold()
    elif -ahead >= REPLAY_WINDOW_BITS:
        raise HeardBefore(envelope, f"sequence {sequence} is below the window of {window.highest}")
    else:
        window.fold()
        if window.older >> -ahead & 1:
            raise HeardBefore(envelope, f"sequence {sequence} was accepted before")
        window.older |= 1 << -ahead

"""Anti-entropy: two nodes compare what they keep, and each gives the other what it lacks.

    A ──► B   Syn      what I have of your share of the nodes, and how far my chains of plans reach
    B ──► A   SynAck   what you lack, and what I have
    A ──► B   Ack      what you lack

One random peer per ``ROUND_S``: a word that one node has is with all N after about log2 N + ln N rounds (Demers et
al., Epidemic algorithms, 1987), and brokers make that the exception. It is at once when a peer of the own share beats
with another root for longer than messages take. One to a node held for dead, with probability dead / (live + 1), so
that two halves that gave each other up meet again (Cassandra). And again soon while an answer taught something and
more is to be had: a newcomer gets a chain of a thousand plans in seconds.

A ``Syn`` is about the share of whom it is sent to: he listens to all of that, and the asker does, too. So a node never
carries words of shares it does not listen to.

It travels by a frame if there is a link, or if no broker is up, or if the peer left the last question unanswered; else
through the peer's inbox on the brokers. Answers are limited and nobody waits for one: whatever is lost, the next round
brings.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol, TypeVar

from shoal_agent.core.outbox import Outbox
from shoal_agent.core.records import Records
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import Routine
from shoal_agent.core.voice import Voice
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId
from shoal_protocol.limits import DELTA_BYTES_MAX, DELTAS_MAX
from shoal_protocol.messages import Ack, Head, Stamp, Syn, SynAck

ROUND_S: Final = 10.0
"""Between two questions to random peers: at 2 KB each they cost less than the heartbeats."""
ROUND_JITTER: Final = 0.1
SPACING_S: Final = 0.5
"""Between any two questions of one node."""
BEATS_OFF: Final = 2
"""A root may differ for as many beats: the word that makes the difference is under way."""
VAIN_MAX: Final = 5
"""After an exchange in which neither learned anything, twice as many beats pass, up to a minute: whoever still shows
another root has another roster, or lies."""
ANSWER_S: Final = 10.0
"""An answer that comes later was not asked for."""
ANSWERS_PER_S: Final = 20
"""Answers to all askers together: one takes a millisecond at worst, and whoever gets none asks again."""
PARTNERS_MAX: Final = 64
"""Peers whose questions and answers are remembered."""


T = TypeVar("T")


class Chains(Protocol):
    """The chains of plans, as gossip needs them."""

    def heads(self) -> tuple[Head, ...]:
        """The newest proven plan of every deployment, by deployment."""

    def after(self, deployment: DeploymentId, epoch: Epoch | None, now: Instant) -> Iterator[bytes]:
        """What proves the plans of ``deployment`` after ``epoch`` (None: all of them), sealed, in order."""


@dataclass(frozen=True, slots=True)
class _Pursuit:
    """What a peer has that this node may still lack after its answer, and what this node had then."""

    peer: NodeId
    stamps: tuple[Stamp, ...]
    heads: tuple[Head, ...]
    mine: tuple[Head, ...]
    taught: bool


class Exchange:
    """This node's part in anti-entropy."""

    def __init__(self, tables: Tables, voice: Voice, records: Records, chains: Chains, rng: Random) -> None:
        self._timers = tables.timers
        self._tables = tables
        self._voice = voice
        self._records = records
        self._chains = chains
        self._rng = rng
        self._linked: dict[NodeId, None] = {}
        self._off: dict[NodeId, tuple[int, int]] = {}
        """Peers with another root: beats since they were asked, and how often that was in vain."""
        self._asked: dict[NodeId, Instant] = {}
        self._answered: dict[NodeId, Instant] = {}
        self._deaf: dict[NodeId, None] = {}
        self._last_syn = Instant(-SPACING_S)
        self._answers = (0, 0)
        self._root = b""
        """As it was last computed: at most one beat ago."""
        self._kept = (0, 0)
        """How far this node's own words are among the records."""
        self._pursuit: _Pursuit | None = None

    def begin(self, now: Instant) -> None:
        """Arm the clock of the rounds."""
        self._timers.set(Routine.EXCHANGE, Instant(now + ROUND_S * self._rng.random()))

    def linked(self, peer: NodeId, *, up: bool) -> None:
        """A link with ``peer`` stands, or is gone."""
        if up:
            self._linked[peer] = None
        else:
            self._linked.pop(peer, None)

    def root(self) -> bytes:
        """What this node keeps of its own share, and its chains, sum up to."""
        self._keep_own()
        self._root = self._records.root(self._chains.heads())
        return self._root

    def _keep_own(self) -> None:
        """What this node said of itself is a record like any other."""
        who = self._voice.identity
        reached = (who.incarnation, self._voice.sequence)
        if reached != self._kept:
            self._kept = reached
            for record in self._voice.lasting.values():
                self._records.put(who.node, who.incarnation, record)

    # --- asking -----------------------------------------------------------------------------------------------------

    def round(self, peers: tuple[NodeId, ...], dead: Collection[NodeId], now: Instant, out: Outbox) -> None:
        """Ask one of ``peers``, and sometimes one of those that are ``dead``."""
        jitter = 1 + ROUND_JITTER * (2 * self._rng.random() - 1)
        self._timers.set(Routine.EXCHANGE, Instant(now + ROUND_S * jitter))
        self._records.sweep(now)
        self._give_up(now)
        live = [peer for peer in peers if peer not in dead]
        gone = [peer for peer in peers if peer in dead]
        if live:
            self._ask(self._rng.choice(live), now, out)
        if gone and self._rng.random() < len(gone) / (len(live) + 1):
            self._ask(self._rng.choice(gone), now, out)

    def beaten(self, peer: NodeId, root: bytes, now: Instant, out: Outbox) -> None:
        """``peer``, of the own share, told its root."""
        if root == self._root or root == self.root():
            if self._off:
                self._off.pop(peer, None)
            return
        beats, vain = self._off.get(peer, (0, 0))
        if beats < BEATS_OFF << vain or now - self._last_syn < SPACING_S:
            self._off[peer] = (beats + 1, vain)
            return
        self._off[peer] = (0, min(vain + 1, VAIN_MAX))
        self._ask(peer, now, out)

    def seek(self, peer: NodeId, now: Instant, out: Outbox) -> None:
        """``peer`` is known to have more: ask it, unless that was done a moment ago."""
        if peer not in self._asked:
            self._ask(peer, now, out)

    def pursue(self, now: Instant, out: Outbox) -> None:
        """Ask the same peer again, if its last answer helped and there is more."""
        pursuit, self._pursuit = self._pursuit, None
        if pursuit is None:
            return
        mine = self._chains.heads()
        longer = mine != pursuit.mine and _is_behind(mine, pursuit.heads)
        if longer or (pursuit.taught and self._records.lacks(pursuit.stamps)):
            self._ask(pursuit.peer, now, out)

    def _ask(self, peer: NodeId, now: Instant, out: Outbox) -> None:
        self._keep_own()
        shard = self._records.shard_of(peer)
        self._last_syn = now
        _remember(self._asked, peer, now)
        self._tell(peer, Syn(peer, self._records.stamps(shard), self._chains.heads()), now, out)
        out.count("exchanges", "asked")

    def _give_up(self, now: Instant) -> None:
        """Whoever left a question unanswered is asked by the other road next time."""
        for peer, at in list(self._asked.items()):
            if now - at > ANSWER_S / 2:
                del self._asked[peer]
                if peer in self._deaf:
                    del self._deaf[peer]
                else:
                    _remember(self._deaf, peer, None)

    # --- answering --------------------------------------------------------------------------------------------------

    def asked(self, sender: NodeId, syn: Syn, now: Instant, out: Outbox) -> None:
        """Answer a question."""
        second, count = self._answers
        self._answers = (int(now), 1 if int(now) != second else count + 1)
        if self._answers[1] > ANSWERS_PER_S:
            out.count("exchanges", "too many")
            return
        self._keep_own()
        home = self._records.home
        deltas = self._deltas(syn.stamps, syn.heads, home, now)
        answer = SynAck(sender, self._records.stamps(home), self._chains.heads(), deltas)
        _remember(self._answered, sender, now)
        self._tell(sender, answer, now, out)
        out.count("exchanges", "answered")

    def expects(self, sender: NodeId, now: Instant) -> bool:
        """Whether ``sender`` was asked and owes an answer; it gives one only."""
        at = self._asked.pop(sender, None)
        self._deaf.pop(sender, None)
        return at is not None and now - at <= ANSWER_S

    def invited(self, sender: NodeId, now: Instant) -> bool:
        """Whether ``sender`` was given an answer and may give what this node lacks in return; once."""
        at = self._answered.pop(sender, None)
        return at is not None and now - at <= ANSWER_S

    def complete(self, sender: NodeId, answer: SynAck, now: Instant, out: Outbox, *, taught: bool) -> None:
        """Give what ``sender`` lacks, now that its own words are taken in; ``taught``: some were news."""
        deltas = self._deltas(answer.stamps, answer.heads, self._records.shard_of(sender), now)
        if deltas:
            self._tell(sender, Ack(sender, deltas), now, out)
        if deltas or taught:
            self._off.pop(sender, None)
        if answer.deltas:
            self._pursuit = _Pursuit(sender, answer.stamps, answer.heads, self._chains.heads(), taught)
            self._timers.set(Routine.PURSUE, Instant(now + SPACING_S))

    def hand(self, peer: NodeId, wire: bytes, now: Instant, out: Outbox) -> None:
        """Give ``peer`` one word that it must know."""
        self._tell(peer, Ack(peer, (wire,)), now, out)

    def _deltas(
        self, stamps: tuple[Stamp, ...], heads: tuple[Head, ...], shard: int, now: Instant
    ) -> tuple[bytes, ...]:
        """Plans first, for they decide; then records."""
        plans = self._plans(heads, now)
        left = DELTA_BYTES_MAX - sum(map(len, plans))
        return (*plans, *self._records.missing(stamps, shard, left, DELTAS_MAX - len(plans)))

    def _plans(self, heads: tuple[Head, ...], now: Instant) -> list[bytes]:
        """What continues ``heads``: up to half of a message, but one plan at least."""
        theirs = {head.deployment: head.epoch for head in heads}
        plans: list[bytes] = []
        left = DELTA_BYTES_MAX // 2
        for head in self._chains.heads():
            known = theirs.get(head.deployment)
            if known is not None and known >= head.epoch:
                continue
            for wire in self._chains.after(head.deployment, known, now):
                left -= len(wire)
                if plans and (left < 0 or len(plans) == DELTAS_MAX // 2):
                    return plans
                plans.append(wire)
        return plans

    def _tell(self, peer: NodeId, message: Syn | SynAck | Ack, now: Instant, out: Outbox) -> None:
        reachable = self._tables.membership.peer(peer) is not None
        by_frame = peer in self._linked or peer in self._deaf or not any(self._tables.brokers.values())
        self._voice.tell(peer, message, now, out, direct=reachable and by_frame)


def _is_behind(mine: tuple[Head, ...], theirs: tuple[Head, ...]) -> bool:
    """Whether some chain reaches further there."""
    have = {head.deployment: head.epoch for head in mine}
    return any(have.get(head.deployment, -1) < head.epoch for head in theirs)


def _remember(table: dict[NodeId, T], peer: NodeId, value: T) -> None:
    """Enter ``peer`` as the latest; the one longest in it goes if there are too many."""
    table.pop(peer, None)
    table[peer] = value
    if len(table) > PARTNERS_MAX:
        del table[next(iter(table))]

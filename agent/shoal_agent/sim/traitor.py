"""Members that lie, with keys that work: each tells one half of the cluster one thing and the other half another.

Inside, a traitor is an honest node; what it says about plans is forged on the way out. Everything in its own name is
sealed again, twice where that helps, and goes over the links to one half each, or over the brokers to all.

    a proposal   becomes two, of plans that differ in a word; one half hears the one, the other half the other. At once
                 all traitors vote for both, to each half for its own: the best attack there is on a quorum
    a vote       for one plan of such a pair is a vote for the other to the other half; any other vote is at random
                 honest, or nil to one half, or both to everybody, which proves the lie

With at most f of them this must change nothing; with more it breaks safety, and an oracle must say so.
A traitor may also boast: its record promises a machine a thousand times as fast, which then opens no block.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final, Protocol

from shoal_agent.core.effects import Broadcast, SendFrame
from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.envelope import Envelope, seal
from shoal_protocol.headers import Gossip
from shoal_protocol.ids import ClusterId, Digest, Incarnation, NodeId, Sequence, digest_of
from shoal_protocol.messages import Proposed, VoteCast, VoteKind
from shoal_protocol.sealing import Sealer
from shoal_protocol.votes import sign_vote

PROVEN_SHARE: Final = 0.3
"""Of votes about anything but a pair: both values to everybody."""
SPLIT_SHARE: Final = 0.3
"""And nil to one half."""
FIRST_NUMBER: Final = 1 << 32
TTL_MS: Final = 60_000

Words = Proposed | VoteCast


class Court(Protocol):
    """The world, as traitors see it."""

    def opened(self, said: Broadcast) -> Envelope: ...

    def tell_all(self, node: NodeId, said: Broadcast) -> None: ...

    def tell(self, node: NodeId, peer: NodeId, said: Broadcast) -> None: ...


@dataclass
class Pairs:
    """The pairs of plans all traitors of a world know of, and which half is to believe which."""

    twins: dict[Digest, Digest] = field(default_factory=dict)
    half: dict[Digest, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mask:
    """In whose name a traitor speaks; life and clock are those of its honest self."""

    name: NodeId
    key: Sealer
    cluster: ClusterId
    life: Callable[[], Incarnation]
    wall_ms: Callable[[], int]


class Traitor:
    """One member that lies."""

    def __init__(self, mask: Mask, nodes: list[NodeId], court: Court, pairs: Pairs, rng: Random) -> None:
        self._mask = mask
        self._halves = [[node for node in nodes[side::2] if node != mask.name] for side in (0, 1)]
        self._court, self._pairs, self._rng = court, pairs, rng
        self._said = 0
        self._topic = ""
        self.friends: list[Traitor] = []

    def speaks(self, said: Broadcast) -> bool:
        """Whether ``said`` was turned into lies, which are on their way; otherwise it goes out as it is."""
        envelope = self._court.opened(said)
        message = envelope.message
        if not isinstance(message, Proposed | VoteCast):
            return False
        self._topic = said.topic
        if isinstance(message, Proposed):
            self._propose(message)
        else:
            self._vote(message)
        return True

    def repeats(self, effect: SendFrame) -> bool:
        """Whether a frame only repeats to one node what the lies replaced."""
        return isinstance(effect.header, Gossip) and effect.header.topic == self._topic

    # --- lies -----------------------------------------------------------------------------------------------------

    def _propose(self, message: Proposed) -> None:
        value = digest_of(message.plan)
        if message.valid_round is not None:
            self._all(message)
            return
        other = self._twin(message)
        self._half(message, self._pairs.half[value])
        self._half(other, 1 - self._pairs.half[value])
        for friend in [self, *self.friends]:
            friend.vote_for_both(message, self._topic)

    def _twin(self, message: Proposed) -> Proposed:
        plan = decode_plan(message.plan)
        raw = encode_plan(replace(plan, reason=f"{plan.reason}."))
        value, other = digest_of(message.plan), digest_of(raw)
        if value not in self._pairs.twins:
            side = self._rng.randrange(2)
            self._pairs.twins |= {value: other, other: value}
            self._pairs.half |= {value: side, other: 1 - side}
        return replace(message, plan=raw)

    def vote_for_both(self, about: Proposed, topic: str) -> None:
        """To each half, both ballots of the round for its own plan."""
        self._topic = topic
        value = digest_of(about.plan)
        for each in (value, self._pairs.twins[value]):
            for kind in VoteKind:
                blank = VoteCast(about.deployment, about.epoch, about.round, kind, each, "", b"")
                self._half(self._signed(blank), self._pairs.half[each])

    def _vote(self, message: VoteCast) -> None:
        value = message.value
        if value is not None and value in self._pairs.twins:
            for each in (value, self._pairs.twins[value]):
                self._half(self._signed(replace(message, value=each)), self._pairs.half[each])
            return
        draw = self._rng.random()
        nil = self._signed(replace(message, value=None, reason="locked"))
        if value is None or draw > PROVEN_SHARE + SPLIT_SHARE:
            self._all(message)
        elif draw < PROVEN_SHARE:
            self._all(message)
            self._all(nil)
        else:
            self._half(message, 0)
            self._half(nil, 1)

    def _signed(self, vote: VoteCast) -> VoteCast:
        key, cluster = self._mask.key, self._mask.cluster
        signature = sign_vote(key, cluster, vote.deployment, vote.epoch, vote.round, vote.vote, vote.value)
        return replace(vote, signature=signature)

    # --- saying ---------------------------------------------------------------------------------------------------

    def _half(self, message: Words, side: int) -> None:
        said = self._sealed(message)
        for node in self._halves[side]:
            self._court.tell(self._mask.name, node, said)

    def _all(self, message: Words) -> None:
        said = self._sealed(message)
        self._court.tell_all(self._mask.name, said)
        for side in (0, 1):
            for node in self._halves[side]:
                self._court.tell(self._mask.name, node, said)

    def _sealed(self, message: Words) -> Broadcast:
        # Numbers far above those of its honest self: to a replay window each of the lies is a new word.
        self._said += 1
        mask, number = self._mask, Sequence(FIRST_NUMBER + self._said)
        wire = seal(mask.key, mask.cluster, mask.name, mask.life(), number, TTL_MS, mask.wall_ms(), message)
        return Broadcast(self._topic, wire, retain=False, at_least_once=False, expiry_s=60)

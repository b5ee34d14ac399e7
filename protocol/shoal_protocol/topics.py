"""Topics: where on the brokers a thing is said. Building and parsing are exact inverses.

::

    shoal/1/{cluster}/
        n/{shard}/{node}/state    its record, retained           n/{shard}/{node}/death  its pre-signed last will
        n/{node}/cmd              commands for it                n/{node}/res            its answers
        hb/{shard}                heartbeats                     ae/{node}               its anti-entropy inbox
        d/{deployment}/cert       the plan in force, retained    d/{deployment}/c        agreement
        d/{deployment}/s/{node}   a host's progress, retained    r/{node}/{source}       relayed messages for it
        lt/{shard}                digests of light services      sus, evidence           suspicions, proofs of lies
        roster                    the signed roster, retained

A topic is the broker's word, not the sender's: nobody signed it. So it only ever narrows: an envelope is accepted on
exactly the one topic that follows from what is signed in it (``topic_for``), and whoever gets a record of one node
onto the topic of another has achieved nothing. The digit is the version of the tree.

**Shards.** A node hears the heartbeats and records of its own share of the nodes, not of all, or its cost would grow
with the cluster. There are S = max(1, floor(agents / SHARD_NODES)) shares, and a node's is the jump consistent hash
of its id (Lamping and Veach, arXiv 1406.2294) over S: starting from BLAKE2b-64 of the id, a 64-bit linear
congruential generator says at which larger S the node would move next, until that is beyond S. So when S grows by
one, one node in S moves and only to the new share, and it costs ln S steps: 5 us for 200 shares, where rendezvous
hashing takes a digest for each of them. All in integers: every language finds the same share.

The shard alone is not judged: it is derived from a roster, and two rosters, one version apart, may differ in it. A
record in the wrong share is heard by others than it should be and harms nobody.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, assert_never, cast

from shoal_protocol.codec import decode_plan
from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import LocalProtocolError, MalformedMessage
from shoal_protocol.ids import (
    ClusterId,
    DeploymentId,
    NodeId,
    node_id_bytes,
    parse_cluster_id,
    parse_deployment_id,
    parse_node_id,
)
from shoal_protocol.light import DigestTold
from shoal_protocol.limits import SENDERS_MAX, SHARD_NODES, SHARDS_MAX, TOPIC_BYTES_MAX
from shoal_protocol.messages import (
    Accused,
    Ack,
    Certified,
    ControlMessage,
    EvidenceFound,
    Heartbeat,
    LinkDeath,
    NodeState,
    PhaseReported,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    Syn,
    SynAck,
    VoteCast,
)
from shoal_protocol.roster import TrustedRoster


@dataclass(frozen=True, slots=True)
class StateTopic:
    """A node's capacity record."""

    cluster: ClusterId
    shard: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class DeathTopic:
    """A node's last will."""

    cluster: ClusterId
    shard: int
    node: NodeId


@dataclass(frozen=True, slots=True)
class CommandTopic:
    """An operator's commands for a node."""

    cluster: ClusterId
    node: NodeId


@dataclass(frozen=True, slots=True)
class ResultTopic:
    """A node's answers to commands."""

    cluster: ClusterId
    node: NodeId


@dataclass(frozen=True, slots=True)
class HeartbeatTopic:
    """Heartbeats of one share of the nodes."""

    cluster: ClusterId
    shard: int


@dataclass(frozen=True, slots=True)
class DigestTopic:
    """How busy the light services of one share of the nodes are."""

    cluster: ClusterId
    shard: int


@dataclass(frozen=True, slots=True)
class AntiEntropyTopic:
    """A node's inbox for digests and deltas."""

    cluster: ClusterId
    node: NodeId


@dataclass(frozen=True, slots=True)
class AgreementTopic:
    """Proposals and votes about a deployment."""

    cluster: ClusterId
    deployment: DeploymentId


@dataclass(frozen=True, slots=True)
class PlanTopic:
    """The plan of a deployment that is in force, and why it may be believed."""

    cluster: ClusterId
    deployment: DeploymentId


@dataclass(frozen=True, slots=True)
class PhaseTopic:
    """How far a host has come with a deployment."""

    cluster: ClusterId
    deployment: DeploymentId
    node: NodeId


@dataclass(frozen=True, slots=True)
class RelayTopic:
    """Sealed messages of ``source`` for a node that it cannot reach directly; no envelopes."""

    cluster: ClusterId
    node: NodeId
    source: NodeId


@dataclass(frozen=True, slots=True)
class RosterTopic:
    """The signed roster; not an envelope."""

    cluster: ClusterId


@dataclass(frozen=True, slots=True)
class SuspicionTopic:
    """Who is suspected, and who refutes it."""

    cluster: ClusterId


@dataclass(frozen=True, slots=True)
class EvidenceTopic:
    """Proofs that somebody said two things."""

    cluster: ClusterId


Topic = (
    StateTopic
    | DeathTopic
    | CommandTopic
    | ResultTopic
    | HeartbeatTopic
    | DigestTopic
    | AntiEntropyTopic
    | AgreementTopic
    | PlanTopic
    | PhaseTopic
    | RelayTopic
    | RosterTopic
    | SuspicionTopic
    | EvidenceTopic
)

TREE: Final[dict[type, str]] = {
    StateTopic: "shoal/1/{cluster}/n/{shard}/{node}/state",
    DeathTopic: "shoal/1/{cluster}/n/{shard}/{node}/death",
    CommandTopic: "shoal/1/{cluster}/n/{node}/cmd",
    ResultTopic: "shoal/1/{cluster}/n/{node}/res",
    HeartbeatTopic: "shoal/1/{cluster}/hb/{shard}",
    DigestTopic: "shoal/1/{cluster}/lt/{shard}",
    AntiEntropyTopic: "shoal/1/{cluster}/ae/{node}",
    AgreementTopic: "shoal/1/{cluster}/d/{deployment}/c",
    PlanTopic: "shoal/1/{cluster}/d/{deployment}/cert",
    PhaseTopic: "shoal/1/{cluster}/d/{deployment}/s/{node}",
    RelayTopic: "shoal/1/{cluster}/r/{node}/{source}",
    RosterTopic: "shoal/1/{cluster}/roster",
    SuspicionTopic: "shoal/1/{cluster}/sus",
    EvidenceTopic: "shoal/1/{cluster}/evidence",
}
"""The whole tree: what stands in braces is the field of that name."""

_SHARDED: Final = (StateTopic, DeathTopic, HeartbeatTopic, DigestTopic)
_HEARD: Final = (AgreementTopic, PlanTopic, PhaseTopic, SuspicionTopic, EvidenceTopic, AntiEntropyTopic)
"""What an agent hears besides: all that is said of any deployment, and its own inbox."""

_JUMP_FACTOR: Final = 2_862_933_555_777_941_757
"""The multiplier of the 64-bit generator in the published algorithm."""


def _parse_shard(text: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,9}", text) or int(text) >= SHARDS_MAX:
        raise MalformedMessage(f"not a shard below {SHARDS_MAX}: {text[:20]!r}")
    return int(text)


_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "cluster": parse_cluster_id,
    "node": parse_node_id,
    "source": parse_node_id,
    "deployment": parse_deployment_id,
    "shard": _parse_shard,
}
_PATTERNS: Final = tuple(
    (cast("Callable[..., Topic]", cls), re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)))
    for cls, pattern in TREE.items()
)


def build(topic: Topic) -> str:
    """``topic`` as brokers know it; LocalProtocolError if a field is not what its name says."""
    text = TREE[type(topic)].format(**{name: getattr(topic, name) for name in topic.__slots__})
    try:
        assert parse(text) == topic, "building and parsing are inverses"
    except MalformedMessage as error:
        raise LocalProtocolError(f"no topic: {error}") from error
    return text


@lru_cache(SENDERS_MAX)
def parse(text: str) -> Topic:
    """The topic that ``text`` names, or MalformedMessage; remembered, because everything is said on a few of them."""
    if len(text) > TOPIC_BYTES_MAX:
        raise MalformedMessage(f"topic of {len(text)} characters")
    for make, pattern in _PATTERNS:
        match = pattern.fullmatch(text)
        if match is not None:
            return make(**{name: _PARSERS[name](value) for name, value in match.groupdict().items()})
    raise MalformedMessage(f"not a topic of ours: {text[:80]!r}")


def shard_count(agents: int) -> int:
    """Into how many shares a cluster of ``agents`` agents is divided."""
    return max(1, agents // SHARD_NODES)


def shard_of(node: NodeId, count: int) -> int:
    """Which of ``count`` shares ``node`` belongs to."""
    key = int.from_bytes(hashlib.blake2b(node_id_bytes(node), digest_size=8).digest())
    shard = following = 0
    while following < count:
        shard = following
        key = (key * _JUMP_FACTOR + 1) % 2**64
        following = ((shard + 1) << 31) // ((key >> 33) + 1)
    return shard


def home_shard(node: NodeId, roster: TrustedRoster) -> int:
    """The share of ``node`` in the cluster of ``roster``."""
    return shard_of(node, shard_count(roster.agent_count))


def agent_filters(cluster: ClusterId, node: NodeId, shards: Sequence[int] | None) -> tuple[str, ...]:
    """What ``node`` subscribes to, each topic once: ``shards`` (None: all) and what concerns everybody, or itself."""
    names = ("+",) if shards is None else tuple(str(shard) for shard in sorted(set(shards)))
    sharded = [TREE[cls].format(cluster=cluster, shard=name, node="+") for name in names for cls in _SHARDED]
    inbox: dict[type, str] = {AntiEntropyTopic: node}
    others = [TREE[cls].format(cluster=cluster, deployment="+", node=inbox.get(cls, "+")) for cls in _HEARD]
    return (*sharded, *others)


def relay_filter(cluster: ClusterId, node: NodeId) -> str:
    """What ``node`` subscribes to if it lets itself be reached through brokers."""
    return TREE[RelayTopic].format(cluster=cluster, node=node, source="+")


def topic_for(cluster: ClusterId, sender: NodeId, message: ControlMessage, shard: int = 0) -> str:
    """The one topic on which ``sender``, of share ``shard``, may say ``message``, as brokers know it."""
    return build(_topic_of(cluster, sender, message, shard))


def _topic_of(cluster: ClusterId, sender: NodeId, message: ControlMessage, shard: int) -> Topic:
    match message:
        case NodeState():
            return StateTopic(cluster, shard, sender)
        case Heartbeat():
            return HeartbeatTopic(cluster, shard)
        case DigestTold():
            return DigestTopic(cluster, shard)
        case LinkDeath():
            return DeathTopic(cluster, shard, sender)
        case Proposed() | VoteCast():
            return AgreementTopic(cluster, message.deployment)
        case EvidenceFound():
            return EvidenceTopic(cluster)
        case Accused():
            return SuspicionTopic(cluster)
        case Syn() | SynAck() | Ack():
            return AntiEntropyTopic(cluster, message.to)
        case PlanAnnounced() | Certified() | RecoveryOrdered():
            return PlanTopic(cluster, decode_plan(message.plan).deployment)
        case PhaseReported():
            return PhaseTopic(cluster, message.deployment, sender)
        case _:
            assert_never(message)


def check_topic(topic: Topic, envelope: Envelope) -> None:
    """MalformedMessage unless ``topic``, as the broker names it, is the one ``envelope`` belongs on, in any share."""
    shard = topic.shard if isinstance(topic, _SHARDED) else 0
    expected = _topic_of(envelope.cluster, envelope.sender, envelope.message, shard)
    if topic != expected:
        raise MalformedMessage(f"{build(expected)} came on {build(topic)}")

"""One of every message and header that means something to a node of a small world: real peers, plans and votes."""

import dataclasses

from shoal_protocol import content, headers
from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.ids import DeploymentId, Epoch, Incarnation, NodeId, Sequence, SessionId, digest_of
from shoal_protocol.journal import JournalRequested, JournalServed, JournalWritten
from shoal_protocol.light import DigestTold, LoadAsked, LoadTold, ServiceLoad
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.messages import (
    Accused,
    Ack,
    Ballot,
    Cause,
    Certified,
    ControlMessage,
    DeploymentPhase,
    EvidenceFound,
    Head,
    Heartbeat,
    LinkDeath,
    NodeState,
    PhaseReported,
    Plan,
    PlanAnnounced,
    Proposed,
    RecoveryOrdered,
    Stamp,
    Syn,
    SynAck,
    Verdict,
    VoteCast,
    VoteKind,
)
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.tensors import Dtype
from shoal_protocol.topics import topic_for
from shoal_protocol.votes import sign_recovery, sign_vote
from tests.support.toy import GREEDY, MODEL
from tests.support.world import CLUSTER, TOY

ROUND = 1


def successor(plan: Plan) -> Plan:
    """The plan after ``plan``, with its first two hosts in each other's place."""
    first, second, *rest = plan.stages
    swapped = (dataclasses.replace(first, node=second.node), dataclasses.replace(second, node=first.node), *rest)
    parent = digest_of(encode_plan(plan))
    return dataclasses.replace(plan, epoch=Epoch(plan.epoch + 1), parent=parent, stages=swapped, cause=Cause.GAIN)


def recovery(plan: Plan) -> Plan:
    """What operators put in the place of ``plan``."""
    return dataclasses.replace(successor(plan), epoch=Epoch(plan.epoch + EPOCH_LEAP), cause=Cause.RECOVERY)


def ballots(keys: dict[NodeId, Ed25519Sealer], plan: bytes, round_: int, vote: VoteKind) -> tuple[Ballot, ...]:
    """The signatures of all voters of the world for ``plan``; none if it is no plan."""
    try:
        said = decode_plan(plan)
    except RemoteProtocolError:
        return ()
    about = (CLUSTER, said.deployment, said.epoch, round_, vote, digest_of(plan))
    return tuple(Ballot(node, sign_vote(key, *about)) for node, key in keys.items())


def cast(key: Ed25519Sealer, epoch: int, vote: VoteKind, plan: bytes | None) -> VoteCast:
    """A vote with its voter's signature."""
    value = None if plan is None else digest_of(plan)
    signature = sign_vote(key, CLUSTER, TOY, Epoch(epoch), ROUND, vote, value)
    return VoteCast(TOY, Epoch(epoch), ROUND, vote, value, "", signature)


def messages_of(
    state: NodeState, genesis: Plan, voters: dict[NodeId, Ed25519Sealer], operator: Ed25519Sealer, target: NodeId
) -> tuple[ControlMessage, ...]:
    """One of every kind. The first of ``voters`` says what an agent says, so its votes bear its signature."""
    first, after, order = encode_plan(genesis), encode_plan(successor(genesis)), encode_plan(recovery(genesis))
    speaker, *_, other = voters
    stamps = (Stamp(other, Incarnation(1), Sequence(1)), Stamp(target, Incarnation(1), Sequence(1 << 40)))
    heads = (Head(TOY, Epoch(0)), Head(DeploymentId("other"), Epoch(3)))
    return (
        dataclasses.replace(state, version=1000),
        Heartbeat(1000, 1000, bytes(16), 0),
        LinkDeath(1, "a"),
        PlanAnnounced(encode_plan(dataclasses.replace(genesis, deployment=DeploymentId("other")))),
        PhaseReported(TOY, Epoch(0), digest_of(first), DeploymentPhase.READY, ""),
        Proposed(TOY, Epoch(1), ROUND, 0, after, ballots(voters, after, 0, VoteKind.PREVOTE)),
        cast(voters[speaker], 1, VoteKind.PRECOMMIT, after),
        Certified(after, ROUND, ballots(voters, after, ROUND, VoteKind.PRECOMMIT)),
        EvidenceFound(b"first", b"second"),
        Accused(other, Incarnation(1), Sequence(1), Verdict.SUSPECT, "silent for 3 s"),
        Syn(target, stamps, heads),
        SynAck(target, stamps, heads, (b"delta",)),
        Ack(target, (b"delta",)),
        RecoveryOrdered(order, (sign_recovery(operator, CLUSTER, order),)),
        DigestTold((_load(),), 1),
    )


def _load() -> ServiceLoad:
    return ServiceLoad(f"tokenizer:{MODEL.hex()[:16]}", 2, 5, 24_500, 120_000)


def headers_of(session: SessionId, source: NodeId, wire: bytes, message: ControlMessage) -> tuple[headers.Header, ...]:
    """One of every header, about a session and calls that there are."""
    epoch = Epoch(0)
    return (
        headers.Hello(1, source, Incarnation(1), 1 << 20),
        headers.Credit(1000),
        headers.OpenSession(TOY, epoch, session, 1, 64, 1000, GREEDY),
        headers.OpenSession(TOY, epoch, session, 1, 64, 1000, GREEDY, left_out=(5, 6)),
        headers.SessionOpened(session, 1),
        headers.Activation(TOY, epoch, session, 1, 3, 1, True, 1000, Dtype.I64, (1, 1)),
        headers.Token(TOY, epoch, session, 4, 7, False, 0.0, ()),
        headers.CloseSession(session, headers.CloseReason.FINISHED),
        headers.SessionRefused(session, 1, headers.RefusalCode.KV_FULL, ""),
        headers.Probe(1),
        headers.ProbeAnswered(1),
        headers.ServiceCall(1, f"tokenizer:{MODEL.hex()[:16]}", "encode", 1000, 1500),
        headers.ServiceResult(1, "", None),
        headers.Gossip(topic_for(CLUSTER, source, message)),
        headers.Ping(1),
        headers.PingAnswered(1),
        headers.PingRequested(1, source),
        headers.PingReported(1, source, reached=False),
        content.ContentRequested(1, content.ContentKind.BLOB, MODEL, 0, 1024),
        content.ContentServed(1, 4096, ""),
        headers.Resume(TOY, epoch, session, 1, 1, 3, 3),
        headers.PathBroken(session, 1, 0, source),
        headers.KvRows(TOY, epoch, session, 1, 2, 3, 0, 4, 64, 1000, source, 1),
        headers.KvKept(TOY, epoch, session, 1, 2, 3, 4, None),
        headers.HandOver(TOY, epoch, session, 1, 0, Epoch(1), (source, source), last=False),
        headers.HandedOver(session, 1, 0, 4, last=False, refusal=None),
        JournalWritten(session, 0, 1000),
        JournalRequested(session),
        JournalServed(session, None, 0),
        LoadAsked(1, _load().service),
        LoadTold(1, _load()),
    )

"""The two things an operator says in a virtual world: the first plan, and the one that replaces lost voters."""

from dataclasses import replace
from typing import Final

from shoal_agent.core.plan import GENESIS_PARENT, voters_for
from shoal_agent.core.problem import Candidate, problem_of
from shoal_agent.core.standbys import back_up
from shoal_agent.sim.settings import CLUSTER, GUARDED, HOME, MEMORY_BYTES, TOY, Settings
from shoal_agent.sim.toy import MODEL, REFERENCE_MACS_PER_S, toy_facts
from shoal_protocol.codec import encode_plan
from shoal_protocol.ids import Epoch, NodeId, digest_of
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.messages import Cause, Plan, PlanAnnounced, PlanStage, RecoveryOrdered, Terms
from shoal_protocol.sealing import Sealer
from shoal_protocol.trust import GuardedBlocks
from shoal_protocol.votes import sign_recovery

MARGIN_BYTES: Final = 1000
"""Beside what is counted."""


def genesis(settings: Settings, hosts: list[NodeId], names: list[NodeId], able: list[Candidate]) -> PlanAnnounced:
    """The model split evenly over ``hosts``; those who are ``able`` to host stand by.

    Where its ends are guarded, the first host has both of them, and nothing else.
    """
    voters = voters_for(TOY, hosts, names, settings.faulty)
    terms = terms_of(settings)
    stages = _bent(settings, terms, hosts, able) if settings.guarded else _even(settings, terms, hosts, able)
    plan = Plan(TOY, Epoch(0), GENESIS_PARENT, MODEL, settings.context_tokens, stages, terms, voters)
    return PlanAnnounced(encode_plan(plan))


def recovery(settings: Settings, known: Plan, living: list[NodeId], operator: Sealer) -> RecoveryOrdered:
    """``known`` on those who are left."""
    assert not settings.guarded, "no scenario loses a quorum of voters there"
    hosts = living[: settings.hosts]
    plan = replace(
        known,
        epoch=Epoch(known.epoch + EPOCH_LEAP),
        parent=digest_of(encode_plan(known)),
        stages=_even(settings, known.terms, hosts, [able_as(settings, name, HOME) for name in living]),
        voters=voters_for(TOY, hosts, living, known.terms.faulty, known.voters),
        cause=Cause.RECOVERY,
        reason="its voters are lost",
    )
    raw = encode_plan(plan)
    return RecoveryOrdered(raw, (sign_recovery(operator, CLUSTER, raw),))


def terms_of(settings: Settings) -> Terms:
    """What the operator asks of every plan."""
    if not settings.guarded:
        return Terms(zones=(HOME,), faulty=settings.faulty)
    last = settings.blocks - 1
    ends = GuardedBlocks(0, GUARDED - 1, (HOME,)), GuardedBlocks(last - GUARDED + 1, last, (HOME,))
    return Terms(faulty=settings.faulty, guarded=ends)


def able_as(settings: Settings, name: NodeId, zone: str) -> Candidate:
    """What the operator takes a machine for."""
    return Candidate(name, REFERENCE_MACS_PER_S, memory_bytes(settings, zone), zone=zone)


def memory_bytes(settings: Settings, zone: str) -> int:
    """What a machine in ``zone`` offers; at home, where the ends are guarded, room for these and a block more."""
    if not settings.guarded or zone != HOME:
        return MEMORY_BYTES
    return (2 * GUARDED + 1) * block_bytes(settings) + MARGIN_BYTES


def block_bytes(settings: Settings) -> int:
    """What a block takes of a machine, with KV: all of the toy's are alike."""
    block = toy_facts(settings.blocks).blocks[0]
    return block.resident_bytes + block.kv_bytes_per_token * settings.context_tokens * terms_of(settings).sessions


def _even(settings: Settings, terms: Terms, hosts: list[NodeId], able: list[Candidate]) -> tuple[PlanStage, ...]:
    edges = [round(index * settings.blocks / len(hosts)) for index in range(len(hosts) + 1)]
    return _backed(settings, terms, hosts, edges, able)


def _bent(settings: Settings, terms: Terms, hosts: list[NodeId], able: list[Candidate]) -> tuple[PlanStage, ...]:
    home, *others = hosts
    between = settings.blocks - 2 * GUARDED
    edges = [GUARDED + round(index * between / len(others)) for index in range(len(others) + 1)]
    return _backed(settings, terms, [home, *others, home], [0, *edges, settings.blocks], able)


def _backed(
    settings: Settings, terms: Terms, hosts: list[NodeId], edges: list[int], able: list[Candidate]
) -> tuple[PlanStage, ...]:
    stages = [PlanStage(host, edges[index], edges[index + 1] - 1) for index, host in enumerate(hosts)]
    problem = problem_of(toy_facts(settings.blocks), terms, settings.context_tokens, tuple(able))
    return back_up(problem, stages, terms.standbys).stages

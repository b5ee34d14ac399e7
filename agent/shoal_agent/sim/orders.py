"""The two things an operator says in a virtual world: the first plan, and the one that replaces lost voters."""

from dataclasses import replace

from shoal_agent.core.plan import GENESIS_PARENT, voters_for
from shoal_agent.core.problem import Candidate, problem_of
from shoal_agent.core.standbys import back_up
from shoal_agent.sim.settings import CLUSTER, HOME, MEMORY_BYTES, TOY, Settings
from shoal_agent.sim.toy import MODEL, REFERENCE_MACS_PER_S, toy_facts
from shoal_protocol.codec import encode_plan
from shoal_protocol.ids import Epoch, NodeId, digest_of
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.messages import Cause, Plan, PlanAnnounced, PlanStage, RecoveryOrdered, Terms
from shoal_protocol.sealing import Sealer
from shoal_protocol.votes import sign_recovery


def genesis(settings: Settings, hosts: list[NodeId], names: list[NodeId], able: list[NodeId]) -> PlanAnnounced:
    """The model split evenly over ``hosts``; those who are ``able`` to host stand by."""
    voters = voters_for(TOY, hosts, names, settings.faulty)
    terms = Terms(zones=(HOME,), faulty=settings.faulty)
    stages = _even(settings, terms, hosts, able)
    plan = Plan(TOY, Epoch(0), GENESIS_PARENT, MODEL, settings.context_tokens, stages, terms, voters)
    return PlanAnnounced(encode_plan(plan))


def recovery(settings: Settings, known: Plan, living: list[NodeId], operator: Sealer) -> RecoveryOrdered:
    """``known`` on those who are left."""
    hosts = living[: settings.hosts]
    plan = replace(
        known,
        epoch=Epoch(known.epoch + EPOCH_LEAP),
        parent=digest_of(encode_plan(known)),
        stages=_even(settings, known.terms, hosts, living),
        voters=voters_for(TOY, hosts, living, known.terms.faulty, known.voters),
        cause=Cause.RECOVERY,
        reason="its voters are lost",
    )
    raw = encode_plan(plan)
    return RecoveryOrdered(raw, (sign_recovery(operator, CLUSTER, raw),))


def _even(settings: Settings, terms: Terms, hosts: list[NodeId], able: list[NodeId]) -> tuple[PlanStage, ...]:
    edges = [round(index * settings.blocks / len(hosts)) for index in range(len(hosts) + 1)]
    stages = [PlanStage(host, edges[index], edges[index + 1] - 1) for index, host in enumerate(hosts)]
    candidates = tuple(Candidate(name, REFERENCE_MACS_PER_S, MEMORY_BYTES) for name in able)
    problem = problem_of(toy_facts(settings.blocks), terms, settings.context_tokens, candidates)
    return back_up(problem, stages, terms.standbys).stages

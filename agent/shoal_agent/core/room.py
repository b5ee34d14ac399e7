"""What this node has room for, given all it holds already.

Two deployments on one node share its memory, and so do two epochs of one deployment while the newer one is made and
the older one serves. Blocks that both epochs have are open once. KV is counted as promised, not as used: the sessions
of the full context that the terms of a deployment name.
"""

from shoal_agent.core.plan import Room, kv_bytes_per_token, resident_bytes, span_of, stage_of
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import HELD
from shoal_protocol.ids import DeploymentId, NodeId
from shoal_protocol.messages import Plan, SwitchMode


def room_for(tables: Tables, node: NodeId, plan: Plan, memory_bytes: int, kv_bytes_max: int) -> Room:
    """The room of ``node``, which is this one, for its stage of ``plan``."""
    kept = [
        span_of(tenure.plan, stage)
        for tenure in tables.tenures.of(plan.deployment)
        if tenure.mine in HELD and tenure.plan.epoch != plan.epoch and tenure.plan.model == plan.model
        if tenure.served is not None  # what never served is given back at once
        if (stage := stage_of(tenure.plan, node)) is not None
    ]
    if plan.mode is SwitchMode.BREAK_BEFORE_MAKE:
        kept = []
    return Room(memory_bytes, kv_bytes_max, taken_bytes(tables, node, plan.deployment), tuple(kept))


def taken_bytes(tables: Tables, node: NodeId, apart_from: DeploymentId) -> int:
    """Memory that the newest plans of all other deployments take of ``node``, as far as their models are known."""
    taken = 0
    for deployment in tables.tenures.deployments():
        head = tables.tenures.head(deployment)
        stage = None if head is None or deployment == apart_from else stage_of(head.plan, node)
        facts = None if head is None else tables.models.get(head.plan.model)
        if head is None or stage is None or facts is None:
            continue
        span, plan = span_of(head.plan, stage), head.plan
        kv = kv_bytes_per_token(facts, span) * plan.context_tokens_max * plan.terms.sessions
        taken += resident_bytes(facts, span) + kv
    return taken

"""What this node has room for, given all it holds already.

Two deployments on one node share its memory, and so do two epochs of one deployment while the newer one is made and
the older one serves. Blocks that both epochs have are open once. KV is counted as promised, not as used: the sessions
of the full context that the terms of a deployment name, on every stage the node may have to serve.

Stages of one's own take precedence: what the node stood by for in earlier epochs is given back if it is in the way.
A stage to stand by for gets what is left beside everything that is held now, and waits if that is too little.
"""

from shoal_agent.core.plan import Room, kv_bytes_per_token, own_stages, resident_bytes, span_of, stages_on
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import HELD
from shoal_protocol.ids import DeploymentId, NodeId
from shoal_protocol.messages import Plan, SwitchMode


def room_for(tables: Tables, node: NodeId, plan: Plan, memory_bytes: int, kv_bytes_max: int) -> Room:
    """The room of ``node``, which is this one, for its own stages of ``plan``."""
    kept = [
        span_of(tenure.plan, stage)
        for tenure in tables.tenures.of(plan.deployment)
        if tenure.mine in HELD and tenure.plan.epoch != plan.epoch and tenure.plan.model == plan.model
        if tenure.served is not None  # what never served is given back at once
        for stage in own_stages(tenure.plan, node)
    ]
    if plan.mode is SwitchMode.BREAK_BEFORE_MAKE:
        kept = []
    return Room(memory_bytes, kv_bytes_max, taken_bytes(tables, node, plan.deployment), tuple(kept))


def room_beside(tables: Tables, node: NodeId, plan: Plan, memory_bytes: int, kv_bytes_max: int) -> Room:
    """The room of ``node``, which is this one, for ``plan`` beside all that it holds of other epochs now."""
    kept = [
        span_of(tenure.plan, stage)
        for tenure in tables.tenures.of(plan.deployment)
        if tenure.plan.epoch != plan.epoch and tenure.plan.model == plan.model and tenure.served is not None
        for stage in sorted(tenure.held)
    ]
    return Room(memory_bytes, kv_bytes_max, taken_bytes(tables, node, plan.deployment), tuple(kept))


def taken_bytes(tables: Tables, node: NodeId, apart_from: DeploymentId) -> int:
    """Memory that the newest plans of all other deployments take of ``node``, as far as their models are known."""
    taken = 0
    for deployment in tables.tenures.deployments():
        head = tables.tenures.head(deployment)
        facts = None if head is None else tables.models.get(head.plan.model)
        if head is None or facts is None or deployment == apart_from:
            continue
        plan = head.plan
        spans = [span_of(plan, stage) for stage in stages_on(plan, node)]
        kv = sum(kv_bytes_per_token(facts, span) for span in spans) * plan.context_tokens_max * plan.terms.sessions
        taken += resident_bytes(facts, *spans) + kv if spans else 0
    return taken

"""What one node says of a plan, asked directly."""

from shoal_agent.core.causes import trigger_of
from shoal_agent.core.outlook import Outlooks
from shoal_agent.core.validity import Validity
from shoal_agent.core.weighing import Answer, Sight
from shoal_protocol.ids import Instant
from shoal_protocol.messages import Plan
from tests.support.opinion import MEMORY, NOW, Opinion

HOUR_MS = 3_600_000


def judge(me: Opinion, plan: Plan, now: Instant = NOW, *, known: bool = True, kv_bytes_max: int = MEMORY) -> Answer:
    """Whether the node of ``me`` can live with ``plan``; not ``known``: it has not got the model."""
    trigger = trigger_of(me.tables, me.here, me.head, {}, now)
    outlook = Outlooks(me.here, me.tables, me.roster).of(me.head.plan, me.facts, {}, now) if known else None
    validity = Validity(me.here, me.tables, me.voice, kv_bytes_max)
    return validity.judge(plan, Sight(me.head, trigger, outlook, HOUR_MS), now)

"""Is this plan worth it, by my own figures, and is it what it claims to be? How a voter weighs what is no repair.

    better    GAIN and SLOW: its score over the head's, less what the move costs, is what was asked for
    firmer    FRAIL: some stage of the head has no standby, each of the plan's has one, all nodes have room for what
              they get (``footing`` audits that), and it is not slower than the loss of a node is worth

Of both: nothing that runs is broken before what follows is made; what survives any single loss is not left for what
does not, or a plan that survives and a faster one that does not would follow each other for ever; and the score that
the plan claims is about what this node finds (``claims``). Where this node lacks a figure the answer is "not yet".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.causes import Trigger, bare_stages
from shoal_agent.core.claims import fault_of_claim
from shoal_agent.core.crowding import price
from shoal_agent.core.decision import gain_permille, move_of, price_permille
from shoal_agent.core.footing import slowest_us, unfooted
from shoal_agent.core.outlook import Outlook
from shoal_agent.core.plan import hosts_of
from shoal_agent.core.problem import Split
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Plan, PlanStage, SwitchMode

Answer = tuple[bool | None, str]
YES: Final[Answer] = (True, "")


@dataclass(frozen=True, slots=True)
class Sight:
    """What this node knows when it judges. ``outlook`` None: it does not know the model."""

    head: Tenure
    trigger: Trigger | None
    outlook: Outlook | None
    validity_ms: int


@dataclass(frozen=True, slots=True)
class _Prices:
    """Of the head and of a plan, by ``outlook``."""

    before: Split
    after: Split
    outlook: Outlook


def better(tables: Tables, here: NodeId, plan: Plan, sight: Sight, asked_permille: int) -> Answer:
    """Whether ``plan`` is better than the head by so much, its move included."""
    known = _priced(plan, sight)
    if not isinstance(known, _Prices):
        return known
    before, after, outlook = known.before, known.after, known.outlook
    bare, bare_now = (bare_stages(tables, here, each.stages) for each in (plan, sight.head.plan))
    if plan.terms.standbys and bare and not bare_now:
        return False, f"bare: {_blocks(bare)} would have no standby, and now all stages have"
    moved = move_of(outlook.problem, after, outlook.owned, outlook.stored, outlook.owed_s)
    gain = gain_permille(before.score_us, after.score_us) - price_permille(moved, sight.validity_ms)
    if gain < asked_permille:
        return False, f"worse-score: a gain of {gain / 10:.1f} %, {asked_permille / 10:.1f} % are asked"
    return _honest(plan, outlook)


def firmer(tables: Tables, here: NodeId, plan: Plan, sight: Sight) -> Answer:
    """Whether ``plan`` survives the loss of any one node, as the head does not, and is not too slow for that."""
    head = sight.head.plan
    before, after = ([(s.first_block, s.last_block, s.width) for s in each.stages] for each in (head, plan))
    if before != after:
        return False, "invalid: FRAIL leaves the cuts as they are"
    known = _priced(plan, sight)
    if not isinstance(known, _Prices):
        return known
    if sight.head.served is None:
        return None, "unseen: the head did not serve yet"
    if not bare_stages(tables, here, head.stages):
        return None, "unseen: all stages have standbys that are there"
    bare = bare_stages(tables, here, plan.stages)
    if bare:
        return False, f"bare: {_blocks(bare)} would have no standby"
    problem = known.outlook.problem
    faults = unfooted(problem, head.stages, plan.stages, plan.terms.standbys, sight.validity_ms)
    if faults:
        return False, f"unfit: {faults[0]}"
    allowed_us, taken_us = slowest_us(known.before.score_us), known.after.score_us
    if taken_us > allowed_us:
        return False, f"worse-score: {taken_us / 1000:.2f} ms/token, {allowed_us / 1000:.2f} is allowed"
    return _honest(plan, known.outlook)


def _priced(plan: Plan, sight: Sight) -> _Prices | Answer:
    """Head and plan by my figures; or why they cannot be compared."""
    outlook = sight.outlook
    if outlook is None:
        return None, "model-missing: this node cannot judge the figures yet"
    strangers = [node for node in hosts_of(plan.stages) if outlook.why_not(node) is not None]
    if strangers:
        return False, f"unfit: {strangers[0][:8]} {outlook.why_not(strangers[0])}"
    before, after = price(outlook.problem, sight.head.plan.stages), price(outlook.problem, plan.stages)
    if before is None or after is None:
        return None, "unpriced: a host of the present plan is no candidate"
    if plan.mode is SwitchMode.BREAK_BEFORE_MAKE:
        return False, "outage: nothing that runs is broken before what follows is made"
    return _Prices(before, after, outlook)


def _honest(plan: Plan, outlook: Outlook) -> Answer:
    fault = fault_of_claim(outlook.problem, plan)
    return YES if fault is None else (False, f"claim: {fault}")


def _blocks(stages: Iterable[PlanStage]) -> str:
    return "blocks " + ", ".join(f"{stage.first_block}-{stage.last_block}" for stage in stages)

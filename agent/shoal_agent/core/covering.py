"""Would the loss of one node end a deployment, and what would help? The proposer's side of standbys and the backbone.

    standbys are missing, others can be     ─► THIN: the stages stay, standbys are added
      one after the other finds no room     ─► the same, all placed together                  bracing
    a stage has none, and there is none     ─► FRAIL: primaries move, so that each has one    footing
    every 10 to 60 minutes                  ─► where would all be best now? loads drift

A plan that is thin has been so for a while (``causes``). What is frail has to be so for as long as a gain, and waits as
long after a certificate and for operators' locks, because primaries move: nothing is broken yet.

*Who asks, and when.* A programme over primaries and standbys takes up to seconds of a processor, so one voter asks it:
the **steward**, the first of the voters that is there; every hour the turn goes on, so one that lies or sleeps only
delays. It asks when the deployment is frail and who there is, or how much they hold, has changed, and for every
deployment on the **slow clock**: ``CLOCK_S_MIN`` after the last question or the certificate, and a random rest on top,
so that the stewards of many deployments do not ask at once. That answer may become a gain like any redistribution:
the fastest that survives, where the fastest does not.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from shoal_agent.core.backbone import BackboneProblem, Counts
from shoal_agent.core.bracing import braced, bracing
from shoal_agent.core.case import Case, Scene, footed_option
from shoal_agent.core.causes import STANDBY_S, Trigger, bare_stages, is_gone, missed_standbys, state_of
from shoal_agent.core.crowding import price
from shoal_agent.core.decision import Choice, Option
from shoal_agent.core.drafting import draft
from shoal_agent.core.footing import SLOWER_PERMILLE, footing, slowest_us, unfooted
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.messages import Cause, Plan, PlanStage

CLOCK_S_MIN: Final = 600.0
CLOCK_S_MAX: Final = 3600.0
"""Ten minutes to an hour between two questions about a deployment in which nobody comes or goes."""
STEWARD_S: Final = 3600.0
"""How long one voter is the steward of an epoch: each is asked once on the slow clock at least."""
MARGIN_PERMILLE: Final = 10
"""Of what voters allow a proposer leaves so much: their figures differ a little."""

Pose = Callable[[BackboneProblem, Outbox], int | None]
"""Ask the planner; None while it is busy."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """A plan that survives more, and what it mends."""

    trigger: Trigger
    plan: Plan


class Covering:
    """What one node thinks about the failures that its deployments would survive."""

    def __init__(self, here: NodeId, tables: Tables, rng: Random, pose: Pose) -> None:
        self._here = here
        self._tables = tables
        self._rng = rng
        self._pose = pose

    # --- the stages stay --------------------------------------------------------------------------------------------

    def thin(self, scene: Scene, gone_since: Mapping[NodeId, Instant], now: Instant, out: Outbox) -> Remedy | None:
        """If standbys are missing and others can take their places, the plan for that."""
        tables, head, outlook = self._tables, scene.head, scene.outlook
        named = [node for stage in head.plan.stages for node in stage.standbys]
        missed = missed_standbys(tables, self._here, head.plan, gone_since, now)
        there, wanted = len(named) - len(missed), len(head.plan.stages) * head.plan.terms.standbys
        doubted = [n for n in named if outlook.why_not(n) is not None and not is_gone(tables, self._here, n)]
        current = price(outlook.problem, head.plan.stages)
        if there >= wanted or not self._settled(head, now) or doubted or current is None:
            return None
        told = [f"standby {node[:8]} is {state_of(tables, self._here, node)}" for node in dict.fromkeys(missed)]
        text = "; ".join([*told, f"{there} of {wanted} standbys are there"])
        drafted = draft(head, outlook, Option(Choice.KEEP, current), Cause.THIN, text)
        short = sum(len(stage.standbys) for stage in drafted.stages) < wanted
        plan = self._braced(scene, drafted, out) if short else drafted
        if plan is None:
            return None
        if sum(len(stage.standbys) for stage in plan.stages) <= there:
            scene.case.alone = True
            return None
        return Remedy(Trigger(Cause.THIN, missed, text, stays=True), plan)

    def _settled(self, head: Tenure, now: Instant) -> bool:
        return head.complete(self._tables.tenures.lost) and now >= head.since + STANDBY_S

    def _braced(self, scene: Scene, plan: Plan, out: Outbox) -> Plan | None:
        """``plan`` with standbys for all stages together, if that can be done; None until it is known."""
        case, head = scene.case, scene.head.plan
        asked = bracing(scene.outlook.problem, head.stages, head.terms.standbys)
        if asked != case.bracing:
            ticket = None if asked is None else self._pose(asked, out)
            if asked is not None and ticket is None:
                return None
            case.bracing, case.braced, case.bracing_ticket = asked, None, ticket
        if case.bracing_ticket is not None:
            return None
        if asked is None or case.braced is None:
            return plan
        reason = plan.reason.partition("; blocks ")[0] + "; placed together"
        return replace(plan, stages=braced(asked, head.stages, case.braced), reason=reason)

    # --- primaries move ---------------------------------------------------------------------------------------------

    def ask(self, scene: Scene, now: Instant, out: Outbox) -> None:
        """Where primaries and standbys would be best, if it is this node's turn and time to ask."""
        case, head, problem = scene.case, scene.head, scene.outlook.problem
        if not head.plan.terms.standbys or not self._settled(head, now) or self._steward(head, now) != self._here:
            return
        ground = tuple((each.node, each.memory_bytes) for each in problem.candidates)
        anew = ground != case.ground and bool(self._bare(head.plan.stages))
        if not anew and not self._due(case, now):
            return
        asked = footing(problem, head.plan.stages, head.plan.terms.standbys, case.validity_ms)
        ticket = None if asked is None else self._pose(asked, out)
        if asked is not None and ticket is None:
            return
        case.footing, case.footing_ticket, case.footed = asked, ticket, None
        case.ground, case.posed, case.due = ground, now, None

    def _steward(self, head: Tenure, now: Instant) -> NodeId | None:
        there = [node for node in head.plan.voters if not is_gone(self._tables, self._here, node)]
        return there[int((now - head.since) // STEWARD_S) % len(there)] if there else None

    def _due(self, case: Case, now: Instant) -> bool:
        """Whether the slow clock rang."""
        if now < (case.since if case.posed is None else case.posed) + CLOCK_S_MIN:
            return False
        if case.due is None:
            case.due = Instant(now + self._rng.uniform(0.0, CLOCK_S_MAX - CLOCK_S_MIN))
        return now >= case.due

    def _bare(self, stages: tuple[PlanStage, ...]) -> tuple[PlanStage, ...]:
        return bare_stages(self._tables, self._here, stages)

    def frail(self, scene: Scene, now: Instant) -> Remedy | None:
        """If the loss of some node would be an outage and the backbone knows better, the plan for that."""
        case, head = scene.case, scene.head
        bare = self._bare(head.plan.stages)
        plan = self._firmer(scene, bare) if bare and head.plan.terms.standbys else None
        ripe = case.frail.ripe(plan is not None, now)
        return Remedy(Trigger(Cause.FRAIL, (), ""), plan) if plan is not None and ripe else None

    def _firmer(self, scene: Scene, bare: tuple[PlanStage, ...]) -> Plan | None:
        """The plan of the backbone's answer, if voters with figures like ours would take it."""
        outlook, head = scene.outlook, scene.head
        option = footed_option(scene)
        before = price(outlook.problem, head.plan.stages)
        if option is None or before is None or option.breaks or self._bare(option.stages):
            return None
        allowed_us = slowest_us(before.score_us) * (1000 - MARGIN_PERMILLE) // 1000
        terms = head.plan.terms
        faults = unfooted(outlook.problem, head.plan.stages, option.stages, terms.standbys, scene.case.validity_ms)
        if option.split.score_us > allowed_us or faults:
            return None
        told = ", ".join(f"{stage.first_block}-{stage.last_block}" for stage in bare)
        text = (
            f"blocks {told} have no standby, and beside the primaries there is no room for one; placed together anew: "
            f"{option.split.score_us / 1000:.2f} ms/token instead of {before.score_us / 1000:.2f} "
            f"(at most {SLOWER_PERMILLE / 10:.0f} % more is allowed)"
        )
        return draft(head, outlook, option, Cause.FRAIL, text)


def answered(case: Case, ticket: int, counts: Counts | None) -> bool:
    """Whether the backbone's answer under ``ticket`` was about ``case``."""
    if case.bracing_ticket == ticket:
        case.braced, case.bracing_ticket = counts, None
    elif case.footing_ticket == ticket:
        case.footed, case.footing_ticket = counts, None
    else:
        return False
    return True

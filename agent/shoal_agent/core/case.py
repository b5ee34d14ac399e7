"""What steering keeps in mind about one deployment, and what it can be asked about it.

A case begins anew with every epoch; two things outlast it: who failed lately, and how long plans stand.
"""

from dataclasses import dataclass, field, replace
from typing import Final

from shoal_agent.core.backbone import BackboneProblem, Counts
from shoal_agent.core.causes import Trigger
from shoal_agent.core.crowding import price
from shoal_agent.core.decision import (
    Choice,
    Decision,
    Hold,
    Option,
    move_of,
    promoted,
    redistributed,
    refilled,
    switch_mode,
)
from shoal_agent.core.footing import footed
from shoal_agent.core.outlook import Outlook
from shoal_agent.core.problem import Infeasible, Split, SplitProblem, stages_of
from shoal_agent.core.standbys import Backing, back_up
from shoal_agent.core.tenure import Tenure
from shoal_protocol.ids import Epoch, Instant, NodeId
from shoal_protocol.messages import Cause, Plan, PlanStage, SwitchMode

BARRED_S: Final = 300.0
"""How long a node that failed is not asked again; whatever it was, an operator may have mended it by then."""
FORGIVEN_S: Final = 15.0
"""Where nobody else could take it or stand by: its disk may have been freed, and to wait serves nobody. Doubled by each
failure."""
TRIALS_MAX: Final = 6
"""Failures in a row that are counted: with them the pause is as long as any."""
VALIDITY_MS: Final = 3_600_000
"""What a plan is expected to stand before anything is known about that."""
VALIDITY_MS_MIN: Final = 60_000
VALIDITY_MS_MAX: Final = 86_400_000


@dataclass(slots=True)
class Case:
    """What is thought about one deployment."""

    epoch: Epoch
    since: Instant
    validity_ms: int = VALIDITY_MS
    hold: Hold = field(default_factory=Hold)
    barred: dict[NodeId, tuple[Instant, str]] = field(default_factory=dict)
    """Who failed it, when and how."""
    trials: int = 0
    """Failures in a row."""
    alone: bool = False
    """Without those who failed no plan is possible, or none that has the standbys it should have."""
    problem: SplitProblem | None = None
    """The last one that was asked."""
    tickets: dict[int, Choice] = field(default_factory=dict)
    bracing: BackboneProblem | None = None
    """The last one about standbys that was asked; under ``bracing_ticket`` while it is."""
    bracing_ticket: int | None = None
    braced: Counts | None = None
    footing: BackboneProblem | None = None
    """The last one about primaries and standbys that was asked, among the nodes of ``ground``, at ``posed``."""
    footing_ticket: int | None = None
    footed: Counts | None = None
    ground: tuple[tuple[NodeId, int], ...] = ()
    """Candidates and what they offer."""
    posed: Instant | None = None
    due: Instant | None = None
    """When the slow clock rings, once it was drawn."""
    frail: Hold = field(default_factory=Hold)
    """For how long there has been a plan that survives what the head does not."""
    answers: dict[Choice, Split | Infeasible] = field(default_factory=dict)
    stages_min: int | None = None
    """Fewer stages than the terms ask for, if that was tried."""
    wish: Plan | None = None
    told: str = ""
    """The last thing the story was told, so that it is not told every two seconds."""
    fetched: Instant | None = None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """What there is to say about a deployment now. ``outlook`` None: this node does not know the model."""

    votes: bool
    trigger: str | None
    """What is broken."""
    outlook: Outlook | None
    backing: Backing | None
    """The standbys its stages would get now, and what is lacking."""
    considered: str | None
    """The last decision, with its numbers."""
    held_s: float
    """For how long a gain has been there."""
    cool_down_s: float
    locked: NodeId | None
    """A host or voter whose operator postpones."""
    validity_s: float
    """How long a plan is expected to stand."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One evaluation."""

    case: Case
    head: Tenure
    trigger: Trigger | None
    outlook: Outlook


def case_of(head: Tenure, known: Case | None, now: Instant) -> Case:
    """The case of the deployment whose newest epoch is ``head``; ``known`` is the last one."""
    case = known
    if case is None:
        case = Case(head.plan.epoch, head.since)
    elif case.epoch != head.plan.epoch:
        stood_ms = int(1000 * (head.since - case.since))
        validity_ms = validity_after(case.validity_ms, stood_ms)
        case = Case(head.plan.epoch, head.since, validity_ms, barred=case.barred, trials=case.trials)
    case.barred = {node: entry for node, entry in case.barred.items() if now < entry[0] + BARRED_S}
    return case


def validity_after(expected_ms: int, stood_ms: int) -> int:
    """How long the next plan may stand, if plans were expected to stand ``expected_ms`` and one stood ``stood_ms``."""
    return min(max((3 * expected_ms + stood_ms) // 4, VALIDITY_MS_MIN), VALIDITY_MS_MAX)


def barred_by(case: Case, head: Tenure, trigger: Trigger | None, now: Instant) -> dict[NodeId, str]:
    """Who failed this deployment lately, and how."""
    pause_s = min(FORGIVEN_S * 2 ** max(0, case.trials - 1), BARRED_S) if case.alone else BARRED_S
    barred = {node: why for node, (since, why) in case.barred.items() if now < since + pause_s}
    if trigger is not None and trigger.cause is Cause.NOT_READY and now < head.since + pause_s:
        barred |= {node: f"failed epoch {head.plan.epoch}" for node in trigger.nodes if node not in barred}
    return barred


def footed_option(scene: Scene) -> Option | None:
    """What the backbone answered, as the redistribution it is; None without an answer, or if nothing moves by it."""
    asked, counts, outlook, head = scene.case.footing, scene.case.footed, scene.outlook, scene.head.plan
    if asked is None or counts is None:
        return None
    stages = footed(asked, head.stages, counts)
    split = price(outlook.problem, stages)
    if split is None or [s.node for s in stages] == [s.node for s in head.stages]:
        return None
    return replace(_option(outlook, head.stages, Choice.REDISTRIBUTE, split), stages=stages)


def options_of(scene: Scene, *, broken: bool, covered: bool) -> list[Option]:
    """Every way to go on, cheapest class first. ``covered``: now the loss of any one node is survived."""
    outlook, held, answers = scene.outlook, scene.head.plan.stages, scene.case.answers
    splits: list[tuple[Choice, Split | None]] = []
    if broken:
        known = promoted(outlook.problem, held), refilled(outlook.problem, held)
        splits = [(Choice.REDISTRIBUTE, split) for split in dict.fromkeys(known)]
    moved, other = answers[Choice.REDISTRIBUTE], answers[Choice.RESPLIT]
    if isinstance(moved, Split):
        splits.append((Choice.REDISTRIBUTE, redistributed(outlook.problem, held, moved)))
    if isinstance(other, Split):
        splits.append((Choice.RESPLIT, other))
    options = [_option(outlook, held, choice, split) for choice, split in splits if split is not None]
    anew = None if broken else footed_option(scene)
    options = options if anew is None else [anew, *options]
    return [replace(option, bares=_bares(scene, option)) for option in options] if covered else options


def _bares(scene: Scene, option: Option) -> bool:
    """Whether some stage of ``option`` would have no standby."""
    before, problem = scene.head.plan, scene.outlook.problem
    found = option.stages or back_up(problem, stages_of(option.split), before.terms.standbys, before.stages).stages
    return not all(stage.standbys for stage in found)


def _option(outlook: Outlook, held: tuple[PlanStage, ...], choice: Choice, split: Split) -> Option:
    breaks = switch_mode(outlook.problem, held, outlook.owned, split) is SwitchMode.BREAK_BEFORE_MAKE
    move = move_of(outlook.problem, split, outlook.owned, outlook.stored, outlook.owed_s)
    return Option(choice, split, move, breaks)

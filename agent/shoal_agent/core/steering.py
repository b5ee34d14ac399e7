"""Which plan should be next? Every voter asks itself that; whoever's turn it is to propose has an answer ready.

    every EVALUATE_S, and when a host is gone, fails or leaves
      ─► trigger (what is broken) and outlook (what every node could do)          causes, outlook
      ─► has the problem changed? Solve: other cuts, and the same cuts elsewhere   beside the loop
      ─► keep, redistribute or re-split                                            decision
      ─► Wish(plan), or Unwish

A repair is wished at once; so are standbys in the place of those that are missing, once a plan is of age, and other
primaries where no standby has room, once that has been so for a while (``covering``). Missed deadlines (``lateness``)
ask for whatever is better, at once too. A gain has
to be there for a minute without a break, a minute after the last certificate, with no operator's lock among the hosts
and voters; while the newest epoch is not ready, or a host is only suspected, nothing is gained. A node that failed to
open its blocks is no host of that deployment for ``BARRED_S``: without that the planner, to whom it looks as good as
ever, would name it again. Where nobody else could take it, it is asked again after a pause that grows. Terms bind:
but if no plan of as many stages as they ask for fits any more, a repair may have fewer, because serving comes first.

Another's plan is judged by ``validity``, which looks at the same figures.

*How long will a plan stand?* Nobody knows; as long as plans have stood lately (an exponential mean, three parts old to
one part new), and at least as long as the present one already has.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from shoal_agent.core.backbone import Backbone, BackboneProblem
from shoal_agent.core.case import TRIALS_MAX, Account, Case, Scene, barred_by, case_of, options_of
from shoal_agent.core.causes import bare_stages, is_gone, slowness_of, trigger_of
from shoal_agent.core.claims import is_outdated
from shoal_agent.core.covering import Covering, Remedy, answered
from shoal_agent.core.crowding import price
from shoal_agent.core.decision import Choice, Decision, decide, same_cuts
from shoal_agent.core.drafting import draft
from shoal_agent.core.effects import FetchModel, Solve
from shoal_agent.core.events import Solved
from shoal_agent.core.facts import ModelFacts, Standing
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.outlook import Outlooks
from shoal_agent.core.plan import covers, own_stages, rendezvous_order
from shoal_agent.core.problem import Infeasible, Split, SplitProblem, with_fewer
from shoal_agent.core.standbys import back_up
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure
from shoal_agent.core.timers import Routine
from shoal_agent.core.validity import COOL_DOWN_S, Validity
from shoal_agent.core.voice import Voice
from shoal_agent.core.weighing import Answer, Sight
from shoal_protocol.codec import encode_plan
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import Cause, Plan

EVALUATE_S: Final = 2.0
"""Between two evaluations: records come every few seconds, and an unchanged problem costs a comparison."""
FETCH_S: Final = 30.0
"""Between two attempts to get the texts of a model that this node votes about and does not know."""
MARGIN_PERMILLE: Final = 10
"""A proposer asks for so much more than voters do: their figures differ, and a plan that is refused costs rounds."""
SOURCES_MAX: Final = 8
"""Peers named as having a package."""


@dataclass(frozen=True, slots=True)
class Wish:
    """This node would like ``raw`` to be the next plan of ``deployment``."""

    deployment: DeploymentId
    raw: bytes


@dataclass(frozen=True, slots=True)
class Unwish:
    """It no longer would like anything to change."""

    deployment: DeploymentId


SteeringFact = Wish | Unwish


class Steering:
    """This node's opinion of all plans."""

    def __init__(self, here: NodeId, tables: Tables, voice: Voice, kv_bytes_max: int, rng: Random) -> None:
        self._here = here
        self._tables = tables
        self._outlooks = Outlooks(here, tables, voice.identity.roster)
        self._validity = Validity(here, tables, voice, kv_bytes_max)
        self._cases: dict[DeploymentId, Case] = {}
        self._gone_since: dict[NodeId, Instant] = {}
        self._ticket = 0
        self._unanswered: dict[int, None] = {}
        """What the planner was asked, be it about epochs that are over."""
        self._placing: int | None = None
        """The backbone is asked for, too: nothing waits for that."""
        self._covering = Covering(here, tables, rng, self._place)

    def begin(self, now: Instant) -> None:
        """Arm the clock."""
        self._tables.timers.set(Routine.STEER, Instant(now + EVALUATE_S))

    def sensed(self, macs_per_s: int, now: Instant) -> None:
        """The sensors were read: say how fast this node really is."""
        tenures = self._tables.tenures.all()
        hosting = any(stage in tenure.held for tenure in tenures for stage in own_stages(tenure.plan, self._here))
        self._tables.stage_permille = self._tables.pace.permille(macs_per_s, now, hosting=hosting)

    # --- when to think ----------------------------------------------------------------------------------------------

    def evaluate(self, now: Instant, out: Outbox) -> list[SteeringFact]:
        """Think about every deployment."""
        self._tables.timers.set(Routine.STEER, Instant(now + EVALUATE_S))
        return [fact for name in self._tables.tenures.deployments() for fact in self._consider(name, now, out)]

    def stood(self, node: NodeId, standing: Standing, now: Instant, out: Outbox) -> list[SteeringFact]:
        """The watch found something about ``node``."""
        if standing in (Standing.DEAD, Standing.LEFT):
            self._gone_since.setdefault(node, now)
        else:
            self._gone_since.pop(node, None)
        return self._concerning(node, now, out)

    def heard(self, node: NodeId, now: Instant, out: Outbox) -> list[SteeringFact]:
        """``node`` published its record: urgent if it is a host that leaves."""
        return self._concerning(node, now, out) if is_gone(self._tables, self._here, node) else []

    def _concerning(self, node: NodeId, now: Instant, out: Outbox) -> list[SteeringFact]:
        facts: list[SteeringFact] = []
        for name in self._tables.tenures.deployments():
            head = self._tables.tenures.head(name)
            if head is not None and any(stage.node == node for stage in head.plan.stages):
                facts += self._consider(name, now, out)
        return facts

    def failed(
        self, deployment: DeploymentId, epoch: Epoch, nodes: Iterable[NodeId], now: Instant, out: Outbox
    ) -> list[SteeringFact]:
        """Hosts of the newest epoch will not be ready."""
        tenure = self._tables.tenures.get(deployment, epoch)
        if tenure is None:
            return []
        case = self._case(tenure, now)
        for node in nodes:
            report = tenure.reports.get(node)
            why = report.detail if report is not None and report.detail else "not ready in time"
            case.barred[node] = now, f"failed epoch {epoch}: {why}"
        case.trials = min(case.trials + 1, TRIALS_MAX)
        return self._consider(deployment, now, out)

    def _case(self, head: Tenure, now: Instant) -> Case:
        """The case of a deployment, begun anew with every epoch."""
        name = head.plan.deployment
        known = self._cases.get(name)
        case = self._cases[name] = case_of(head, known, now)
        if case is not known:
            self._tables.lateness.forget(name)
        return case

    # --- thinking ---------------------------------------------------------------------------------------------------

    def _consider(self, deployment: DeploymentId, now: Instant, out: Outbox) -> list[SteeringFact]:
        head = self._tables.tenures.head(deployment)
        assert head is not None, "a deployment has a newest epoch"
        case = self._case(head, now)
        if self._here not in head.plan.voters or self._tables.isolated:
            return self._withdraw(case, head)
        facts = self._facts(head.plan)
        if facts is None:
            self._fetch(case, head.plan, now, out)
            return []
        scene = self._scene(case, head, facts, now)
        if case.problem != scene.outlook.problem:
            self._ask(scene, out)
            return []
        return [] if case.tickets else self._conclude(scene, now, out)

    def _scene(self, case: Case, head: Tenure, facts: ModelFacts, now: Instant) -> Scene:
        trigger = trigger_of(self._tables, self._here, head, self._gone_since, now)
        trigger = trigger or slowness_of(self._tables, self._here, head, now)
        return Scene(case, head, trigger, self._outlooks.of(head.plan, facts, barred_by(case, head, trigger, now), now))

    def _facts(self, plan: Plan) -> ModelFacts | None:
        """Of its model; None if they are not here, or ``plan`` is of other blocks: nobody can price it."""
        facts = self._tables.models.get(plan.model)
        return facts if facts is not None and covers(plan, facts) else None

    def _fetch(self, case: Case, plan: Plan, now: Instant, out: Outbox) -> None:
        """A voter must know what it votes about."""
        if plan.model in self._tables.models or (case.fetched is not None and now < case.fetched + FETCH_S):
            return
        case.fetched = now
        holders = self._tables.membership.holders(plan.model)
        out.add(FetchModel(plan.model, tuple(rendezvous_order(self._here.encode(), holders)[:SOURCES_MAX])))

    def _ask(self, scene: Scene, out: Outbox) -> None:
        """Pose the problem, unless the planner is busy: then it is posed at the next evaluation."""
        if self._unanswered:
            return
        case, problem = scene.case, scene.outlook.problem
        case.problem, case.answers, case.stages_min = problem, {}, None
        self._solve(case, Choice.RESPLIT, problem, out)
        self._solve(case, Choice.REDISTRIBUTE, same_cuts(problem, scene.head.plan.stages), out)

    def _solve(self, case: Case, choice: Choice, problem: SplitProblem, out: Outbox) -> None:
        ticket = self._pose(problem, out)
        self._unanswered[ticket] = None
        case.tickets[ticket] = choice

    def _place(self, problem: BackboneProblem, out: Outbox) -> int | None:
        if self._placing is None:
            self._placing = self._pose(problem, out)
            return self._placing
        return None

    def _pose(self, problem: SplitProblem | BackboneProblem, out: Outbox) -> int:
        self._ticket += 1
        out.add(Solve(self._ticket, problem))
        return self._ticket

    def solved(self, event: Solved, now: Instant, out: Outbox) -> list[SteeringFact]:
        """The planner answered."""
        if isinstance(event.answer, Backbone):
            self._placing = None
            about = [name for name, case in self._cases.items() if answered(case, event.ticket, event.answer.counts)]
            return [fact for name in about for fact in self._consider(name, now, out)]
        self._unanswered.pop(event.ticket, None)
        for deployment, case in self._cases.items():
            choice = case.tickets.pop(event.ticket, None)
            if choice is not None:
                case.answers[choice] = event.answer
                return [] if case.tickets else self._consider(deployment, now, out)
        return [] if self._unanswered else self.evaluate(now, out)  # about an epoch that is over; there is room again

    # --- concluding -------------------------------------------------------------------------------------------------

    def _conclude(self, scene: Scene, now: Instant, out: Outbox) -> list[SteeringFact]:
        case, head, trigger, problem = scene.case, scene.head, scene.trigger, scene.outlook.problem
        current = price(problem, head.plan.stages)
        broken = trigger is not None and not trigger.stays and trigger.cause is not Cause.SLOW
        if current is None and not broken:
            case.hold.ripe(False, now)  # noqa: FBT003 - a host is suspected, or unknown: soon more will be known
            return self._withdraw(case, head)
        if broken and self._relax(case, problem, out):
            return []
        validity_ms = max(case.validity_ms, int(1000 * (now - head.since)))
        margin = 0 if broken else MARGIN_PERMILLE
        slow = trigger is not None and trigger.cause is Cause.SLOW
        asked = 1 if slow else head.plan.terms.gain_permille + margin
        covered = bool(head.plan.terms.standbys) and not bare_stages(self._tables, self._here, head.plan.stages)
        stays = trigger is not None and trigger.stays
        options = [] if stays else options_of(scene, broken=broken, covered=covered)
        decision = decide(None if broken else current, options, validity_ms, asked)
        case.decision = decision
        if trigger is not None:
            return self._repair(scene, decision, now, out)
        assert decision is not None, "the plan that runs can be kept"
        thin = self._covering.thin(scene, self._gone_since, now, out)
        if thin is not None:
            return self._mend(scene, thin, now)
        self._covering.ask(scene, now, out)
        frail = self._covering.frail(scene, now)
        if frail is not None and self._free(head, now):
            return self._mend(scene, frail, now)
        return self._gain(scene, decision, now)

    def _mend(self, scene: Scene, remedy: Remedy, now: Instant) -> list[SteeringFact]:
        return self._wish(replace(scene, trigger=remedy.trigger), remedy.plan, now)

    def _relax(self, case: Case, problem: SplitProblem, out: Outbox) -> bool:
        """Nothing fits in as many stages as the terms ask for: ask for as many as there are nodes, then for any."""
        tried = case.stages_min or problem.stages_min
        fewer = min(len(problem.candidates), tried - 1) if case.stages_min is None else 1
        if isinstance(case.answers[Choice.RESPLIT], Split) or not 0 < fewer < tried:
            return False
        case.stages_min = fewer
        self._solve(case, Choice.RESPLIT, with_fewer(problem, fewer), out)
        return True

    def _repair(self, scene: Scene, decision: Decision | None, now: Instant, out: Outbox) -> list[SteeringFact]:
        trigger = scene.trigger
        assert trigger is not None, "asked for"
        if decision is None:
            answer = scene.case.answers[Choice.RESPLIT]
            why = answer.reason if isinstance(answer, Infeasible) else "no stage fits"
            self._tell(scene, f"{trigger.text}; no other plan is possible: {why}", now)
            scene.case.alone = True
            return self._withdraw(scene.case, scene.head)
        plan = draft(scene.head, scene.outlook, decision.option, trigger.cause, f"{trigger.text}; {decision.text}")
        before, after = (
            sum(not is_gone(self._tables, self._here, voter) for voter in each.voters)
            for each in (scene.head.plan, plan)
        )
        if decision.option.choice is Choice.KEEP and (
            trigger.cause is Cause.SLOW or (trigger.stays and after <= before)
        ):
            thin = self._covering.thin(scene, self._gone_since, now, out) if trigger.stays else None
            # There is nothing better, and nobody for the voter's place.
            return self._withdraw(scene.case, scene.head) if thin is None else self._mend(scene, thin, now)
        return self._wish(scene, plan, now)

    def _free(self, head: Tenure, now: Instant) -> bool:
        """Whether what is no repair may change the plan of ``head``."""
        settled = head.complete(self._tables.tenures.lost) and now >= head.since + COOL_DOWN_S
        return settled and self._validity.locked(head.plan) is None

    def _gain(self, scene: Scene, decision: Decision, now: Instant) -> list[SteeringFact]:
        case, head = scene.case, scene.head
        better = decision.option.choice is not Choice.KEEP
        ripe = case.hold.ripe(better, now)
        locked = self._validity.locked(head.plan)
        free = self._free(head, now)
        case.trials = 0 if free or locked is not None else case.trials
        if better:
            held = "held for long enough" if ripe else "not yet for long enough"
            held = f"postponed by the lock on {locked[:8]}" if locked is not None else held
            self._tell(scene, f"{decision.text}; {held}", now)
        if not (ripe and free):
            waits = better and free and case.wish is not None and case.wish.cause is Cause.GAIN
            return [] if waits else self._withdraw(case, head)
        return self._wish(scene, draft(head, scene.outlook, decision.option, Cause.GAIN, decision.text), now)

    def _wish(self, scene: Scene, plan: Plan, now: Instant) -> list[SteeringFact]:
        """Say so, unless it was said: figures may differ a little each time, and a wish must not."""
        known = scene.case.wish
        if known is not None and not is_outdated(known, plan):
            return []
        scene.case.wish = plan
        self._tell(scene, plan.reason, now)
        return [Wish(plan.deployment, encode_plan(plan))]

    @staticmethod
    def _withdraw(case: Case, head: Tenure) -> list[SteeringFact]:
        if case.wish is None:
            return []
        case.wish = None
        return [Unwish(head.plan.deployment)]

    def _tell(self, scene: Scene, text: str, now: Instant) -> None:
        if scene.case.told != text:
            scene.case.told = text
            plan, story, trigger = scene.head.plan, self._tables.story, scene.trigger
            cause = None if trigger is None or not trigger.nodes else story.last(trigger.nodes[0])
            story.tell(now, f"{plan.deployment}/{plan.epoch + 1}", text, cause=cause)

    # --- looking in -------------------------------------------------------------------------------------------------

    def account(self, head: Tenure, now: Instant) -> Account:
        """How the deployment of ``head`` looks from here now, whether this node votes about it or not."""
        case, facts = self._case(head, now), self._facts(head.plan)
        trigger = trigger_of(self._tables, self._here, head, self._gone_since, now)
        outlook = backing = None
        if facts is not None:
            outlook, plan = self._outlooks.of(head.plan, facts, barred_by(case, head, trigger, now), now), head.plan
            backing = back_up(outlook.problem, plan.stages, plan.terms.standbys, plan.stages)
        return Account(
            votes=self._here in head.plan.voters,
            trigger=None if trigger is None else trigger.text,
            outlook=outlook,
            backing=backing,
            considered=None if case.decision is None else case.decision.text,
            held_s=case.hold.held_s(now),
            cool_down_s=max(0.0, head.since + COOL_DOWN_S - now),
            locked=self._validity.locked(head.plan),
            validity_s=max(case.validity_ms / 1000, now - head.since),
        )

    # --- judging ----------------------------------------------------------------------------------------------------

    def judge(self, plan: Plan, now: Instant) -> Answer:
        """Whether this node can live with ``plan``: yes, no, or not yet, and why."""
        head = self._tables.tenures.head(plan.deployment)
        if head is None:
            return False, "invalid: no such deployment here"
        case = self._case(head, now)
        facts = self._facts(head.plan)
        trigger = trigger_of(self._tables, self._here, head, self._gone_since, now)
        outlook = None
        if facts is not None:
            outlook = self._outlooks.of(head.plan, facts, barred_by(case, head, trigger, now), now)
        validity_ms = max(case.validity_ms, int(1000 * (now - head.since)))
        verdict, why = self._validity.judge(plan, Sight(head, trigger, outlook, validity_ms), now)
        return verdict, why[:REASON_CHARS_MAX]

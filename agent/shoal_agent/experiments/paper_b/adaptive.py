"""Shoal in the experiment, and every baseline that differs from it in one rule.

What is decided is decided by the core: splits by ``planner``, their price under their own load by ``crowding``, keep,
redistribute or re-split by ``decision``, who stands by by ``standbys``, patience between gains by ``Hold``, slowness by
``lateness``, admission by ``prospects``. Here they are asked in the order in which ``steering`` asks them:

    every EVALUATE_S, and when a host is found lost
      a host of the plan is lost   ─► the cheapest class that is possible, at once
      clients wait too long        ─► whatever is better, at once
      standbys are missing         ─► others, once the plan is STANDBY_S old
      something is better          ─► once it was so for HOLD_S, COOL_DOWN_S after the last plan

``Rules`` say what a baseline does otherwise.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from shoal_agent.core.case import VALIDITY_MS, validity_after
from shoal_agent.core.causes import STANDBY_S
from shoal_agent.core.crowding import price
from shoal_agent.core.decision import Choice, Decision, Hold, Option, decide, promoted, redistributed, refilled
from shoal_agent.core.demand import WINDOW_S_MIN, Demands
from shoal_agent.core.lateness import Lateness
from shoal_agent.core.problem import NO_DEMAND, Demand, Infeasible, Split, SplitProblem, stages_of
from shoal_agent.core.prospects import late_s
from shoal_agent.core.resume import Speed
from shoal_agent.core.standbys import back_up
from shoal_agent.core.steering import EVALUATE_S, MARGIN_PERMILLE
from shoal_agent.core.validity import COOL_DOWN_S
from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.control import Control
from shoal_agent.experiments.paper_b.serving import PATIENCE_S, Route
from shoal_agent.experiments.paper_b.sight import Sight
from shoal_agent.experiments.paper_b.trace import Outage, Trace
from shoal_protocol.ids import DeploymentId, Instant
from shoal_protocol.messages import PlanStage

NAME: Final = DeploymentId("paper-b")
ANY_MS: Final = 1_000_000_000
"""A plan that stands for so long makes every move free: what who does not count moves believes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a method does otherwise than Shoal; the defaults are Shoal's."""

    standbys: int = 1
    gain_permille: int = 100
    """What the operator asks of a new plan."""
    choices: tuple[Choice, ...] = (Choice.REDISTRIBUTE, Choice.RESPLIT)
    """What it may change."""
    impatient: bool = False
    """It takes every gain at once: no hold, no cool-down, no least gain, no price of moving."""
    period_s: float = EVALUATE_S
    repairs: bool = True
    """It thinks when a host is lost, not only when its period is over."""
    fresh: bool = False
    """It knows every machine's load as it is now."""
    agrees: bool = True
    """The machines must agree; else one says so."""
    centre: tuple[Outage, ...] = ()
    """When the one machine that says so is away: nothing is learned or changed meanwhile."""
    centre_rtt_s: float = 0.0


class Solver(Protocol):
    """Who finds splits."""

    def problem(self, seen: cluster.Conditions) -> SplitProblem:
        """What is asked."""

    def split(self, seen: cluster.Conditions) -> Split | Infeasible:
        """Other cuts."""

    def moved(self, seen: cluster.Conditions, stages: tuple[PlanStage, ...]) -> Split | Infeasible:
        """The same cuts on other hosts."""

    def price(self, seen: cluster.Conditions, stages: Sequence[PlanStage]) -> Split | None:
        """What ``stages`` cost under their own load, whoever found them."""

    def alone(self, seen: cluster.Conditions, stages: Sequence[PlanStage]) -> Split | None:
        """What they cost a request that is alone."""


@dataclass(slots=True)
class Tally:
    """What was decided, and why."""

    repairs: int = 0
    slow: int = 0
    backings: int = 0
    gains: int = 0
    choices: dict[Choice, int] = field(default_factory=lambda: dict.fromkeys(Choice, 0))


class Adaptive:
    """A method with a plan that it may change."""

    def __init__(self, trace: Trace, solver: Solver, rules: Rules) -> None:
        self._trace, self._solver, self._rules = trace, solver, rules
        self._sight = Sight(trace, fresh=rules.fresh)
        self._demands = _warm(trace.rate_per_s)
        self._lateness = Lateness()
        self._hold = Hold()
        self._validity_ms = VALIDITY_MS
        self._epoch, self._since = 0, 0.0
        self._agreements = 0
        self._news: deque[tuple[float, int, bool]] = deque()
        self.tick_s = rules.period_s
        self.tally = Tally()
        self.control = Control(first_plan(trace, solver, rules.standbys), standbys=rules.standbys > 0)

    # --- asked by the experiment ------------------------------------------------------------------------------------

    def route(self, now: float) -> Route | None:
        """Of the plan in force."""
        self._learn(now)
        return self.control.route(now)

    def serves(self, epoch: int, now: float) -> bool:
        """In force, or draining."""
        return self.control.serves(epoch, now)

    def fetching(self, node: int, now: float) -> bool:
        """For a plan to come."""
        return self.control.fetching(node, now)

    def ended(self, now: float, *, late: bool) -> None:
        """Once its clients wait too long, Shoal thinks at once."""
        if self._lateness.ended(NAME, Instant(now), late=late) and self._rules.repairs:
            self.tick(now)

    def admits(self, now: float, under_way: int) -> bool:
        """Whether it can be answered before its client goes."""
        split = self._solver.alone(self._conditions(now), self.control.running.stages)
        speeds = [Speed(stage.time_us / 1e6, 0.0) for stage in split.stages] if split is not None else []
        admitted = split is None or late_s(under_way - 1, 0, 1, speeds, PATIENCE_S) is None
        if admitted:
            self._demands.began(NAME, cluster.TOKENS, Instant(now))
            self._demands.answered(NAME, Instant(now))
        return admitted

    def found(self, node: int, now: float) -> None:
        """Told to whoever decides: with a centre that is a message, and it must be there."""
        self._hear(node, now, alive=False)

    def heard(self, node: int, now: float) -> None:
        """As ``found``."""
        self._hear(node, now, alive=True)

    def tick(self, now: float) -> None:
        """Think, if there is somebody to do so and nothing is under way."""
        self._learn(now)
        self.control.settle(now)
        self._begin_anew()
        if not self.control.busy and not self._away(now):
            self._think(now)

    # --- what is known ----------------------------------------------------------------------------------------------

    def _away(self, now: float) -> bool:
        return any(outage.begins_s <= now < outage.ends_s for outage in self._rules.centre)

    def _hear(self, node: int, now: float, *, alive: bool) -> None:
        self._news.append((now + self._rules.centre_rtt_s, node, alive))
        self._learn(now)

    def _learn(self, now: float) -> None:
        while self._news and self._news[0][0] <= now and not self._away(now):
            _, node, alive = self._news.popleft()
            if alive:
                self.control.heard(node)
                continue
            self.control.found(node)
            if self._rules.repairs and self.control.lost() and not self.control.busy:
                self._begin_anew()
                self._think(now)

    def _conditions(self, now: float) -> cluster.Conditions:
        nodes = self.control.alive(cluster.EDGE)
        return self._sight.conditions(now, nodes, self._demand(now))

    def _demand(self, now: float) -> Demand:
        """As the only ingress there is tells it."""
        told = self._demands.measured(Instant(now))
        return Demand(told[0].prompt_tokens_per_ks, told[0].answer_tokens_per_ks) if told else NO_DEMAND

    def _begin_anew(self) -> None:
        running = self.control.running
        if running.epoch != self._epoch:
            self._validity_ms = validity_after(self._validity_ms, int(1000 * (running.since - self._since)))
            self._epoch, self._since, self._hold = running.epoch, running.since, Hold()
            self._lateness.forget(NAME)

    # --- what is decided --------------------------------------------------------------------------------------------

    def _think(self, now: float) -> None:
        seen, lost = self._conditions(now), bool(self.control.lost())
        problem = self._solver.problem(seen)
        slow = self._lateness.slow(NAME, Instant(now)) is not None
        decision = self._decide(seen, problem, now, lost=lost, slow=slow)
        if decision is None:
            return
        better = decision.option.choice is not Choice.KEEP
        if lost:
            self.tally.repairs += 1
            self._switch(problem, decision.option, now)
        elif slow and better:
            self.tally.slow += 1
            self._switch(problem, decision.option, now)
        elif self._back_up(problem, now):
            self.tally.backings += 1
        elif self._ripe(now, better=better):
            self.tally.gains += 1
            self._switch(problem, decision.option, now)

    def _ripe(self, now: float, *, better: bool) -> bool:
        if self._rules.impatient:
            return better
        held = self._hold.ripe(better, Instant(now))
        return better and held and now >= self.control.running.since + COOL_DOWN_S

    def _decide(
        self, seen: cluster.Conditions, problem: SplitProblem, now: float, *, lost: bool, slow: bool
    ) -> Decision | None:
        current = None if lost else self._solver.price(seen, self.control.running.stages)
        asked = 1 if slow or self._rules.impatient else self._rules.gain_permille + MARGIN_PERMILLE * (not lost)
        since_ms = int(1000 * (now - self.control.running.since))
        validity_ms = ANY_MS if self._rules.impatient else max(self._validity_ms, since_ms)
        return decide(current, self._options(seen, problem, lost=lost), validity_ms, asked)

    def _options(self, seen: cluster.Conditions, problem: SplitProblem, *, lost: bool) -> list[Option]:
        stages = self.control.running.stages
        splits: list[tuple[Choice, Split | Infeasible | None]] = []
        if Choice.REDISTRIBUTE in self._rules.choices:
            if lost:
                splits += [(Choice.REDISTRIBUTE, rule(problem, stages)) for rule in (promoted, refilled)]
            moved = self._solver.moved(seen, stages)
            if isinstance(moved, Split):
                splits.append((Choice.REDISTRIBUTE, redistributed(problem, stages, moved)))
        if Choice.RESPLIT in self._rules.choices:
            splits.append((Choice.RESPLIT, self._solver.split(seen)))
        covered = self._rules.standbys > 0 and not lost and self.control.covered()
        return [
            Option(
                choice,
                priced,
                self.control.move(problem, split),
                self._breaks(problem, split),
                covered and self._bares(problem, split),
            )
            for choice, split in splits
            if isinstance(split, Split) and (priced := self._solver.price(seen, stages_of(split))) is not None
        ]

    def _bares(self, problem: SplitProblem, split: Split) -> bool:
        backed = back_up(problem, stages_of(split), self._rules.standbys, self.control.running.stages).stages
        return not self._rules.impatient and not all(stage.standbys for stage in backed)

    def _breaks(self, problem: SplitProblem, split: Split) -> bool:
        return not self._rules.impatient and self.control.breaks(problem, split)

    def _back_up(self, problem: SplitProblem, now: float) -> bool:
        """Name others in the place of standbys that are lost, or that there were none for."""
        stages = self.control.running.stages
        missing = len(stages) * self._rules.standbys - sum(len(stage.standbys) for stage in stages)
        missing += self.control.standbys_lost()
        if not missing or now < self.control.running.since + STANDBY_S:
            return False
        backed = back_up(problem, stages, self._rules.standbys, stages).stages
        there = sum(len(stage.standbys) for stage in stages) - self.control.standbys_lost()
        current = price(problem, stages)
        if current is None or sum(len(stage.standbys) for stage in backed) <= there:
            return False
        self._agree(problem, current, backed, now)
        return True

    def _switch(self, problem: SplitProblem, option: Option, now: float) -> None:
        self.tally.choices[option.choice] += 1
        stages = back_up(problem, stages_of(option.split), self._rules.standbys, self.control.running.stages).stages
        self._agree(problem, option.split, stages, now)

    def _agree(self, problem: SplitProblem, split: Split, stages: Sequence[PlanStage], now: float) -> None:
        delay_s = self._rules.centre_rtt_s
        if self._rules.agrees:
            delay_s = self._trace.agreements_s[self._agreements % len(self._trace.agreements_s)]
            self._agreements += 1
        self.control.switch(problem, split, stages, now, delay_s)


def _warm(rate_per_s: float) -> Demands:
    """As if it had been usual before the trace begins: all methods start from a plan for what is usual."""
    demands, count = Demands(), round(rate_per_s * WINDOW_S_MIN)
    for number in range(count):
        before = Instant(WINDOW_S_MIN * (number / count - 1))
        demands.began(NAME, cluster.TOKENS, before)
        demands.answered(NAME, before)
    return demands


def first_plan(trace: Trace, solver: Solver, standbys: int) -> tuple[PlanStage, ...]:
    """The best split under what is usual over the whole trace: nobody starts from a straw man."""
    seen = cluster.usual(trace, cluster.EDGE)
    split = solver.split(seen)
    assert isinstance(split, Split), "the experiment's cluster holds its model"
    return back_up(solver.problem(seen), stages_of(split), standbys).stages

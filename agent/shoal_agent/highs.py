"""The backbone's programme in the hands of HiGHS, the one place that knows this solver.

A plain function of a problem, so it does not matter who calls it or in which thread: HiGHS is C++ and lets go of the
interpreter while it works, so a loop beside it goes on. It gets one thread and a fixed seed, so the same problem gets
the same answer, as long as it ends by gap or by nodes; where it ends by the clock, a busier machine finds less.

::

    HiGHS            ─►  a placement, and a bound: nothing can be cheaper than that
      time is up     ─►  its relaxation, without whole numbers, says where to look first
      search (core)  ─►  another placement; the cheaper one counts

The search is Python and does not let go of anything, which is why it does not come first.

*What is told the solver beyond the rules.* Nobody needs more instances on one machine than a service needs in all, or
must keep: fewer break no rule and cost no more. That bound on x is as tight as can be, and what makes "a host or not" a
strong cut instead of a weak one. And how few instances can survive a loss on so few hosts follows from the rules, but
not from their relaxation: said aloud, it makes the search two to ten times as fast. Links that all traffic together
could not fill are left out.

HiGHS computes in floating point, to 1e-6: its counts are rounded, and whatever it says, the placement is priced and
verified in whole numbers. One that breaks a rule is dropped.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Final

import highspy
import numpy as np

from shoal_agent.core.backbone import BackboneProblem, Counts
from shoal_agent.core.backbone_audit import verify
from shoal_agent.core.backbone_cost import Cost, Figures, cost_of
from shoal_agent.core.backbone_search import Found, Hint, search

SEED: Final = 1
RELAXATION_S: Final = 2.0
"""For the programme without whole numbers: it takes milliseconds."""
_NANO: Final = 1_000_000_000
_IMPOSSIBLE: Final = (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible)
"""Nothing can be unbounded here: all costs are 0 or more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When the solver may stop: the first of them ends it."""

    time_s: float = 10.0
    gap: float = 0.001
    """Of the objective: how much better a placement could still be."""
    nodes: int = 100_000
    """Parts of the puzzle it looks at; unlike time the same everywhere."""


BY_NODES: Final = Limits(time_s=600.0, nodes=1000)
"""Not by the clock, for whoever must get the same on every machine; 10 x 6 takes up to 150 nodes."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What came of it. ``counts`` None: there is no placement (``proven``), or none was found."""

    counts: Counts | None
    cost: Cost | None
    bound: float
    """No placement can cost less."""
    proven: bool
    """The gap was closed, or it is certain that there is no placement."""
    found_by: str
    """``highs``, ``search`` or ``nobody``."""

    @property
    def gap(self) -> float:
        """How much of its price the placement may be too dear by, at most; 0 if it costs nothing."""
        if self.cost is None or self.cost.total <= 0:
            return 0.0 if self.cost is not None else inf
        return max(0.0, (self.cost.total - self.bound) / self.cost.total)


def place(problem: BackboneProblem, limits: Limits = Limits()) -> Solution:
    """The best placement that is found within ``limits``."""
    model = _model_of(Figures(problem))
    solver = _solver(model, limits)
    solver.run()
    ended = solver.getModelStatus()
    if ended in _IMPOSSIBLE:
        return Solution(None, None, inf, proven=True, found_by="nobody")
    bound, proven = _bound(solver, len(problem.edges)), ended == highspy.HighsModelStatus.kOptimal
    counts = _counts(solver, model)
    cost = None if counts is None or verify(problem, counts, None) else cost_of(model.figures, counts)
    other = None if proven and cost is not None else guided(problem)
    if other is not None and (cost is None or other.cost.total < cost.total):
        return Solution(other.counts, other.cost, bound, proven=False, found_by="search")
    if cost is None:
        return Solution(None, None, bound, proven=False, found_by="nobody")
    return Solution(counts, cost, bound, proven=proven, found_by="highs")


def relaxation(problem: BackboneProblem) -> Hint:
    """The programme without whole numbers: where it would like how much, in thousandths of an instance."""
    model = _model_of(Figures(problem))
    solver = _solver(model, Limits(RELAXATION_S))
    lp = solver.getLp()
    solver.changeColsIntegrality(
        lp.num_col_,
        np.arange(lp.num_col_, dtype=np.int32),
        np.array([highspy.HighsVarType.kContinuous] * lp.num_col_),
    )
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        return {}
    values = solver.getSolution().col_value
    return {pair: round(1000 * values[column]) for pair, column in model.instances.items()}


def possible(problem: BackboneProblem, limits: Limits = Limits(5.0, 1.0)) -> bool:
    """Whether there is any placement, as far as is found out within ``limits``."""
    return place(problem, limits).counts is not None


def guided(problem: BackboneProblem) -> Found | None:
    """What the search finds when the relaxation tells it where to look: the fallback when time is up."""
    return search(problem, relaxation(problem))


@dataclass(slots=True)
class _Model:
    """Columns and rows as HiGHS wants them."""

    figures: Figures
    cost: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    whole: list[bool] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    index: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    instances: dict[tuple[int, int], int] = field(default_factory=dict)
    """Column of x by (service, machine)."""
    hosts: dict[tuple[int, int], int] = field(default_factory=dict)
    """Column of b."""

    def column(self, cost: float, upper: float, *, whole: bool) -> int:
        """One more variable, from 0 to ``upper``."""
        self.cost.append(cost)
        self.upper.append(upper)
        self.whole.append(whole)
        return len(self.cost) - 1

    def row(self, terms: Iterable[tuple[int, float]], low: float, high: float) -> None:
        """One more rule."""
        for column, value in terms:
            self.index.append(column)
            self.value.append(value)
        self.starts.append(len(self.index))
        self.low.append(low)
        self.high.append(high)


def _model_of(figures: Figures) -> _Model:
    model, problem = _Model(figures), figures.problem
    for m in range(len(problem.services)):
        useful = max(figures.need[m], figures.cover[m])
        for v, most in enumerate(figures.most[m]):
            if most:
                each = figures.price[m][v] - figures.earned[m][v]
                model.instances[m, v] = model.column(each, min(most, useful), whole=True)
                model.hosts[m, v] = model.column(problem.weights.host + figures.moved[m][v], 1, whole=True)
    for v, room in enumerate(figures.room):
        for k, offered in enumerate(room):
            on = ((m, problem.services[m].needs[k]) for m in range(len(problem.services)) if (m, v) in model.instances)
            model.row(((model.instances[m, v], needed) for m, needed in on if needed), -inf, offered)
    for m in range(len(problem.services)):
        _service_rows(model, m)
    price = ((column, figures.price[m][v]) for (m, v), column in model.instances.items())
    model.row(price, -inf, problem.budget)
    if problem.pairs_min:
        model.row(((column, 1) for column in model.hosts.values()), problem.pairs_min, inf)
    if figures.flows:
        _flow_rows(model)
    return model


def _service_rows(model: _Model, m: int) -> None:
    """Demand, cover, hosts and zones of one service."""
    figures, service = model.figures, model.figures.problem.services[m]
    machines = [v for v in range(len(figures.room)) if (m, v) in model.instances]
    x, b = {v: model.instances[m, v] for v in machines}, {v: model.hosts[m, v] for v in machines}
    model.row(((x[v], 1) for v in machines), figures.fewest[m], inf)
    model.row(((b[v], 1) for v in machines), service.hosts_min, service.hosts_max)
    for v in machines:
        model.row(((x[v], 1), (b[v], -model.upper[x[v]])), -inf, 0)
        model.row(((x[v], 1), (b[v], -1)), 0, inf)
        if figures.cover[m]:
            model.row(((x[u], 1) for u in machines if u != v), figures.cover[m], inf)
    zones = [figures.problem.machines[v].zone for v in machines]
    for zone in dict.fromkeys(zones) if service.across_zones else ():
        model.row(((b[v], 1) for v, at in zip(machines, zones, strict=True) if at != zone), 1, inf)


def _flow_rows(model: _Model) -> None:
    """The shares y of every edge, and the links they share."""
    figures, problem = model.figures, model.figures.problem
    on_link: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for edge in problem.edges:
        a, b = edge.sender, edge.receiver
        senders = [u for u in range(len(figures.room)) if (a, u) in model.instances]
        receivers = [v for v in range(len(figures.room)) if (b, v) in model.instances]
        weight = problem.weights.network * edge.rate_milli / _NANO
        y = {
            (u, v): model.column(weight * figures.tau_us(edge, u, v), 1, whole=False)
            for u in senders
            for v in receivers
        }
        model.row(((column, 1) for column in y.values()), 1, 1)
        for u in senders:
            shares = [(y[u, v], float(figures.need[a])) for v in receivers]
            model.row([*shares, (model.instances[a, u], -1)], -inf, 0)
        for v in receivers:
            shares = [(y[u, v], float(figures.need[b])) for u in senders]
            model.row([*shares, (model.instances[b, v], -1)], -inf, 0)
        for pair, column in y.items():
            if pair[0] != pair[1]:
                on_link.setdefault(pair, []).append((column, edge.rate_milli * edge.size_bytes / 1000))
    for pair, terms in on_link.items():
        limit = figures.link_bytes_per_s(*pair)
        if sum(load for _, load in terms) > limit:
            model.row(terms, -inf, limit)


def _solver(model: _Model, limits: Limits) -> highspy.Highs:
    solver = highspy.Highs()  # type: ignore[no-untyped-call]  # it ships its types, with this one missing
    for name, value in (
        ("output_flag", False),
        ("threads", 1),
        ("random_seed", SEED),
        ("time_limit", limits.time_s),
        ("mip_rel_gap", limits.gap),
        ("mip_abs_gap", 0.0),
        ("mip_max_nodes", limits.nodes),
    ):
        solver.setOptionValue(name, value)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = len(model.cost), len(model.low)
    lp.col_cost_ = np.array(model.cost, dtype=np.float64)
    lp.col_lower_ = np.zeros(len(model.cost))
    lp.col_upper_ = np.array(model.upper, dtype=np.float64)
    lp.row_lower_ = np.array(model.low, dtype=np.float64)
    lp.row_upper_ = np.array(model.high, dtype=np.float64)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.array(model.starts, dtype=np.int32)
    lp.a_matrix_.index_ = np.array(model.index, dtype=np.int32)
    lp.a_matrix_.value_ = np.array(model.value, dtype=np.float64)
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kInteger if whole else kinds.kContinuous for whole in model.whole]
    solver.passModel(lp)
    return solver


def _counts(solver: highspy.Highs, model: _Model) -> Counts | None:
    """What the solver found, rounded; None if it found nothing."""
    if not isfinite(solver.getInfo().objective_function_value):
        return None
    values = solver.getSolution().col_value
    if not values:
        return None
    problem = model.figures.problem
    rows = [[0] * len(problem.machines) for _ in problem.services]
    for (m, v), column in model.instances.items():
        rows[m][v] = round(values[column])
    return tuple(tuple(row) for row in rows)


def _bound(solver: highspy.Highs, edges: int) -> float:
    """What it proved; the price of each edge's traffic is rounded down, which the solver does not know."""
    bound = solver.getInfo().mip_dual_bound
    return max(0.0, bound - edges) if isfinite(bound) else 0.0

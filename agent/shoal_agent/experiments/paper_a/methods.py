"""Every method of this experiment by its name: where core services stand, and who decides each slot."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shoal_agent.experiments.paper_a.dispatching import Eyes, Sight
from shoal_agent.experiments.paper_a.genetic import Genetic
from shoal_agent.experiments.paper_a.lbrr import RoundRobin
from shoal_agent.experiments.paper_a.ours import Centre, Ours
from shoal_agent.experiments.paper_a.paper_rule import PaperRule
from shoal_agent.experiments.paper_a.regimes import EPSILON, Regime
from shoal_agent.experiments.paper_a.scenario import Scenario
from shoal_agent.experiments.paper_a.static import Static
from shoal_agent.experiments.paper_a.world import Controller, Placement

AGE_SLOTS: Final = 1
"""Of the digests of ours: told at the end of a slot, heard one slot later."""
STALE_SLOTS: Final = (5, 20)
CENTRE: Final = Centre(round_trip_slots=1, down_from=60, down_until=110)


@dataclass(frozen=True, slots=True)
class Setting:
    """One system with its backbone."""

    scenario: Scenario
    regime: Regime
    placement: Placement
    seed: int


@dataclass(frozen=True, slots=True)
class Method:
    """``summary`` is printed with the assumptions."""

    summary: str
    build: Callable[[Setting], Controller]
    least_loaded: bool = False
    """Core services stand on least-loaded machines."""


def _ours(eyes: Eyes, *, by_tail: bool = True, centre: Centre | None = None) -> Callable[[Setting], Controller]:
    def build(setting: Setting) -> Controller:
        eta = setting.regime.eta
        return Ours(setting.scenario, setting.placement, eta, eyes, setting.seed, by_tail=by_tail, centre=centre)

    return build


def _paper(epsilon: float | None, *, per_gateway: bool = False) -> Callable[[Setting], Controller]:
    def build(setting: Setting) -> Controller:
        return PaperRule(setting.scenario, eta=setting.regime.eta, epsilon=epsilon, per_gateway=per_gateway)

    return build


def _genetic(setting: Setting) -> Controller:
    return Genetic(setting.scenario, eta=setting.regime.eta, epsilon=EPSILON, seed=setting.seed)


METHODS: Final[dict[str, Method]] = {
    "ours": Method(
        "rules A and B, decentralised: digests one slot old, two probes per stage, own work in flight",
        _ours(Eyes(age_slots=AGE_SLOTS)),
    ),
    **{
        f"ours-stale-{age}": Method(f"the same with digests {age} slots old", _ours(Eyes(age_slots=age)))
        for age in STALE_SLOTS
    },
    "ours-no-probe": Method(
        "the same without probes: digests one slot old and own work in flight",
        _ours(Eyes(Sight.TOLD, age_slots=AGE_SLOTS)),
    ),
    "ours-mean-rate": Method(
        "the same, instances by mean rates instead of effective capacity",
        _ours(Eyes(age_slots=AGE_SLOTS), by_tail=False),
    ),
    "central": Method("the same rules by a centre that sees every node as it is", _ours(Eyes(Sight.ALL))),
    "central-rtt": Method(
        f"that centre {CENTRE.round_trip_slots} ms of round trip away, down from {CENTRE.down_from} to "
        f"{CENTRE.down_until} ms",
        _ours(Eyes(Sight.ALL), centre=CENTRE),
    ),
    "proposed": Method("the paper's Algorithm 1, central, with fresh state", _paper(EPSILON)),
    "gateway": Method(
        "Algorithm 1 once per gateway, each with instances of its own", _paper(EPSILON, per_gateway=True)
    ),
    "propavg": Method("Algorithm 1 with mean rates", _paper(None)),
    "static": Method(
        "routes and counts from the means by the same tools, never changed", lambda s: Static(s.scenario, s.placement)
    ),
    "lbrr": Method(
        "least-loaded machines (for core services the programme's where those leave no room), round robin",
        lambda _: RoundRobin(),
        least_loaded=True,
    ),
    "ga": Method("(19) by a genetic algorithm: 10 chromosomes, 30 generations, mutation 0.1", _genetic),
    "no-cooperation": Method(
        "rule A; a gateway uses its own machine and the nearest core hosts", _ours(Eyes(Sight.ALONE))
    ),
    "stale-shortest-queue": Method(
        "rule A; the best by digests 5 slots old, nothing added",
        _ours(Eyes(Sight.TOLD, age_slots=STALE_SLOTS[0], memory=False)),
    ),
    "power-of-two": Method("rule A; the better of two nodes drawn at random", _ours(Eyes(Sight.TWO))),
}
"""Ours first."""

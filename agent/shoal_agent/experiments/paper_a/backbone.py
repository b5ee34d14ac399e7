"""Where the core services stand: the agent's own backbone programme, with the paper's quality (14)-(16).

All methods but one get the same placement, so that what differs is the light control. Network terms are folded into the
quality, as the paper does; survival of a failure is not asked for, since nothing fails in the paper. LBRR, the paper's
least-loaded baseline, places each instance on the machine with the lowest mean utilisation.
"""

from math import ceil, floor
from typing import Final

from shoal_agent.core.backbone import BackboneProblem, CoreService, Machine, Weights
from shoal_agent.experiments.paper_a import tables
from shoal_agent.experiments.paper_a.affinity import Affinity, affinity
from shoal_agent.experiments.paper_a.regimes import RESERVE, Regime
from shoal_agent.experiments.paper_a.scenario import Scenario
from shoal_agent.experiments.paper_a.world import Placement
from shoal_agent.highs import BY_NODES
from shoal_agent.highs import place as solve
from shoal_protocol.ids import NodeId

HOSTS_MIN: Final = 2
MILLI: Final = 1000
PRICE: Final = round((tables.CORE_BOOT + tables.CORE_RUN) * MILLI)
XI: Final = 10 * MILLI
"""What the best machine is worth over the worst: the rest of the price keeps instances from earning money."""
KINDS: Final = ("cpu", "ram", "gpu", "vram")


def place(scenario: Scenario, regime: Regime) -> Placement | None:
    """The programme's placement; None if there is none."""
    counts = solve(problem(scenario, regime), BY_NODES).counts
    if counts is None:
        return None
    rows = zip(tables.CORES, counts, strict=True)
    return {(node, m): count for m, row in rows for node, count in enumerate(row) if count}


def problem(scenario: Scenario, regime: Regime) -> BackboneProblem:
    """In whole numbers: thousandths of the paper's units, microseconds, requests in a thousand seconds."""
    known = affinity(scenario, RESERVE)
    rooms = (tuple(floor(MILLI * r) for r in room) for room in scenario.rooms)
    machines = (Machine(NodeId(str(v)), room, round(MILLI * RESERVE)) for v, room in enumerate(rooms))
    return BackboneProblem(
        kinds=KINDS,
        machines=tuple(machines),
        services=tuple(_service(scenario, regime, known, m) for m in tables.CORES),
        weights=Weights(quality=XI),
        quality_permille=tuple(_quality(known.quality[m]) for m in tables.CORES),
    )


def _service(scenario: Scenario, regime: Regime, known: Affinity, number: int) -> CoreService:
    service = scenario.services[number]
    return CoreService(
        name=str(number),
        needs=tuple(ceil(MILLI * need) for need in service.needs),
        # Busy instances are rate times time; the unit of one is fixed, so the other follows.
        rate_milli=round(MILLI * MILLI * known.busy[number] / service.run_ms),
        time_us=round(MILLI * regime.busy_ms(service.run_ms)),
        headroom_permille=round(MILLI * regime.headroom),
        survive_permille=0,
        hosts_min=HOSTS_MIN,
        price=PRICE,
    )


def _quality(figures: list[float]) -> tuple[int, ...]:
    """Normalised: with raw figures the paper's objective goes negative and fills all machines."""
    most = max(figures)
    return tuple(round(MILLI * max(0.0, figure) / most) if most > 0 else 0 for figure in figures)


def least_loaded(scenario: Scenario, regime: Regime) -> Placement | None:
    """As many instances, each on the machine that is least utilised on the average of its resources."""
    known = affinity(scenario, RESERVE)
    used = [[0.0] * len(KINDS) for _ in scenario.rooms]
    placement: Placement = {}
    for number in tables.CORES:
        needs, run_ms = scenario.services[number].needs, scenario.services[number].run_ms
        busy = known.busy[number] / run_ms * regime.busy_ms(run_ms)
        for _ in range(max(HOSTS_MIN, ceil(regime.headroom * busy))):
            fitting = [v for v in scenario.nodes if _fits(used[v], needs, scenario.rooms[v])]
            if not fitting:
                return None
            node = min(fitting, key=lambda v: (_share(used[v], scenario.rooms[v]), v))
            used[node] = [u + n for u, n in zip(used[node], needs, strict=True)]
            placement[node, number] = placement.get((node, number), 0) + 1
    return placement


def _fits(used: list[float], needs: tuple[float, ...], room: tuple[float, ...]) -> bool:
    return all(u + n <= r * (1 - RESERVE) for u, n, r in zip(used, needs, room, strict=True))


def _share(used: list[float], room: tuple[float, ...]) -> float:
    return sum(u / max(r, 1.0) for u, r in zip(used, room, strict=True)) / len(room)

"""One run: a scenario, a seed, a number of nodes, and what came of it.

    switch on ─► deploy ─► storm: faults and requests ─► calm ─► every liveness oracle is content, or time is up

The first part has to succeed by itself within ``DEPLOY_S_MAX``: a cluster that cannot begin is a violation too. The
whole follows from (scenario, seed, nodes), so these three are the replay.
"""

from collections.abc import Callable
from typing import Final

from shoal_agent.sim import faults, scale, workload
from shoal_agent.sim.machine import BrokenWorld
from shoal_agent.sim.oracles import CALM_S_MAX, LIVENESS, Judge, serves_again
from shoal_agent.sim.outcome import Outcome
from shoal_agent.sim.scenarios import SCENARIOS
from shoal_agent.sim.seeds import generator
from shoal_agent.sim.trace import Trace
from shoal_agent.sim.workload import Workload
from shoal_agent.sim.world import Settings, World

DEPLOY_S_MAX: Final = 20.0
STORM_S: Final = 12.0
POLL_S: Final = 0.5
"""How often the liveness oracles are asked."""
REQUESTS_PER_S: Final = 1.5
NODES_MIN: Final = 2
HOSTS_MAX: Final = 4


def play(scenario: str, seed: int, nodes: int, tell: Callable[[str], None] | None = None) -> Outcome:
    """Run ``scenario`` with ``seed`` on ``nodes`` nodes; ``tell`` hears every event and effect."""
    rules = SCENARIOS[scenario]
    if rules.crowd:
        return scale.count(scenario, seed, nodes)
    settings = Settings(
        seed=seed,
        nodes=nodes,
        hosts=1 + generator(seed, "hosts").randrange(min(nodes, HOSTS_MAX)),
        drift=rules.drift,
        kv_bytes_max=rules.kv_bytes_max,
        bare_nodes=min(rules.bare_nodes, nodes - 1),
    )
    judge = Judge(settings.blocks, settings.context_tokens)
    trace = Trace(tell)
    world = World(settings, judge, trace)
    judge.begin(world)
    try:
        _live(world, judge, rules.faults)
    except BrokenWorld as fault:
        judge.add("invariants", world.agenda.now, str(fault))
    return Outcome(
        scenario,
        seed,
        nodes,
        tuple(judge.violations),
        trace.hexdigest(),
        world.agenda.now,
        world.brokers.carried + world.links.carried,
        world.brokers.carried_bytes + world.links.carried_bytes,
        len(judge.requests.book),
    )


def _live(world: World, judge: Judge, allowed: tuple[str, ...]) -> None:
    world.start()
    world.deploy()
    if not _within(world, DEPLOY_S_MAX, lambda: serves_again(world, judge) is None):
        judge.add("serves-again", world.agenda.now, f"not deployed: {serves_again(world, judge)}")
        return
    seed = world.settings.seed
    end_s = world.agenda.now + STORM_S
    workload.begin(world, Workload(REQUESTS_PER_S), generator(seed, "workload"), end_s)
    faults.storm(world, judge, allowed, generator(seed, "faults"), end_s)
    world.run(STORM_S)
    missing: dict[str, str] = {}

    def well() -> bool:
        missing.clear()
        for name, oracle in LIVENESS.items():
            fault = oracle(world, judge)
            if fault is not None:
                missing[name] = fault
        return not missing

    if not _within(world, CALM_S_MAX, well):
        for name, fault in missing.items():
            judge.add(name, world.agenda.now, fault)


def _within(world: World, seconds: float, done: Callable[[], bool]) -> bool:
    end_s = world.agenda.now + seconds
    while not done():
        if world.agenda.now >= end_s:
            return False
        world.run(POLL_S)
    return True

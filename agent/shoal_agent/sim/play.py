"""One run: a scenario, a seed, a number of nodes, and what came of it.

    switch on ─► deploy ─► storm: faults and requests ─► calm ─► every liveness oracle is content, or time is up
                                                          └ lost voters are replaced by the operator

The first part has to succeed by itself within ``DEPLOY_S_MAX``: a cluster that cannot begin is a violation too. The
whole follows from (scenario, seed, nodes), so these three are the replay.
"""

from collections.abc import Callable
from typing import Final

from shoal_agent.sim import faults, scale, workload
from shoal_agent.sim.machine import BrokenWorld
from shoal_agent.sim.oracles import CALM_S_MAX, LIVENESS, UNDECIDED, Judge, decides
from shoal_agent.sim.outcome import Outcome
from shoal_agent.sim.scenarios import SCENARIOS, Scenario
from shoal_agent.sim.seeds import generator
from shoal_agent.sim.settings import TOY, Settings
from shoal_agent.sim.trace import Trace
from shoal_agent.sim.workload import Workload
from shoal_agent.sim.world import World

DEPLOY_S_MAX: Final = 20.0
POLL_S: Final = 0.5
"""How often the liveness oracles are asked."""
REQUESTS_PER_S: Final = 1.5
NODES_MIN: Final = 2
HOSTS_MAX: Final = 4
LIARS_NEED: Final = 3
"""Voters beyond which one may lie."""


def play(scenario: str, seed: int, nodes: int, tell: Callable[[str], None] | None = None) -> Outcome:
    """Run ``scenario`` with ``seed`` on ``nodes`` nodes; ``tell`` hears every event and effect."""
    rules = SCENARIOS[scenario]
    if rules.crowd:
        return scale.count(scenario, seed, nodes)
    settings = settings_of(rules, seed, nodes)
    judge = Judge(settings.blocks, settings.context_tokens)
    trace = Trace(tell)
    world = World(settings, judge, trace)
    judge.begin(world)
    try:
        _live(world, judge, rules)
    except BrokenWorld as fault:
        judge.add("invariants", world.agenda.now, str(fault))
    return Outcome(
        scenario,
        seed,
        settings.nodes,
        tuple(judge.violations),
        trace.hexdigest(),
        world.agenda.now,
        world.brokers.carried + world.links.carried,
        world.brokers.carried_bytes + world.links.carried_bytes,
        len(judge.requests.book),
        tuple(judge.agreed.agreements),
    )


def settings_of(rules: Scenario, seed: int, nodes: int) -> Settings:
    """The world of ``seed`` under ``rules``; of no fewer nodes than they need."""
    nodes = max(nodes, rules.nodes_min)
    there = nodes - rules.late
    hosts = 1 + generator(seed, "hosts").randrange(min(there, HOSTS_MAX))
    if rules.guarded:
        hosts = 2 + hosts % 2  # one at home, and one or two elsewhere
    drawn = generator(seed, "faulty").randrange(2) if rules.faulty is None else rules.faulty
    return Settings(
        seed=seed,
        nodes=nodes,
        hosts=hosts,
        drift=rules.drift,
        kv_bytes_max=rules.kv_bytes_max,
        bare_nodes=min(rules.bare_nodes, nodes - 1),
        faulty=drawn if there > LIARS_NEED else 0,
        liars=rules.liars,
        outsiders=0 if rules.guarded else min(generator(seed, "outsiders").randrange(2), max(0, there - hosts - 1)),
        late=rules.late,
        guarded=rules.guarded,
    )


def _live(world: World, judge: Judge, rules: Scenario) -> None:
    world.start()
    world.deploy()
    if not _within(world, judge, DEPLOY_S_MAX, lambda: decides(world, judge) is None):
        judge.add(UNDECIDED, world.agenda.now, f"not deployed: {decides(world, judge)}")
        return
    seed = world.settings.seed
    end_s = world.agenda.now + rules.storm_s
    workload.begin(world, Workload(REQUESTS_PER_S), generator(seed, "workload"), end_s)
    faults.storm(world, judge, rules.faults, generator(seed, "faults"), end_s)
    _watched(world, judge, rules.storm_s)
    _attend(world, judge)
    missing: dict[str, str] = {}

    def well() -> bool:
        missing.clear()
        for name, oracle in LIVENESS.items():
            fault = oracle(world, judge)
            if fault is not None:
                missing[name] = fault
        return not missing

    if not _within(world, judge, CALM_S_MAX, well):
        for name, fault in missing.items():
            judge.add(name, world.agenda.now, fault)


def _attend(world: World, judge: Judge) -> None:
    """The operator looks after the storm: a plan whose voters are lost for good is replaced, as nobody else can."""
    plan = judge.agreed.newest(TOY)
    assert plan is not None, "deployed before the storm"
    left = [name for name in plan.voters if name not in world.lost]
    if 2 * len(left) > len(plan.voters) + plan.terms.faulty:
        return
    if _within(world, judge, CALM_S_MAX, lambda: bool(world.ready())):  # all who could be named may be restarting
        world.recover(plan)
    else:
        judge.add(UNDECIDED, world.agenda.now, "nobody is left whom an operator could name")


def _watched(world: World, judge: Judge, seconds: float) -> None:
    """Let ``seconds`` pass, looking at what nodes believe."""
    end_s = world.agenda.now + seconds
    while world.agenda.now < end_s:
        world.run(min(POLL_S, end_s - world.agenda.now))
        judge.look(world)


def _within(world: World, judge: Judge, seconds: float, done: Callable[[], bool]) -> bool:
    end_s = world.agenda.now + seconds
    while not done():
        if world.agenda.now >= end_s:
            return False
        world.run(POLL_S)
        judge.look(world)
    return True

"""A small system of paper (a) with its backbone and trace, worked out once."""

from functools import cache

from shoal_agent.experiments.paper_a import backbone
from shoal_agent.experiments.paper_a.methods import METHODS, Setting
from shoal_agent.experiments.paper_a.regimes import REGIMES
from shoal_agent.experiments.paper_a.scenario import sample
from shoal_agent.experiments.paper_a.trace import draw
from shoal_agent.experiments.paper_a.world import World

ARRIVALS_MS, DRAIN_MS = 20, 30


@cache
def setting(regime="R2", load=1.0, seed=1):
    scenario = sample(REGIMES[regime], load, seed)
    placement = backbone.place(scenario, REGIMES[regime])
    assert placement is not None
    return Setting(scenario, REGIMES[regime], placement, seed)


@cache
def trace(regime="R2", load=1.0, seed=1):
    return draw(setting(regime, load, seed).scenario, REGIMES[regime], seed, ARRIVALS_MS, DRAIN_MS)


def world(regime="R2", load=1.0, seed=1):
    """Fresh, at its first slot."""
    one = setting(regime, load, seed)
    return World(one.scenario, trace(regime, load, seed), one.placement, one.regime.hold)


def played(method, regime="R2", load=1.0, seed=1):
    """The world after ``method`` has run in it."""
    one = world(regime, load, seed)
    one.run(METHODS[method].build(setting(regime, load, seed)))
    return one


def on_time(one):
    return sum(task.in_time for task in one.tasks) / len(one.tasks)

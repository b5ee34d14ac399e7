"""Real agents with both ends of a model at home: the answers of the whole model, whichever of them is killed.

Four agents over two mosquittos; the first two blocks and the last one may be in zone home only, and who is at home has
room for these and for no other. The seconds are printed: `pytest -rP tests/fault/test_u_shape.py`.
"""

import asyncio
import contextlib

import pytest

from shoal_agent.core.costs import Memory
from shoal_agent.core.problem import problem_of
from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.operator import CONTEXT_TOKENS, DeployWish, terms_of
from tests.support.processes import SPEED_MACS_PER_S, processes
from tests.support.repair import MEMORY_BYTES, SETTLED_S_MAX, begin, kill
from tests.support.survival import MODEL, PROMPT, SHORT, Survival, complaints, minnow_store, resumed, runs
from tests.support.unsplit import Unsplit

pytestmark = pytest.mark.long

PRIVATE = 2
STRUCK_AFTER = 40
"""Tokens that a client has seen by then."""


def room_at_home(store, wish):
    """What the guarded blocks take, and half of another block."""
    facts = facts_of(store.load(MODEL))
    count = len(facts.blocks)
    memory = Memory(problem_of(facts, terms_of(wish, count), min(CONTEXT_TOKENS, facts.context_tokens_max), ()))
    ends = memory.together([(0, PRIVATE), (count - 1, count)])
    more = memory.together([(0, PRIVATE + 1), (count - 1, count)])
    assert more < memory.needed(0, count)
    return (ends + more) // 2


@contextlib.asynccontextmanager
async def bent(folder, homes):
    """Four agents, ``homes`` of them at home, the second of these slow, that serve the model."""
    store = minnow_store(folder)
    zones = ("home",) * homes + ("away",) * (4 - homes)
    wish = DeployWish(MODEL, private=PRIVATE, trusted=("home",))
    memory = [room_at_home(store, wish)] * homes + [MEMORY_BYTES] * (4 - homes)
    speeds = [SPEED_MACS_PER_S, *[SPEED_MACS_PER_S // 20] * (homes - 1), *[SPEED_MACS_PER_S] * (4 - homes)]
    lab = LabSettings(folder / "lab", 4, store.root, (), memory_bytes=MEMORY_BYTES, kv_bytes=MEMORY_BYTES, zones=zones)
    async with processes(lab, model=MODEL, memory_bytes=memory, speed_macs_per_s=speeds) as cluster:
        await begin(cluster, cluster.agents, wish)
        made = Survival(cluster)
        await made.settled()
        first, *middle, last = await made.hosts()
        assert first is last is cluster.agents[0]
        assert [cluster.agents.index(agent) >= homes for agent in middle] == [True]
        await made.learn(SHORT)
        whole = Unsplit(store, MODEL).greedy(list(PROMPT), SHORT.tokens, stop_at_eos=False)
        assert made.undisturbed[SHORT].tokens == whole[: len(made.undisturbed[SHORT].tokens)]
        yield made
        await asyncio.gather(*(agent.kill() for agent in made.agents if runs(agent)))
        said = complaints(cluster.agents)
        assert not said, "\n".join(said[:20])


async def struck(survival, victim, what):
    """An answer through the loss of ``victim`` is that of the whole model."""
    client = survival.ask(next(agent for agent in survival.agents[::-1] if agent is not victim), SHORT)
    await client.stream.reached(STRUCK_AFTER)
    kill(victim)()
    await survival.whole(client, what)
    assert resumed(client), "it was on the route"


async def test_one_home_and_whoever_is_in_the_middle_may_die(tmp_path):
    async with bent(tmp_path, 1) as survival:
        cluster, home = survival.cluster, survival.cluster.agents[0]
        _, middle, _ = await survival.hosts()
        await struck(survival, middle, "the middle killed")
        left = [agent for agent in cluster.agents if agent is not middle]
        await cluster.until(lambda view: view.epoch > 0 and view.active, left, SETTLED_S_MAX)
        for view in await cluster.views(*left):
            assert view.hosts[0] == view.hosts[-1] == home.node
            assert middle.node not in view.hosts
        await survival.mend()


async def test_nobody_takes_what_only_one_may_hold_and_all_goes_on_when_it_is_back(tmp_path):
    async with bent(tmp_path, 1) as survival:
        cluster, home = survival.cluster, survival.cluster.agents[0]
        client = survival.ask(cluster.agents[3], SHORT)
        await client.stream.reached(STRUCK_AFTER)
        kill(home)()
        others = cluster.agents[1:]
        await cluster.until(lambda view: home.node not in view.alive, others, SETTLED_S_MAX)
        await asyncio.sleep(3.0)  # as long as a repair takes
        for view in await cluster.views(*others):
            assert view.epoch == 0, "there is nobody to agree on"
        await survival.mend()
        await survival.whole(client, "home killed, and back")


async def test_the_other_home_takes_both_ends(tmp_path):
    async with bent(tmp_path, 2) as survival:
        cluster = survival.cluster
        home, other = cluster.agents[:2]
        assert [each[:1] for each in await survival.standbys()][::2] == [[other], [other]]
        await struck(survival, home, "home killed")
        left = list(cluster.agents[1:])
        await cluster.until(lambda view: view.epoch > 0 and view.active, left, SETTLED_S_MAX)
        for view in await cluster.views(*left):
            assert view.hosts[0] == view.hosts[-1] == other.node
        await survival.mend()

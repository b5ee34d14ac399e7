"""Streams in a world where machines are killed, paused, cut off and replaced, and what must be true all the same.

A machine that is paused takes nothing in; what was sent to it, and what its own timers and engine had to say, comes all
at once when it goes on. After ``SILENCE_S`` the others give its links up, as the data plane does.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from shoal_agent.core.effects import Finish, Reject
from shoal_agent.core.events import Event, PeerConnected, PeerLost
from shoal_agent.core.facts import FinishReason, LinkFault
from shoal_agent.core.ledger import Entry
from shoal_agent.core.outbox import Outbox
from shoal_protocol.codec import encode_plan
from shoal_protocol.ids import NodeId, SessionId, digest_of
from shoal_protocol.limits import LINK_SILENCE_S_MAX, PREFILL_CHUNK_TOKENS
from shoal_protocol.messages import Plan
from tests.support.cell import Cell
from tests.support.toy import toy_tokens
from tests.support.world import World

BLOCKS: Final = 8
DEADLINE_S: Final = 200.0
ACTIONS: Final = ("ask",) * 4 + (
    "kill",
    "kill",
    "pause",
    "pause",
    "wake",
    "cut",
    "cut",
    "heal",
    "back",
    "epoch",
    "slow",
)
SPANS_S: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0)
LIVING_MIN: Final = 2
"""So many of those that may be struck are spared."""
Backing = tuple[tuple[NodeId, ...], ...]


def backed_world(stages: int = 2, *, standbys: int = 1, outsiders: int = 1, **options: Any) -> World:
    """A world that serves ``stages`` by its first nodes; the next ones stand by, each for one; the rest has no part."""
    world = World(stages * (1 + standbys) + outsiders, **options)
    world.start()
    names = world.names
    backing = tuple(tuple(names[stages * (1 + rank) + stage] for rank in range(standbys)) for stage in range(stages))
    world.announce(world.plan(names[:stages], standbys=backing))
    world.run(1.0)
    assert world.serving(), "a second is more than it takes"
    for cell in world.cells.values():
        cell.block_s = 0.001
    return world


def ingress_of(world: World) -> Cell:
    """Who is asked: a node with no part in the plan."""
    return world.cells[world.names[-1]]


def entry_of(world: World, session: SessionId) -> Entry:
    """What the ingress knows of ``session``."""
    return ingress_of(world).node._ingress._ledger.get(session)


def heal(world: World, spared: Container[NodeId] = ()) -> None:
    """Links that were cut are there again, but for those of the ``spared``; the first frame on each dials."""
    links = sorted(link for link in world.cut if not any(end in spared for end in link))
    world.cut.difference_update(links)
    for one, other in links:
        world.cells[one].later(0.0, PeerConnected(other))


def decide(world: World, plan: Plan, names: Iterable[NodeId] | None = None) -> None:
    """Whoever lives (or ``names``) hears that ``plan`` was decided."""
    digest = digest_of(encode_plan(plan))
    for name in world.names if names is None else names:
        cell = world.cells[name]
        if cell.dead:
            continue
        out = Outbox(cell.name)
        cell.node._citizen.staging.adopt(plan, digest, world.now, out)
        cell.node._citizen._regroup(world.now, out)
        for effect in out.effects:
            cell.perform(effect)
        world.wake(cell)


@dataclass
class Pauses:
    """Machines of a world that stand still."""

    world: World
    missed: dict[NodeId, list[Event]] = field(default_factory=dict)

    def pause(self, name: NodeId) -> None:
        cell = self.world.cells[name]
        if cell.dead or name in self.missed:
            return
        events = self.missed[name] = []
        cell.post = events.append
        self.world.later(LINK_SILENCE_S_MAX, lambda: self._give_up(name, events))

    def _give_up(self, name: NodeId, events: list[Event]) -> None:
        if self.missed.get(name) is not events:
            return
        for other in self.world.cells.values():
            if other.name != name:
                self.world.cut |= {(name, other.name), (other.name, name)}
                other.later(0.0, PeerLost(name, "silent", LinkFault.SILENT))
                events.append(PeerLost(other.name, "reset", LinkFault.BROKEN))

    def wake(self, name: NodeId) -> None:
        events = self.missed.pop(name, None)
        if events is None:
            return
        cell = self.world.cells[name]
        del cell.post
        for event in events:
            cell.post(event)
        heal(self.world, [other for other in self.world.names if other != name and other in self.missed])
        self.world.wake(cell)

    def wake_all(self) -> None:
        for name in list(self.missed):
            self.wake(name)


@dataclass
class Stream:
    """One request, where it was made, and what the unsplit model answers."""

    cell: Cell
    session: SessionId
    answer: list[int]

    def check(self, *, whole: bool) -> None:
        shown, ending = self.cell.tokens(self.session), self.cell.ending(self.session)
        assert shown == self.answer[: len(shown)], "tokens come once and in order, and are the right ones"
        if not whole or isinstance(ending, Reject):
            return
        assert isinstance(ending, Finish), "nobody is left without an ending"
        assert ending.reason in (FinishReason.LENGTH, FinishReason.STOP), ending
        assert shown == self.answer


@dataclass
class Ordeal:
    """Random misfortunes in a small world. Its last node, and sometimes a host, take the requests and are spared."""

    seed: int
    streams: list[Stream] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        stages = 2 + self.seed % 2
        self.world = backed_world(stages, seed=self.seed)
        self.pauses = Pauses(self.world)
        names = self.world.names
        self.ingresses = (names[0], names[-1]) if self.seed % 4 == 0 else (names[-1],)
        self.victims = [name for name in names if name not in self.ingresses]

    def act(self) -> None:
        """Something happens, and a little time passes."""
        world, rng = self.world, self.rng
        victim = rng.choice(self.victims)
        match rng.choice(ACTIONS):
            case "ask":
                self.ask()
            case "kill" if self.living() > LIVING_MIN:
                self.pauses.wake(victim)
                world.kill(victim)
            case "pause" if self.living() > LIVING_MIN:
                self.pauses.pause(victim)
            case "wake":
                self.wake()
            case "cut":
                world.break_link(*rng.sample(world.names, 2))
            case "heal":
                heal(world, self.pauses.missed)
            case "back":
                self.revive()
            case "epoch":
                self.replan()
            case "slow":
                world.cells[victim].block_s = rng.choice((0.0, 0.001, 0.005))
        world.run(rng.choice(SPANS_S))
        for stream in self.streams:
            stream.check(whole=False)

    def living(self) -> int:
        return sum(not self.world.cells[name].dead and name not in self.pauses.missed for name in self.victims)

    def ask(self) -> None:
        rng, cell = self.rng, self.world.cells[self.rng.choice(self.ingresses)]
        length = rng.choice((1, 3, 8, 8, PREFILL_CHUNK_TOKENS + 20))
        prompt = tuple(rng.randrange(256) for _ in range(length))
        count = rng.choice((1, 5, 30, 80, 200))
        session = self.world.ask(cell.name, prompt, tokens_max=count, deadline_s=DEADLINE_S)
        self.streams.append(Stream(cell, session, toy_tokens(prompt, BLOCKS, count)))

    def wake(self) -> None:
        missed = list(self.pauses.missed)
        self.pauses.wake_all()
        self.catch_up(missed)

    def revive(self) -> None:
        dead = [name for name in self.victims if self.world.cells[name].dead]
        for name in dead:
            self.world.restart(name).block_s = 0.001
        self.catch_up(dead)

    def catch_up(self, names: list[NodeId]) -> None:
        """They hear what was decided meanwhile."""
        for plan in self.plans:
            decide(self.world, plan, names)

    def replan(self) -> None:
        """Whoever lives is given a part in a new plan."""
        able = [n for n, cell in self.world.cells.items() if not cell.dead and n not in self.pauses.missed]
        stages = self.rng.choice((1, 2, 3))
        hosts = self.rng.sample(able, min(stages, len(able)))
        spare = [name for name in able if name not in hosts]
        self.rng.shuffle(spare)
        backing = tuple((spare[i],) if i < len(spare) else () for i in range(len(hosts)))
        plan = self.world.plan(hosts, epoch=len(self.plans) + 1, standbys=backing)
        self.plans.append(plan)
        decide(self.world, plan, able)

    def finish(self) -> None:
        """All is mended: every answer that was begun is completed, and nothing is left."""
        self.wake()
        heal(self.world)
        self.revive()
        self.world.run(1.0)
        self.replan()
        over = self.world.now + DEADLINE_S
        while any(stream.cell.ending(stream.session) is None for stream in self.streams):
            assert self.world.now < over, [s.session.hex()[:8] for s in self.streams if not s.cell.ending(s.session)]
            self.world.run(1.0)
        for stream in self.streams:
            stream.check(whole=True)
        self.world.check_idle()


def ordeal(seed: int, steps: int = 20) -> Ordeal:
    """One whole ordeal."""
    made = Ordeal(seed)
    for _ in range(steps):
        made.act()
    made.finish()
    return made

"""A little cluster of real watches on a virtual clock: beats, pings and accusations travel, and everything can fail."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from shoal_agent.core.effects import Broadcast, SendFrame
from shoal_agent.core.events import Sampled
from shoal_agent.core.facts import LinkFault, Road, SelfAccused, Standing, StandingChanged, Symptom
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.tables import Tables
from shoal_agent.core.voice import CoreConfig, Identity, Voice
from shoal_agent.core.watch import Watch
from shoal_protocol.envelope import open_envelope
from shoal_protocol.headers import Gossip, Ping, PingAnswered, PingReported, PingRequested
from shoal_protocol.ids import ClusterId, Incarnation, Instant, NodeId, node_id_of
from shoal_protocol.messages import Accused, Capacity, Endpoint, Heartbeat, Load
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer

CLUSTER: Final = ClusterId("cd" * 16)
WALL_MS: Final = 1_700_000_000_000
REFUSED_S: Final = 0.001
GIVE_UP_S: Final = 6.0
DYING_S: Final = 0.02
BROKER: Final = "a"


@dataclass
class Watcher:
    """One node: its watch, and what is done to it."""

    name: NodeId
    key: Ed25519Sealer
    life: int
    tables: Tables
    voice: Voice
    watch: Watch
    dead: bool = False
    dying_until: float = 0.0
    """Its listener outlives its connections by some milliseconds."""
    paused: bool = False
    delay_s: float = 0.0
    """It handles everything so much later."""
    online: bool = True
    """Its link to the broker works."""
    beats: bool = True
    backlog: deque[Callable[[], None]] = field(default_factory=deque)
    changes: list[tuple[float, StandingChanged]] = field(default_factory=list)
    refuted: list[float] = field(default_factory=list)
    accused: list[tuple[float, Accused]] = field(default_factory=list)
    """What it said of others."""
    said: int = 0
    """Frames it sent."""

    def sees(self, node: NodeId) -> Standing:
        return self.watch.standing(node)

    def when(self, node: NodeId, standing: Standing, since: float = 0.0) -> float | None:
        """When it first found this of ``node``, from ``since`` on."""
        hits = [at for at, change in self.changes if change.node == node and change.new is standing and at >= since]
        return hits[0] if hits else None


class Cluster:
    """All of them. ``names[i]`` is the i-th."""

    def __init__(
        self, count: int, *, seed: int = 1, circle: bool = True, beat_s: tuple[float, float] = (0.9, 1.1)
    ) -> None:
        self.rng = Random(seed)
        self.now = Instant(1000.0)
        self.beat_s = beat_s
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.ties = itertools.count()
        self.cut: dict[tuple[NodeId, NodeId], bool] = {}
        self.rejects: dict[tuple[NodeId, NodeId], bool] = {}
        self.links: dict[tuple[NodeId, NodeId], bool] = {}
        self.frames: list[tuple[NodeId, SendFrame]] = []
        """All that were sent, and by whom."""
        self.frozen = False
        """The broker takes everything and delivers nothing, and nobody notices."""
        root = Ed25519Sealer(bytes([1]) * 32)
        keys = [Ed25519Sealer(bytes([10 + index]) * 32) for index in range(count)]
        members = [Member(node_id_of(k.public_key), k.public_key, (Role.AGENT,), "home", k.public_key) for k in keys]
        wire = sign_roster(Roster(CLUSTER, 1, 4_000_000_000, (root.public_key,), 1, tuple(members)), [root])
        self.roster = TrustedRoster.open(wire, (root.public_key,), 1, WALL_MS // 1000)
        self.circle = circle
        self.nodes = {watcher.name: watcher for watcher in (self.born(key, 1) for key in keys)}
        self.names = list(self.nodes)
        for watcher in self.nodes.values():
            self.begin(watcher)

    def born(self, key: Ed25519Sealer, life: int) -> Watcher:
        name = node_id_of(key.public_key)
        tables = Tables()
        voice = Voice(
            CoreConfig(CLUSTER, Endpoint("127.0.0.1", 1), "", 0, "test"),
            Identity(name, Incarnation(life), key, self.roster),
        )
        voice.sense(Sampled(Capacity(1, 1, 1, 1, 1, ()), Load(0, 1, None, 0, 0), WALL_MS), self.now)
        tables.brokers[BROKER] = True
        return Watcher(name, key, life, tables, voice, Watch(name, tables, voice, Random(self.rng.random())))

    def begin(self, watcher: Watcher) -> None:
        watcher.watch.watched(self.nodes, self.nodes if self.circle else (), self.now)
        self.later(self.rng.uniform(0.0, 1.0), lambda: self.beat(watcher))
        self.wake(watcher)

    # --- time -----------------------------------------------------------------------------------------------------

    def later(self, delay_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.heap, (self.now + delay_s, next(self.ties), act))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.heap and self.heap[0][0] <= end:
            at, _, act = heapq.heappop(self.heap)
            self.now = Instant(max(self.now, at))
            act()
        self.now = Instant(end)

    def run_until(self, done: Callable[[], bool], seconds: float = 30.0) -> float:
        """Let time pass until ``done``; how long that took."""
        begun = self.now
        while not done():
            assert self.now <= begun + seconds, "what was awaited did not come"
            self.run(0.01)
        return self.now - begun

    def wake(self, watcher: Watcher) -> None:
        deadline = watcher.tables.timers.deadline()
        if deadline is not None:
            self.later(max(0.0, deadline - self.now), lambda: self.do(watcher, lambda: self.ring(watcher, deadline)))

    def ring(self, watcher: Watcher, deadline: float) -> None:
        if watcher.tables.timers.deadline() != deadline:
            return
        for alarm in watcher.tables.timers.due(self.now):
            self.act(watcher, lambda out, alarm=alarm: watcher.watch.rang(alarm, self.now, out))

    def do(self, watcher: Watcher, act: Callable[[], None]) -> None:
        """Something happens to it: now, late, when it goes on, or never."""
        if watcher.dead:
            return
        if watcher.paused:
            watcher.backlog.append(act)
        else:
            act()

    def act(self, watcher: Watcher, call: Callable[[Outbox], Any]) -> None:
        """Call its watch, and carry out what it wants."""
        out = Outbox(watcher.name)
        for change in call(out) or ():
            if isinstance(change, SelfAccused):
                watcher.refuted.append(self.now)
                self.say(watcher, Heartbeat(0, 1))
            else:
                watcher.changes.append((self.now, change))
        for effect in out.effects:
            if isinstance(effect, Broadcast):
                self.publish(watcher, effect.wire)
            elif isinstance(effect, SendFrame):
                self.carry(watcher, effect)
        self.wake(watcher)

    # --- what is said ---------------------------------------------------------------------------------------------

    def beat(self, watcher: Watcher) -> None:
        """It beats, as gossip would."""
        if watcher.dead or self.nodes[watcher.name] is not watcher:
            return
        self.later(self.rng.uniform(*self.beat_s), lambda: self.do(watcher, lambda: self.beat(watcher)))
        if watcher.beats:
            self.say(watcher, Heartbeat(0, 1))

    def say(self, watcher: Watcher, message: Any) -> None:
        out = Outbox(watcher.name)
        direct = () if watcher.online else self.names
        watcher.voice.say(message, self.now, out, direct=direct)
        for effect in out.effects:
            if isinstance(effect, Broadcast):
                self.publish(watcher, effect.wire)
            elif isinstance(effect, SendFrame):
                self.carry(watcher, effect)

    def publish(self, source: Watcher, wire: bytes) -> None:
        message = open_envelope(wire, self.roster, CLUSTER).message
        if isinstance(message, Accused):
            source.accused.append((self.now, message))
        if self.frozen or not source.online:
            return
        for target in self.nodes.values():
            if target is not source and target.online:
                self.deliver(target, wire, Road.BROKER, self.rng.uniform(0.001, 0.01))

    def deliver(self, target: Watcher, wire: bytes, road: Road, delay_s: float) -> None:
        envelope = open_envelope(wire, self.roster, CLUSTER)

        def hear(out: Outbox) -> Any:
            is_beat = isinstance(envelope.message, Heartbeat)
            changes = target.watch.heard(
                envelope.sender, envelope.incarnation, envelope.sequence, road, self.now, beat=is_beat
            )
            if isinstance(envelope.message, Accused):
                changes += target.watch.accused(envelope.sender, envelope.message, self.now, out)
            return changes

        self.later(delay_s + target.delay_s, lambda: self.do(target, lambda: self.act(target, hear)))

    # --- links ----------------------------------------------------------------------------------------------------

    def carry(self, source: Watcher, effect: SendFrame) -> None:
        source.said += 1
        self.frames.append((source.name, effect))
        target, pair = self.nodes[effect.peer], (source.name, effect.peer)
        if target.dead or pair in self.rejects:
            fault = LinkFault.OTHER if self.now < target.dying_until else LinkFault.REFUSED
            self.lose(source, target.name, fault, REFUSED_S)
            return
        if pair in self.cut:
            self.lose(source, target.name, LinkFault.SILENT, GIVE_UP_S)
            return
        if pair not in self.links:
            self.links[pair] = True
            for one, other in ((source, target), (target, source)):
                self.later(0.01, lambda one=one, other=other: self.up(one, other.name))
        delay_s = self.rng.uniform(0.001, 0.004)
        if isinstance(effect.header, Gossip):
            self.deliver(target, effect.payload, Road.DIRECT, delay_s)
            return
        assert isinstance(effect.header, Ping | PingAnswered | PingRequested | PingReported)
        header = effect.header
        self.later(
            delay_s + target.delay_s,
            lambda: self.do(
                target,
                lambda: self.act(target, lambda out: target.watch.frame(source.name, header, self.now, out)),
            ),
        )

    def up(self, watcher: Watcher, peer: NodeId) -> None:
        def connected(_: Outbox) -> None:
            watcher.watch.link_up(peer, self.now)

        self.do(watcher, lambda: self.act(watcher, connected))

    def lose(self, watcher: Watcher, peer: NodeId, fault: LinkFault, delay_s: float) -> None:
        def act(out: Outbox) -> Any:
            return watcher.watch.link_lost(peer, fault, self.now, out)

        self.later(delay_s + watcher.delay_s, lambda: self.do(watcher, lambda: self.act(watcher, act)))

    # --- what is done to them -------------------------------------------------------------------------------------

    def kill(self, name: NodeId, *, wills: bool = True, machine: bool = False) -> None:
        """kill -9; ``machine``: the power goes, and nobody says so."""
        victim = self.nodes[name]
        if machine:
            victim.paused = True
            return
        victim.dead, victim.dying_until = True, self.now + DYING_S
        for pair in [pair for pair in self.links if name in pair]:
            del self.links[pair]
            peer = self.nodes[pair[0] if pair[1] == name else pair[1]]
            self.lose(peer, name, LinkFault.BROKEN, 0.005)
        if wills:
            for peer in self.nodes.values():
                self.will(peer, name)

    def will(self, peer: Watcher, name: NodeId) -> None:
        if peer.online and not self.frozen:
            self.later(
                0.02,
                lambda: self.do(peer, lambda: self.act(peer, lambda out: peer.watch.will(name, BROKER, self.now, out))),
            )

    def restart(self, name: NodeId) -> Watcher:
        old = self.nodes[name]
        old.dead = True
        new = self.nodes[name] = self.born(old.key, old.life + 1)
        self.begin(new)
        return new

    def pause(self, name: NodeId) -> None:
        self.nodes[name].paused = True

    def resume(self, name: NodeId) -> None:
        """It goes on: first its timers, which are late, then what waits in its sockets."""
        watcher = self.nodes[name]
        watcher.paused = False
        deadline = watcher.tables.timers.deadline()
        if deadline is not None and deadline <= self.now:
            self.ring(watcher, deadline)
        while watcher.backlog:
            watcher.backlog.popleft()()

    def sever(self, one: NodeId, other: NodeId, *, both: bool = True) -> None:
        """Nothing passes from ``one`` to ``other`` any more."""
        for pair in ((one, other), (other, one)) if both else ((one, other),):
            self.cut[pair] = True

    def mend(self) -> None:
        self.cut.clear()
        self.rejects.clear()

    def set_online(self, name: NodeId, online: bool) -> None:
        watcher = self.nodes[name]
        watcher.online = watcher.tables.brokers[BROKER] = online
        watcher.watch.brokers_changed(self.now)

    # --- what tests ask -------------------------------------------------------------------------------------------

    def others(self, name: NodeId) -> list[Watcher]:
        return [watcher for watcher in self.nodes.values() if watcher.name != name and not watcher.dead]

    def everybody_sees(self, name: NodeId, standing: Standing) -> bool:
        return all(watcher.sees(name) is standing for watcher in self.others(name) if not watcher.paused)


# --- what tests say ---

SETTLE_S = 12.0
"""Everybody heard everybody, and every link was measured."""


def settled(count: int = 5, seed: int = 1, **options) -> Cluster:
    cluster = Cluster(count, seed=seed, **options)
    cluster.run(SETTLE_S)
    assert all(cluster.everybody_sees(name, Standing.ALIVE) for name in cluster.names)
    return cluster


def time_to_death(cluster: Cluster, victim: NodeId) -> float:
    took_s = cluster.run_until(lambda: cluster.everybody_sees(victim, Standing.DEAD))
    for other in cluster.others(victim):
        assert all(other.sees(node) is Standing.ALIVE for node in cluster.names if node not in (victim, other.name))
    return took_s


def reason(watcher: Watcher, node: NodeId, standing: Standing) -> Symptom:
    return next(change.why for _, change in reversed(watcher.changes) if (change.node, change.new) == (node, standing))


def news(cluster: Cluster, since: float) -> list[tuple[NodeId, NodeId, Standing]]:
    """Every change of standing from ``since`` on: who sees whom how."""
    return [
        (watcher.name, change.node, change.new)
        for watcher in cluster.nodes.values()
        for at, change in watcher.changes
        if at >= since
    ]

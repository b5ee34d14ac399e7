"""Councils in a small seeded world: real seals and signatures, a broadcast that loses and repeats, disks, and liars.

Members broadcast to all and send frames to one; a broadcast may be lost for each hearer, repeated, or late. A crash
comes between any two effects, after which only what was persisted is left. The world checks as it goes: no honest
member says two things of one kind in one round, nothing is said that its diary does not hold, and no two of them adopt
different plans for one epoch.
"""

import heapq
import itertools
from dataclasses import replace
from random import Random
from typing import Final

from shoal_agent.core.facts import How, Standing
from shoal_agent.core.sitting import turns
from shoal_agent.core.votelog import read
from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.envelope import open_envelope, seal
from shoal_protocol.ids import Digest, Epoch, Incarnation, Instant, Sequence, digest_of
from shoal_protocol.limits import EPOCH_LEAP, TTL_MS_MAX
from shoal_protocol.messages import (
    Cause,
    Plan,
    PlanAnnounced,
    PlanStage,
    Proposed,
    RecoveryOrdered,
    Terms,
    VoteCast,
    VoteKind,
)
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.votes import sign_recovery, sign_vote
from tests.support.delegate import CLUSTER, DEPLOYMENT, OPERATORS, WALL_MS, Delegate, roster_of
from tests.support.protocol import node_of

TICK_S: Final = 2.0
"""How often a member asks another for what it lacks, and whether it still wants what it wishes."""
END_S: Final = 600.0


class Chamber:
    """A world of ``members``; the first plan's voters are the first ``voters`` of them, ``faulty`` of which may lie."""

    def __init__(self, seed, members, voters=3, faulty=0, liars=0, *, loss=0.0, dup=0.0, epochs=1, rotate=False):
        self.rng = Random(seed)
        self.now = Instant(0.0)
        self.heap, self.ties = [], itertools.count()
        self.loss, self.dup, self.epochs, self.rotate = loss, dup, epochs, rotate
        self.delay_s = 0.02
        keys = [Ed25519Sealer(bytes([10 + index]) * 32) for index in range(members)]
        self.roster = roster_of(keys)
        self.island = set()
        self.strike = None
        self.said, self.convicted, self.disputes, self.rejected = {}, set(), [], []
        self.decided = {}
        self.judgement = lambda delegate, plan: plan.epoch % EPOCH_LEAP <= self.epochs
        self.wishes = lambda delegate, epoch: True
        self.delegates = {node_of(key): Delegate(self, key) for key in keys}
        self.names = list(self.delegates)
        self.voters, self.faulty = voters, faulty
        self.genesis = encode_plan(self.plan_of(0, Digest(bytes(32)), 0))
        for delegate in self.rng.sample([self.delegates[name] for name in self.names[:voters]], liars):
            delegate.liar = True
        self.honest = [each for each in self.delegates.values() if not each.liar]
        for delegate in self.delegates.values():
            delegate.boot()
        self.later(0.0, self.announce)
        self.later(TICK_S, self.tick)

    def plan_of(self, epoch, parent, variant, cause=None):
        shift = epoch * self.rotate % len(self.names)
        turned = self.names[shift:] + self.names[:shift]
        hosts = turned[variant % 2 : variant % 2 + 2] if len(turned) > 2 else turned
        stages = tuple(PlanStage(node, index * 4, index * 4 + 3) for index, node in enumerate(hosts))
        terms = Terms(faulty=self.faulty, operators_min=2)
        cause = cause or (Cause.GAIN if epoch else Cause.GENESIS)
        voters = tuple(turned[: self.voters])
        return Plan(
            DEPLOYMENT, Epoch(epoch), parent, digest_of(b"model"), 64, stages, terms, voters, cause, score_us=variant
        )

    def proposers(self, epoch):
        """The voters of ``epoch`` in the order of their turns, if the voters are those of the first plan."""
        return turns(replace(decode_plan(self.genesis), epoch=Epoch(epoch - 1)))

    def wall_ms(self):
        return WALL_MS + int(self.now * 1000)

    # --- time ---------------------------------------------------------------------------------------------------------

    def later(self, delay, act):
        heapq.heappush(self.heap, (self.now + delay, next(self.ties), act))

    def run(self, seconds=END_S, until=lambda: False):
        end = self.now + seconds
        while self.heap and self.heap[0][0] <= end and not until():
            at, _, act = heapq.heappop(self.heap)
            self.now = Instant(max(self.now, at))
            act()
        if not until():
            self.now = Instant(end)
        return self

    def settle(self, seconds=END_S):
        """Until every honest member that is up has the plan of the last epoch."""
        return self.run(seconds, self.settled)

    def settled(self):
        return all(each.epoch >= 0 and each.epoch % EPOCH_LEAP >= self.epochs for each in self.honest if each.up)

    def tick(self):
        """What steering and gossip do: wish on, judge again, compare chains."""
        for delegate in self.delegates.values():
            if not delegate.up:
                continue
            self.want(delegate)
            for wanted in delegate.council.wanted():
                delegate.judge(wanted.plan, wanted.digest)
            other = self.rng.choice(list(self.delegates.values()))
            if other.up:
                self.catch_up(delegate, other)
        self.later(TICK_S, self.tick)

    def want(self, delegate):
        head = delegate.council.plan(DEPLOYMENT)
        if head is None or delegate.liar or not delegate.up:
            return
        plan, digest = head
        if plan.epoch % EPOCH_LEAP < self.epochs and self.wishes(delegate, plan.epoch + 1):
            variant = self.names.index(delegate.name)
            raw = encode_plan(self.plan_of(plan.epoch + 1, digest, variant))
            delegate.do(lambda out: delegate.council.wish(DEPLOYMENT, raw, self.now, out))

    # --- words --------------------------------------------------------------------------------------------------------

    def announce(self):
        wire = self.seal(OPERATORS[0], PlanAnnounced(self.genesis), 1)
        for delegate in self.delegates.values():
            self.deliver(wire, delegate, lossy=False)

    def seal(self, key, message, number):
        name = node_of(key)
        return seal(key, CLUSTER, name, Incarnation(1), Sequence(number), TTL_MS_MAX, self.wall_ms(), message)

    def broadcast(self, sender, wire):
        self.watch(sender, wire)
        for delegate in self.delegates.values():
            if delegate is not sender:
                self.carry(sender, delegate, wire)

    def send(self, sender, peer, wire):
        self.carry(sender, self.delegates[peer], wire)

    def carry(self, sender, target, wire):
        if not self.apart(sender, target):
            for _ in range(2 if self.rng.random() < self.dup else 1):
                self.deliver(wire, target)

    def apart(self, one, other):
        return bool(self.island) and (one.name in self.island) != (other.name in self.island)

    def deliver(self, wire, target, *, lossy=True):
        if lossy and self.rng.random() < self.loss:
            return
        self.later(0.002 + self.rng.expovariate(1 / self.delay_s), lambda: self.arrive(wire, target))

    def arrive(self, wire, target):
        if not target.up:
            return
        target.hear(wire)
        message = open_envelope(wire, self.roster, CLUSTER).message
        if target.liar and isinstance(message, VoteCast | Proposed):
            self.lie(target, message.epoch, message.round)
            self.lie(target, message.epoch, message.round + 1)

    def catch_up(self, asker, answerer):
        """Anti-entropy, without its ways."""
        if answerer.up and not self.apart(asker, answerer):
            heads = asker.council.heads()
            for wire in answerer.council.after(DEPLOYMENT, heads[0].epoch if heads else None, self.now):
                self.deliver(wire, asker)

    # --- what must hold -----------------------------------------------------------------------------------------------

    def watch(self, sender, wire):
        if sender.liar:
            return
        envelope = open_envelope(wire, self.roster, CLUSTER)
        message = envelope.message
        if isinstance(message, VoteCast | Proposed):
            kind = message.vote if isinstance(message, VoteCast) else None
            value = message.value if isinstance(message, VoteCast) else digest_of(message.plan)
            box = (sender.name, message.epoch, message.round, kind)
            assert self.said.setdefault(box, value) == value, f"{box} said twice, at {self.now}"
            assert message.epoch == read(sender.disk[f"vote.{DEPLOYMENT}"]).epoch, "written before it is said"

    def adopt(self, delegate, plan, digest, how):
        if delegate.liar:
            self.later(0.05, lambda: self.lie(delegate, plan.epoch + 1, 0))
            return
        epoch = plan.epoch
        assert how is How.RESTORED or epoch >= max(delegate.adopted, default=0), "epochs only grow"
        delegate.adopted[epoch] = digest
        self.decided.setdefault(epoch, {}).setdefault(digest, delegate.name)
        self.want(delegate)

    @property
    def split(self):
        """Epochs for which there is more than one plan."""
        return [epoch for epoch, plans in self.decided.items() if len(plans) > 1]

    # --- what goes wrong ----------------------------------------------------------------------------------------------

    def strikes(self, delegate):
        """Whether a crash comes now, before the next effect."""
        if self.strike is not None and self.rng.random() < self.strike and delegate in self.honest:
            self.crash(delegate)
            self.later(0.5 + self.rng.random() * 5, lambda: self.revive(delegate))
            return True
        return False

    def crash(self, delegate):
        delegate.up = False

    def revive(self, delegate, *, lose=()):
        if not delegate.up:
            for prefix in lose:
                delegate.adopted = {}
                delegate.disk = {name: data for name, data in delegate.disk.items() if not name.startswith(prefix)}
            delegate.boot()
            self.later(0.1, lambda: self.want(delegate))

    def stand(self, node, standing):
        """Everybody learns how ``node`` stands."""
        for delegate in self.delegates.values():
            delegate.tables.membership.stand(node, standing)
            gone = standing is Standing.DEAD
            delegate.do(lambda out, d=delegate, g=gone: d.council.stood(node, self.now, out, gone=g))

    def plan_faults(self, until_s=10.0):
        for _ in range(self.rng.randint(0, 3)):
            victim, at = self.rng.choice(self.honest), self.rng.random() * until_s
            self.later(at, lambda victim=victim: self.crash(victim))
            self.later(at + 0.5 + self.rng.random() * until_s, lambda victim=victim: self.revive(victim))
        for _ in range(self.rng.randint(0, 2)):
            at = self.rng.random() * until_s
            side = set(self.rng.sample(self.names, self.rng.randint(1, len(self.names) - 1)))
            self.later(at, lambda side=side: setattr(self, "island", side))
            self.later(at + self.rng.random() * until_s, lambda: setattr(self, "island", set()))
        return self

    def lie(self, liar, epoch, round_):
        """Tell one half one thing and the other half another; a liar needs no occasion."""
        head = liar.council.plan(DEPLOYMENT)
        if head is None or epoch != head[0].epoch + 1:
            return
        for index, name in enumerate(self.names):
            key = (liar.name, name, epoch, round_)
            if key in self.said or self.delegates[name].liar:
                continue
            self.said[key] = True
            raw = encode_plan(self.plan_of(epoch, head[1], index % 2))
            words = [Proposed(DEPLOYMENT, epoch, round_, None, raw, ())]
            words += [self.ballot(liar.key, epoch, round_, kind, digest_of(raw)) for kind in VoteKind]
            for word in words:
                wire = liar.voice.seal(word, self.now)
                self.later(self.rng.random() * 0.2, lambda w=wire, n=name: self.deliver(w, self.delegates[n]))

    def ballot(self, key, epoch, round_, kind, value):
        signature = sign_vote(key, CLUSTER, DEPLOYMENT, epoch, round_, kind, value)
        return VoteCast(DEPLOYMENT, epoch, round_, kind, value, "", signature)

    def order(self, epoch, variant=0, keys=OPERATORS[:2]):
        """Operators' order of a plan for ``epoch``, sealed."""
        raw = encode_plan(self.plan_of(epoch, digest_of(b"lost"), variant, Cause.RECOVERY))
        message = RecoveryOrdered(raw, tuple(sign_recovery(key, CLUSTER, raw) for key in keys))
        return self.seal(OPERATORS[0], message, epoch)


def decoded(wire, roster):
    """The message in ``wire``, and its plan."""
    message = open_envelope(wire, roster, CLUSTER).message
    return message, decode_plan(message.plan)

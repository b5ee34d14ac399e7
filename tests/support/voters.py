"""Voters in a small seeded world: a broadcast that loses and repeats, crashes, partitions, liars, and nothing else.

Every statement is said again until all have decided, as the rules demand, and whoever has decided shows the
certificate: the proposal and the quorum's precommits, each in its author's name.
"""

import heapq
import itertools
from random import Random

from shoal_agent.core.agreement import Agreement
from shoal_agent.core.ballots import NO_ROUND, Proposal, Vote
from shoal_agent.core.motions import Arm, Cast, Decided, Judge, Propose, Remember
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.messages import VoteKind

REGOSSIP_S = 2.0
END_S = 300.0
X, Y = Digest(b"x" * 32), Digest(b"y" * 32)


class World:
    """Voters in virtual time."""

    def __init__(self, seed, voters, faulty=0, liars=0, *, faults=True, amnesia=False, certificates=True, doubt=0.0):
        self.rng = Random(seed)
        self.now, self.heap, self.ties = 0.0, [], itertools.count()
        self.names = [NodeId(chr(97 + index) * 32) for index in range(voters)]
        self.order = self.rng.sample(self.names, voters)
        self.faulty, self.amnesia, self.certificates, self.doubt = faulty, amnesia, certificates, doubt
        self.liars = set(self.rng.sample(self.names, liars))
        self.honest = [name for name in self.names if name not in self.liars]
        self.memory = dict.fromkeys(self.names)
        self.nodes, self.lives = {}, dict.fromkeys(self.names, 0)
        self.decided = {}
        self.down, self.island = set(), set()
        self.loss = 0.2 if faults else 0.0
        for name in self.honest:
            self.later(self.rng.random() * 0.05, lambda name=name: self.boot(name))
        if faults:
            self.plan_faults()
        self.later(REGOSSIP_S, self.regossip)
        for round_ in range(12):
            # Liars need no occasion: they also speak about rounds nobody has heard of yet.
            for liar in sorted(self.liars):
                vote = Vote(VoteKind.PREVOTE, round_, None)
                self.later(0.1 + 2 * round_ * self.rng.random(), lambda liar=liar, vote=vote: self.lie(liar, vote))
        self.seen = set()

    def plan_faults(self):
        for _ in range(self.rng.randint(0, 3)):
            victim, at = self.rng.choice(self.honest), self.rng.random() * 20
            self.later(at, lambda victim=victim: self.down.add(victim))
            self.later(at + 0.5 + self.rng.random() * 20, lambda victim=victim: self.revive(victim))
        for _ in range(self.rng.randint(0, 2)):
            at = self.rng.random() * 20
            side = set(self.rng.sample(self.names, self.rng.randint(1, len(self.names) - 1)))
            self.later(at, lambda side=side: setattr(self, "island", side))
            self.later(at + self.rng.random() * 20, lambda: setattr(self, "island", set()))

    def later(self, delay, act):
        heapq.heappush(self.heap, (self.now + delay, next(self.ties), act))

    def boot(self, name):
        self.lives[name] += 1
        node = Agreement(name, self.order, self.faulty, self.memory[name])
        self.nodes[name] = node
        self.perform(name, node.begin())
        self.perform(name, node.wish(X if self.names.index(name) % 2 else Y))

    def revive(self, name):
        if name in self.down:
            self.down.discard(name)
            if self.amnesia:
                self.memory[name] = None
            if name not in self.decided:
                self.boot(name)

    def perform(self, name, facts):
        for fact in facts:
            match fact:
                case Remember(memory):
                    self.memory[name] = memory
                case Propose(proposal):
                    self.say(name, proposal)
                case Cast(vote):
                    self.say(name, vote)
                case Arm(alarm, round_, seconds):
                    life = self.lives[name]
                    drift = 0.8 + 0.4 * self.rng.random()
                    self.later(seconds * drift, lambda a=alarm, r=round_, n=life: self.ring(name, n, a, r))
                case Judge(value):
                    self.later(0.0, lambda v=value: self.judge(name, v))
                case Decided():
                    self.decided[name] = fact

    def judge(self, name, value):
        """What a voter thinks of a plan may change from one time to the next."""
        if name not in self.down:
            self.perform(name, self.nodes[name].judged(value, acceptable=self.rng.random() >= self.doubt))

    def ring(self, name, life, alarm, round_):
        if name not in self.down and life == self.lives[name]:
            self.perform(name, self.nodes[name].rang(alarm, round_))

    def say(self, sender, statement):
        for name in self.names:
            if name != sender:
                self.send(sender, sender, name, statement)

    def send(self, carrier, author, target, statement):
        for _ in range(2 if self.rng.random() < 0.1 else 1):
            if self.rng.random() >= self.loss:
                delay = 0.002 + self.rng.expovariate(1 / 0.02)
                self.later(delay, lambda: self.arrive(carrier, author, target, statement))

    def arrive(self, carrier, author, target, statement):
        apart = bool(self.island) and (carrier in self.island) != (target in self.island)
        if apart or target in self.down or carrier in self.down:
            return
        if target in self.liars:
            self.lie(target, statement)
            return
        node = self.nodes.get(target)
        if node is None:
            return
        self.seen.add((author, statement))
        if isinstance(statement, Proposal):
            self.perform(target, node.proposed(author, statement))
        else:
            self.perform(target, node.voted(author, statement))

    def lie(self, liar, heard):
        """Tell one half one thing and the other half another, about the round that was heard of."""
        round_ = heard.round
        for index, name in enumerate(self.names):
            value = X if index % 2 else Y
            if self.order[round_ % len(self.order)] == liar:
                self.send(liar, liar, name, Proposal(round_, value, NO_ROUND))
            for kind in VoteKind:
                key = (liar, name, kind, round_, value)
                if key not in self.seen:
                    self.seen.add(key)
                    self.send(liar, liar, name, Vote(kind, round_, value))

    def regossip(self):
        """Everybody says again what it said; whoever has decided shows the certificate: the proposal and the votes."""
        for name in self.honest:
            node = self.nodes.get(name)
            if node is None or name in self.down:
                continue
            for statement in node.memory.standing:
                self.say(name, statement)
            for voter, vote in node.support:
                for target in self.names:
                    self.send(name, voter, target, vote)
            if self.certificates and (done := self.decided.get(name)):
                proposal = next(
                    each for each in node._heard.known() if (each.round, each.value) == (done.round, done.value)
                )
                for target in self.names:
                    self.send(name, self.order[done.round % len(self.order)], target, proposal)
                    for voter in done.voters:
                        self.send(name, voter, target, Vote(VoteKind.PRECOMMIT, done.round, done.value))
        if self.now < END_S:
            self.later(REGOSSIP_S, self.regossip)

    def run(self):
        while self.heap and len(self.decided) < len(self.honest) and self.now < END_S:
            self.now, _, act = heapq.heappop(self.heap)
            act()
        return self

    @property
    def values(self):
        return {done.value for done in self.decided.values()}

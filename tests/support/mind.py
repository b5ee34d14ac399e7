"""One node's steering, its clock, and a planner that answers in place."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from random import Random

from shoal_agent.core.effects import FetchModel, Solve
from shoal_agent.core.events import Solved
from shoal_agent.core.facts import Standing
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.steering import EVALUATE_S, Steering, SteeringFact, Wish
from shoal_agent.sim.solutions import solution
from shoal_protocol.codec import decode_plan
from shoal_protocol.ids import Instant
from shoal_protocol.messages import Plan
from tests.support.opinion import MEMORY, NOW, Opinion

Act = Callable[[Instant, Outbox], Iterable[SteeringFact]]


class Mind:
    """A steering, its clock, and a planner that answers at once unless it is told to be busy."""

    def __init__(self, me: Opinion) -> None:
        self.me = me
        self.steering = Steering(me.here, me.tables, me.voice, MEMORY, Random(1))
        self.now = NOW
        self.asked: list[Solve] = []
        self.fetched: list[FetchModel] = []
        self.busy = False

    def do(self, act: Act) -> list[SteeringFact]:
        out = Outbox(self.me.here)
        facts = list(act(self.now, out))
        solves = [effect for effect in out.effects if isinstance(effect, Solve)]
        self.fetched += [effect for effect in out.effects if isinstance(effect, FetchModel)]
        self.asked += solves
        for effect in [] if self.busy else solves:
            facts += self.answer(effect)
        return facts

    def answer(self, effect: Solve) -> list[SteeringFact]:
        return self.do(lambda now, out: self.steering.solved(Solved(effect.ticket, solution(effect.problem)), now, out))

    def think(self, seconds: float = 0.0) -> list[SteeringFact]:
        self.now = Instant(self.now + seconds)
        return self.do(self.steering.evaluate)

    def stood(self, index: int, standing: Standing) -> list[SteeringFact]:
        node = self.me.names[index]
        self.me.record(node, standing=standing)
        return self.do(lambda now, out: self.steering.stood(node, standing, now, out))

    def failed(self, *indices: int) -> list[SteeringFact]:
        nodes = [self.me.names[index] for index in indices]
        plan = self.me.head.plan
        return self.do(lambda now, out: self.steering.failed(plan.deployment, plan.epoch, nodes, now, out))

    def think_for(self, seconds: float) -> list[SteeringFact]:
        """Every fact until then."""
        facts: list[SteeringFact] = []
        for _ in range(int(seconds / EVALUATE_S)):
            for node in self.me.names[1:]:  # heartbeats go on
                peer = self.me.tables.membership.peer(node)
                assert peer is not None
                self.me.tables.membership._peers[node] = replace(peer, heard=self.now)
            facts += self.think(EVALUATE_S)
        return facts


def wished(facts: Sequence[SteeringFact]) -> Plan:
    """The plan that is the only thing wished."""
    (fact,) = facts
    assert isinstance(fact, Wish)
    return decode_plan(fact.raw)


def hosts(me: Opinion, plan: Plan) -> list[int]:
    """Whose the stages are, by index."""
    return [me.names.index(stage.node) for stage in plan.stages]

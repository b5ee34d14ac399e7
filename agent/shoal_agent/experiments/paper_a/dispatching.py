"""Rule B in the paper's system: the gateway of a task decides where its next stage runs.

It knows digests of some age, what it has sent since, what probes answered since, and the agreed backbone (``routes``).
It scores a node with ``core`` by::

    wait there + transfer + way left from there, in deadlines, + V * price of an instance that would have to start

and asks two of the best three. Baselines are the same gateway with other eyes: a centre sees everything; a stale least
loaded choice sees digests and nothing else; two at random are asked without a list; or nobody cooperates, and a
gateway uses its own machine and the nearest hosts.
"""

from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import Final

from shoal_agent.core.dispatch import InFlight, Offer, settle, shortlist, to_probe
from shoal_agent.core.dispatch import Task as Wanted
from shoal_agent.experiments.paper_a.digests import Digests, State, look
from shoal_agent.experiments.paper_a.regimes import Hold
from shoal_agent.experiments.paper_a.routes import Routes
from shoal_agent.experiments.paper_a.scaling import start_price
from shoal_agent.experiments.paper_a.scenario import Scenario
from shoal_agent.experiments.paper_a.world import Stage, World, gives
from shoal_protocol.ids import NodeId

CHOICES: Final = 2


class Sight(Enum):
    """What a dispatcher looks at."""

    LISTED = auto()
    """Digests make a list, two of it are probed: rule B."""
    ALL = auto()
    """Every node as it is now."""
    TOLD = auto()
    """The best by digest, unasked."""
    TWO = auto()
    """Two nodes at random, as they are now."""
    ALONE = auto()
    """The gateway's own machine, and the nearest host of a core service."""


@dataclass(frozen=True, slots=True)
class Eyes:
    """How a dispatcher sees, and how late."""

    sight: Sight = Sight.LISTED
    age_slots: int = 0
    memory: bool = True
    """Counts what it sent, and what probes answered, since the digest."""


class Gateways:
    """All gateways of one run, each with its own memory."""

    def __init__(self, scenario: Scenario, routes: Routes, v: float, eyes: Eyes, seed: int) -> None:
        self._routes = routes
        self._v = v
        self._eyes = eyes
        self._rng = Random(seed)
        self._digests = Digests(eyes.age_slots)
        self._flights = {gateway: InFlight() for gateway in scenario.gateways}
        self._answers: dict[tuple[int, int, int], tuple[State, float]] = {}
        """By gateway, node and service: what a probe last answered, and when."""

    def hear(self, world: World) -> None:
        """The digests of this slot."""
        self._digests.tell(world)
        for flight in self._flights.values():
            for node in world.scenario.nodes:
                flight.heard(_name(node), told=float(world.slot - self._eyes.age_slots))

    def hopeless(self, world: World, stage: Stage) -> bool:
        """Whether its task will be late even if nothing waits any more. Those who can still be on time go first."""
        task, number = stage.task, stage.service.number
        able = self._routes.able[number]
        ends = (
            max(float(world.slot), world.there_ms(stage, node)) + self._routes.left_ms(task.pipeline, number, node)
            for node in able
        )
        return min(ends) + stage.service.run_ms > task.due_ms

    def choose(self, world: World, stage: Stage) -> int | None:
        """Where ``stage`` goes; None: nowhere yet."""
        deadline = stage.task.pipeline.deadline_ms
        wanted = Wanted(deadline_slots=deadline, v=self._v / deadline, urgency=stage.task.urgency)
        able = self._routes.able[stage.service.number]
        match self._eyes.sight:
            case Sight.ALL:
                answers = self._ask(world, stage, able)
            case Sight.TWO:
                answers = self._ask(world, stage, self._rng.sample(able, min(CHOICES, len(able))))
            case Sight.ALONE:
                answers = self._ask(world, stage, [self._nearest(world, stage, able)])
            case Sight.TOLD:
                answers = list(shortlist(self._told(world, stage, able), wanted, None)[:1])
            case Sight.LISTED:
                listed = to_probe(shortlist(self._told(world, stage, able), wanted, None), self._rng)
                answers = self._ask(world, stage, [int(offer.node) for offer in listed])
        chosen = settle(answers, wanted, None)
        if chosen is None:
            return None
        flight = self._flights[stage.task.gateway]
        flight.sent(chosen, str(stage.service.number), stage.service.work_mb, at=float(world.slot))
        return int(chosen)

    def _told(self, world: World, stage: Stage, nodes: list[int]) -> list[Offer]:
        flight, offers = self._flights[stage.task.gateway], []
        for node in nodes:
            state, told = self._known(world, stage, node)
            sent = flight.of(_name(node), str(stage.service.number)) if self._eyes.memory else 0.0
            offers.append(None if state is None else self._offer(world, stage, node, state, sent, world.slot - told))
        return [offer for offer in offers if offer is not None]

    def _known(self, world: World, stage: Stage, node: int) -> tuple[State | None, float]:
        """The newest word of ``node`` that the stage's gateway has, and when it was true."""
        number, told = stage.service.number, float(max(0, world.slot - self._eyes.age_slots))
        answer = self._answers.get((stage.task.gateway, node, number))
        if self._eyes.memory and answer and answer[1] >= told:
            return answer
        return self._digests.of(node, number), told

    def _ask(self, world: World, stage: Stage, nodes: list[int]) -> list[Offer]:
        """Probes: what each says now is remembered, and counts all that was sent before."""
        gateway, number, offers = stage.task.gateway, stage.service.number, []
        for node in nodes:
            state = look(world, node, stage.service)
            self._answers[gateway, node, number] = (state, float(world.slot))
            self._flights[gateway].heard(_name(node), service=str(number))
            offers.append(self._offer(world, stage, node, state, 0.0, 0.0))
        return [offer for offer in offers if offer is not None]

    def _offer(
        self, world: World, stage: Stage, node: int, state: State, sent_mb: float, age_slots: float
    ) -> Offer | None:
        """What ``node`` would make of ``stage``; None if it cannot take it. What it served meanwhile is reckoned."""
        service, now = stage.service, float(world.slot)
        way = max(0.0, world.there_ms(stage, node) - now)
        price = 0.0
        if service.core:
            free = max(0.0, state.free_ms + sent_mb / service.rate / state.instances - now)
            if not gives(world.hold, free):
                return None
        elif state.instances or state.room:
            price = 0.0 if state.instances else start_price(service)
            free = max(0.0, (state.work_mb + sent_mb) / service.rate / max(1, state.instances) - age_slots)
        else:
            return None
        # To a queue the input travels while others are served; a held instance has to be free for it first.
        meanwhile = 0.0 if service.core and world.hold is not Hold.COMPUTING else way
        return Offer(
            node=_name(node),
            pressure=0.0,  # what is queued is counted once, as the wait
            wait_slots=max(0.0, free - meanwhile) + service.run_ms,
            transfer_slots=way + self._routes.left_ms(stage.task.pipeline, service.number, node),
            price=price,
        )

    def _nearest(self, world: World, stage: Stage, able: list[int]) -> int:
        if not stage.service.core and stage.task.gateway in able:
            return stage.task.gateway
        return min(able, key=lambda node: (world.there_ms(stage, node), node))


def _name(node: int) -> NodeId:
    return NodeId(str(node))

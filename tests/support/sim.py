"""What tests of the simulator share: small worlds, and witnesses that only take notes."""

from dataclasses import dataclass, field

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.facts import GenerationRequest, TokenPrompt
from shoal_agent.sim.machine import Machine, Seen
from shoal_agent.sim.oracles import Judge
from shoal_agent.sim.settings import TOY, Settings
from shoal_agent.sim.toy import GREEDY
from shoal_agent.sim.trace import Trace
from shoal_agent.sim.world import World
from shoal_protocol.ids import NodeId, SessionId


@dataclass
class Notes:
    """A witness without a judgement."""

    steps: list[Seen] = field(default_factory=list)
    said: list[tuple[NodeId, Broadcast]] = field(default_factory=list)
    requests: list[GenerationRequest] = field(default_factory=list)

    def handled(self, seen: Seen) -> None:
        self.steps.append(seen)

    def published(self, node: NodeId, effect: Broadcast, at_s: float) -> None:
        self.said.append((node, effect))

    def asked(self, machine: Machine, request: GenerationRequest) -> None:
        self.requests.append(request)

    def events(self, name: NodeId, kind: type) -> list[object]:
        return [seen.event for seen in self.steps if seen.machine.name == name and isinstance(seen.event, kind)]

    def effects(self, name: NodeId, kind: type) -> list[object]:
        return [
            effect
            for seen in self.steps
            if seen.machine.name == name
            for effect in seen.effects
            if isinstance(effect, kind)
        ]


def noted(nodes: int = 3, hosts: int = 2, **options: int) -> tuple[World, Notes]:
    """A world that serves, and what was seen of it."""
    notes = Notes()
    return served(World(Settings(1, nodes, hosts, **options), notes, Trace())), notes


def judged(nodes: int = 3, hosts: int = 2, **options: int) -> tuple[World, Judge]:
    """A world that serves, and its judge."""
    settings = Settings(1, nodes, hosts, **options)
    judge = Judge(settings.blocks, settings.context_tokens)
    world = World(settings, judge, Trace())
    judge.begin(world)
    return served(world), judge


def served(world: World) -> World:
    """``world``, switched on and deployed."""
    world.start()
    world.deploy()
    world.run(3.0)
    return world


def request(number: int = 0, prompt: tuple[int, ...] = (1, 2, 3), tokens_max: int = 8) -> GenerationRequest:
    return GenerationRequest(SessionId(bytes([number]) * 16), TOY, TokenPrompt(prompt), GREEDY, tokens_max, (), 5.0)

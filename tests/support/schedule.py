"""Random things that happen to a world, and what must be true whatever happens.

Run as a program, it prints a digest of everything every node of one such world asked for, in order: two runs in two
processes must print the same.
"""

import hashlib
import sys
from dataclasses import dataclass, field
from random import Random

from shoal_agent.core.effects import Finish
from shoal_agent.core.events import CancelRequested, StopRequested
from shoal_agent.core.facts import FinishReason
from shoal_agent.core.holdings import DEADLINE_GRACE_S
from shoal_protocol.ids import SessionId
from tests.support.cell import Cell
from tests.support.toy import toy_tokens
from tests.support.world import World

DEADLINE_S = 3.0
NODES = 4
RARE = ("wait", "wait", "cancel", "slow", "release", "delay", "cut", "heal", "kill", "restart", "stop")
ACTIONS = ("ask",) * 8 + RARE
KV_BYTES_MAX = 20_000
"""Less than two of the longest sessions."""
CONTEXT = 100
TOKENS_MAX = 60
METHODS = ("render", "encode", "check", "open", "sample", "push", "flush")


@dataclass
class Asked:
    """One request, where, and what the unsplit model answers."""

    cell: Cell
    session: SessionId
    answer: list[int]


@dataclass
class Schedule:
    """A world of four nodes, three of them hosts, and what was asked of it."""

    seed: int
    requests: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)
        self.world = World(NODES, seed=self.seed, kv_bytes_max=KV_BYTES_MAX, context=CONTEXT)
        self.world.start()
        self.world.deploy(self.world.names[:3])

    def act(self, action: str, pick: int) -> None:
        """Let ``action`` happen to whom ``pick`` says, and a little time pass."""
        world = self.world
        name = world.names[pick % NODES]
        cell = world.cells[name]
        match action:
            case "ask" if cell.dead:
                world.restart(name)
            case "ask":
                prompt = tuple(self.rng.randrange(256) for _ in range(1 + pick % 5))
                length = 1 + pick % TOKENS_MAX
                session = world.ask(name, prompt, tokens_max=length, deadline_s=DEADLINE_S)
                self.requests.append(Asked(cell, session, toy_tokens(prompt, 8, length)))
            case "cancel" if self.requests:
                chosen = self.requests[pick % len(self.requests)]
                chosen.cell.post(CancelRequested(chosen.session))
            case "slow":
                cell.slow.add(METHODS[pick % len(METHODS)])
            case "release":
                cell.release()
            case "delay":
                cell.run_s = 0.001 * (1 + pick % 50)
                world.link_s = (0.001, 0.001 * (1 + pick % 30))
            case "cut":
                other = world.names[(pick + 1 + pick // NODES % (NODES - 1)) % NODES]
                world.break_link(name, other)
            case "stop":
                cell.post(StopRequested())
            case "heal":
                world.cut.clear()
            case "kill":
                world.kill(name)
            case "restart":
                world.restart(name)
        world.run(0.01 * (pick % 20))

    def finish(self) -> None:
        """Let every deadline pass; then each request has its one ending and nothing is left."""
        self.world.cut.clear()
        self.world.run(DEADLINE_S + DEADLINE_GRACE_S)
        for asked in self.requests:
            shown = asked.cell.tokens(asked.session)
            assert shown == asked.answer[: len(shown)], "tokens come once and in order"
            ending = asked.cell.ending(asked.session)
            assert ending is not None or asked.cell.dead, "nobody is left without an ending"
            if isinstance(ending, Finish) and ending.reason in (FinishReason.STOP, FinishReason.LENGTH):
                assert shown == asked.answer, "a whole answer is the whole answer"
        self.world.check_idle()


def trace_of(seed: int) -> str:
    """What all nodes of one random world asked for, as a digest."""
    schedule = Schedule(seed)
    for _ in range(30):
        schedule.act(schedule.rng.choice(ACTIONS), schedule.rng.randrange(1000))
    schedule.finish()
    return hashlib.blake2b(repr(schedule.world.log).encode(), digest_size=16).hexdigest()


if __name__ == "__main__":
    sys.stdout.write(trace_of(int(sys.argv[1])))

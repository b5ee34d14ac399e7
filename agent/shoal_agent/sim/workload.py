"""What clients want of a world: arrivals, prompts, lengths, deadlines, cancels.

Requests arrive as a Poisson process at nodes chosen at random, whether those can serve or not. Prompts are tokens, text
or chat, mostly a few tokens and now and then longer than one prefill chunk. Some clients lose patience.
"""

from dataclasses import dataclass
from random import Random
from typing import Final

from shoal_agent.core.facts import ChatPrompt, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from shoal_agent.core.services import ChatMessage, RenderRequest, pack
from shoal_agent.sim.settings import TOY
from shoal_agent.sim.toy import GREEDY
from shoal_agent.sim.world import World
from shoal_protocol.ids import SESSION_ID_BYTES, NodeId, SessionId
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS

DEADLINE_S: Final = (0.2, 8.0)
TOKENS_MAX: Final = 24
LONG_SHARE: Final = 0.05
CANCEL_SHARE: Final = 0.15
STOP_SHARE: Final = 0.1
UNBOUNDED_SHARE: Final = 0.03
"""Requests that generate until the model ends, or the context is full."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests per second, over all nodes."""

    rate: float


def begin(world: World, workload: Workload, rng: Random, until_s: float) -> None:
    """Let requests arrive in ``world`` until ``until_s``."""
    if workload.rate <= 0.0:
        return
    at_s = world.agenda.now + rng.expovariate(workload.rate)
    if at_s >= until_s:
        return

    def arrive() -> None:
        _ask(world, rng)
        begin(world, workload, rng, until_s)

    world.agenda.at(at_s, arrive)


def _ask(world: World, rng: Random) -> None:
    ingress: NodeId = rng.choice(world.names)
    session = SessionId(rng.randbytes(SESSION_ID_BYTES))
    tokens_max = None if rng.random() < UNBOUNDED_SHARE else rng.randint(1, TOKENS_MAX)
    stop = (chr(rng.randrange(256)),) if rng.random() < STOP_SHARE else ()
    request = GenerationRequest(session, TOY, _prompt(rng), GREEDY, tokens_max, stop, rng.uniform(*DEADLINE_S))
    cancels, patience_s = rng.random() < CANCEL_SHARE, rng.uniform(0.0, 1.0)
    world.ask(ingress, request)
    if cancels:
        world.agenda.after(patience_s, lambda: world.cancel(ingress, session))


def _prompt(rng: Random) -> Prompt:
    length = rng.randint(1, 6)
    if rng.random() < LONG_SHARE:
        length = rng.randint(PREFILL_CHUNK_TOKENS - 1, PREFILL_CHUNK_TOKENS + 40)
    letters = "".join(chr(rng.randrange(32, 127)) for _ in range(length))
    kind = rng.randrange(3)
    if kind == 0:
        return TokenPrompt(tuple(letters.encode()))
    if kind == 1:
        return TextPrompt(letters)
    return ChatPrompt(pack(RenderRequest((ChatMessage("user", letters),), add_generation_prompt=True)))

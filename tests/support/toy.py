"""The toy model of the simulator, by the name tests know it under."""

import itertools

from shoal_agent.sim.toy import (
    EOS,
    GREEDY,
    MODEL,
    MODULUS,
    NAMES,
    VOCABULARY,
    ToyServices,
    toy_blocks,
    toy_facts,
    toy_tokens,
)

__all__ = [
    "EOS",
    "GREEDY",
    "MODEL",
    "MODULUS",
    "NAMES",
    "VOCABULARY",
    "ToyServices",
    "prompt_that_answers",
    "toy_blocks",
    "toy_facts",
    "toy_tokens",
]


def prompt_that_answers(length: int, blocks: int = 8) -> tuple[int, ...]:
    """The first prompt of two tokens whose answer is exactly ``length`` tokens and then ends."""
    pairs = itertools.product(range(EOS), repeat=2)
    return next(pair for pair in pairs if len(toy_tokens(pair, blocks, length + 1)) == length)

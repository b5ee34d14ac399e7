"""The toy model of the simulator, by the name tests know it under."""

from shoal_agent.sim.toy import (
    EOS,
    GREEDY,
    MODEL,
    MODULUS,
    NAMES,
    VOCABULARY,
    ToyServices,
    prompt_that_answers,
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

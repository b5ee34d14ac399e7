"""Early exit and activation width: what may be cheaper, at a known loss.

A *knob* is a list of options that the model's manifest certifies: how much work, time, money and energy a request takes
with it, and what it loses in quality (KL to the full model, measured at import). Turning it is the same decision as all
others of the fast loop: the option with the least drift-plus-penalty wins::

    V cost + pressure work + urgency latency / deadline + E joules + A loss

A is the quality budget, a queue like any other: the loss of every request goes in, the tolerated mean loss comes out.
Where cost is what an option loses, the full model wins while nothing presses; under pressure the cheaper options do,
until A says that it was too much of it. ``shortening`` turns the one knob that agents have: blocks left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shoal_agent.core.quantities import amount


@dataclass(frozen=True, slots=True)
class Option:
    """One certified way to run."""

    name: str
    cost: float
    work: float
    """Levels of the queues it goes through."""
    latency: float
    """Shares of the deadline."""
    loss: float
    """Of quality; 0 for the full model."""
    joules: float = 0.0

    def __post_init__(self) -> None:
        for name in ("cost", "work", "latency", "loss", "joules"):
            amount(f"{name} of option {self.name!r}", getattr(self, name))


@dataclass(frozen=True, slots=True)
class Weights:
    """What the present makes of an option's figures."""

    v: float
    pressure: float = 0.0
    urgency: float = 1.0
    energy: float = 0.0
    quality: float = 0.0

    def __post_init__(self) -> None:
        for name in ("v", "pressure", "urgency", "energy", "quality"):
            amount(name, getattr(self, name))


def score(option: Option, weights: Weights) -> float:
    """Drift plus penalty of one option; less is better."""
    return (
        weights.v * option.cost
        + weights.pressure * option.work
        + weights.urgency * option.latency
        + weights.energy * option.joules
        + weights.quality * option.loss
    )


def turn(options: Sequence[Option], weights: Weights) -> Option:
    """The best one now; among equals the one that loses the least quality, then the first."""
    if not options:
        raise ValueError("a knob without options cannot be turned")
    return min(options, key=lambda option: (score(option, weights), option.loss))

"""The two sets of assumptions under which the paper's system is run, and every one of them in words.

The paper prints neither horizon, nor users per device, nor radio bandwidth, nor what a core instance does while its
input travels, and these decide the number more than any controller does. R1 reads Table I with radio and with core
instances that are held while inputs travel. R2 is a tight regime without radio, where the randomness of the light
services decides and controllers can differ at all.

**Held for how long?** Until it has computed, in R1. Whoever simulates in slots is tempted to hold it to the end of the
slot: one stage per slot and instance, which is constraint (10) to the letter. A core stage computes for a tenth of a
slot to two slots, though, so mean concurrency, even 2.75 times that, is then fewer instances than stages come in a
slot, for several services of nearly every seed. Those queues grow for as long as anything arrives, whoever decides, and
the share on time is whatever the horizon makes of it. That is R1-slots; it is here because a first re-implementation
did so, over 80 slots, and came to the paper's 84 % by it. Who reads (10) to the letter should read the relaxed demand
of (14) to the letter, too, which counts tasks in a slot: R1-literal.
"""

from dataclasses import dataclass, replace
from enum import Enum
from math import ceil, inf
from typing import Final

from shoal_agent.experiments.paper_a.tables import Range

ARRIVALS_MS: Final = 200
DRAIN_MS: Final = 150
EPSILON: Final = 0.2
RESERVE: Final = 0.3


class Hold(Enum):
    """What takes a core instance. The value: it is given away when it will be free in less than so many slots."""

    COMPUTING = inf
    """Inputs queue at its node, and take nothing before they are there."""
    INPUT = 1.0
    """It waits for the input it was chosen for, and is free the moment it has computed, within a slot too."""
    SLOTS = 0.0
    """The same, and what is left of the slot in which it ends is lost."""


@dataclass(frozen=True, slots=True)
class Regime:
    """What differs between the two."""

    name: str
    scale: Range
    """Of the Gamma distribution of a light instance's rate."""
    deadline_factor: float
    headroom: float
    """Core instances per mean concurrency (``sized_by_slots``: per stage that comes in a slot)."""
    radio: bool
    """Inputs come over the radio of Table I, read as an access rate in Gb/s."""
    hold: Hold
    eta: float
    """What cost weighs against delay in (19)."""
    sized_by_slots: bool = False
    """The demand of (14) to the letter: a stage counts as an instance for every slot it has a part of."""

    def busy_ms(self, run_ms: float) -> float:
        """How long one stage takes an instance, as far as the number of instances is concerned."""
        return float(ceil(run_ms)) if self.sized_by_slots else run_ms

    def assumptions(self) -> list[str]:
        """All of them."""
        common = f"""
Re-implementation from the formulas; no code of the authors, not the paper's traces: its seeds, horizon, topology \
coordinates and radio bandwidth are not public.
{ARRIVALS_MS} slots of 1 ms with arrivals, then {DRAIN_MS} to drain; what is not done by then is late.
Every arrival is in the denominator; on time means by the task's own deadline.
Table I sampled anew per seed; pipelines of Fig. 1; 7 devices on 3 servers (3, 2, 2), servers in a triangle.
One user per device, one task type per user (all four do not fit); Poisson arrivals times the load.
Link bandwidth U[0.1, 1] MB/ms, store and forward along the shortest path, no contention, no propagation.
Output leaves when its stage ends; where to is said at the next slot boundary (at most 1 ms later), for all.
A light instance serves one task after another, at a Gamma rate drawn per slot, service, node and instance, the same \
draws for every method. It starts at once; starting costs 4, a slot 1.5.
In ours and its variants the instances of a node share one queue, earliest deadline first; in the paper's methods, \
lbrr and ga a task is bound to an instance when it is sent, and idle instances are dropped every slot, as there.
Core instances: {self._demand()} times {self.headroom:g}, two hosts at least, {RESERVE:.0%} of every node kept for \
light services; placed by the agent's own backbone programme, the same for all methods but lbrr; 20 each and 4 per slot.
Cost is per slot over arrivals and drain, core instances included.
Control messages take no time in this model, which has no propagation; ours-no-probe, ours-stale-K and central-rtt say \
what changes if they do.
epsilon {EPSILON:g} per task (ours: 0.05 per light stage), zeta 1, eta = V = {self.eta:g}, W 1 ms, at most 20 tasks on \
an instance.
Rates of light services are profiled (their distribution is known), as the paper assumes; ours learns rates of arrival.
A seed for which no core placement fits is left out for all methods, and named."""
        return [*common.strip().split("\n"), *self._own()]

    def _own(self) -> list[str]:
        factor, scale = self.deadline_factor, self.scale
        lines = [f"Deadlines of Table I times {factor:g}; Gamma scale U[{scale[0]:g}, {scale[1]:g}]."]
        if self.radio:
            lines.append("Uplink: the Nakagami value of Table I ('Gbs') read as the rate in Gb/s at which inputs come.")
        else:
            lines.append("No uplink: inputs are at the gateway when a task arrives.")
        match self.hold:
            case Hold.COMPUTING:
                lines.append("Inputs queue at core instances; an instance is busy only while it computes.")
            case Hold.INPUT:
                lines.append("A core instance is held while its input travels, until it has computed; then it is free.")
            case Hold.SLOTS:
                lines.append("A core instance is held while its input travels, and to the end of the slot it ends in.")
                lines.append("So it takes one stage in a slot, however short; where more come, queues only grow.")
        return lines

    def _demand(self) -> str:
        return "stages that come in a slot" if self.sized_by_slots else "mean concurrency"


_R1: Final = Regime("R1", scale=(1, 20), deadline_factor=1.0, headroom=2.75, radio=True, hold=Hold.INPUT, eta=1.0)

REGIMES: Final[dict[str, Regime]] = {
    "R2": Regime("R2", scale=(1, 3), deadline_factor=0.2, headroom=1.3, radio=False, hold=Hold.COMPUTING, eta=3.0),
    "R1": _R1,
    "R1-slots": replace(_R1, name="R1-slots", hold=Hold.SLOTS),
    "R1-literal": replace(_R1, name="R1-literal", hold=Hold.SLOTS, headroom=1.0, sized_by_slots=True),
}
"""The default first. What they come to, and why: docs/control.md."""

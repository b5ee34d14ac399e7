"""Do this node's own clients wait too long? Page's CUSUM over deadlines met and missed.

Evidence grows with every missed deadline and shrinks with every one that is met, never below nothing::

    evidence = max(0, evidence + MISSED) or max(0, evidence - MET)         slow from SLOW on, until below CALM

The weights are the log likelihood ratio of "one in five is late" against "one in twenty is": ln(0.2 / 0.05) = 1.39 for
a late one, ln(0.8 / 0.95) = -0.17 for another, 8 to 1. So a deployment of which more than one in nine is late becomes
slow sooner or later, and one of which fewer are hardly ever. Of all rules that cry wolf as rarely none is quicker
(Page 1954; Lorden 1971; Moustakides 1986). SLOW is 6.9 nats, five late ones in a row: at one late in twenty, at least
e^6.9 = 1000 requests pass on average before it is said for nothing, and then nothing is done unless something is
better.

One missed deadline is an accident, and so is a crowd of them that come together: a process that stalled, a burst.
Hence whatever is late within ``CROWD_S`` of the first counts for half of what it takes, however many they are. And
evidence is about now: it is gone once no request ended for ``SILENCE_S``.

Requests that were cancelled or failed are not counted: what made them fail is somebody else's to notice.
"""

from dataclasses import dataclass
from typing import Final

from shoal_protocol.ids import DeploymentId, Instant

MISSED: Final = 8
MET: Final = 1
SLOW: Final = 40
CALM: Final = 20
"""Twenty in time after the last late one: an answer should not change while a plan is being agreed upon."""
CROWD: Final = SLOW // 2
CROWD_S: Final = 1.0
"""Longer than a collector's pause or a lost packet's repetition holds requests up."""
SILENCE_S: Final = 10.0


@dataclass(slots=True)
class _Run:
    """What was counted since evidence was last nothing, which is the likeliest moment of the change."""

    since: Instant
    heard: Instant
    met: int = 0
    missed: int = 0
    evidence: int = 0
    slow: bool = False


class Lateness:
    """All deployments that this node is an ingress of."""

    def __init__(self) -> None:
        self._runs: dict[DeploymentId, _Run] = {}

    def ended(self, deployment: DeploymentId, now: Instant, *, late: bool) -> bool:
        """A request is over, or its deadline is. Whether the deployment is slow since this one."""
        run = self._run(deployment, now)
        if run is None:
            if late:
                self._runs[deployment] = _Run(now, now, missed=1, evidence=MISSED)
            return False
        run.heard, run.met, run.missed = now, run.met + (not late), run.missed + late
        bound = CROWD if now < run.since + CROWD_S else SLOW
        run.evidence = min(run.evidence + MISSED, bound) if late else run.evidence - MET
        if run.evidence <= 0:
            self.forget(deployment)
            return False
        was, run.slow = run.slow, run.evidence >= (CALM if run.slow else SLOW)
        return run.slow and not was

    def slow(self, deployment: DeploymentId, now: Instant) -> str | None:
        """What there is to say of ``deployment`` if it is slow."""
        run = self._run(deployment, now)
        if run is None or not run.slow:
            return None
        return f"{run.missed} of {run.met + run.missed} requests missed their deadline in {now - run.since:.0f} s"

    def forget(self, deployment: DeploymentId) -> None:
        """A new plan is in force, or all is well: begin anew."""
        self._runs.pop(deployment, None)

    def _run(self, deployment: DeploymentId, now: Instant) -> _Run | None:
        run = self._runs.get(deployment)
        if run is not None and now > run.heard + SILENCE_S:
            self.forget(deployment)
            return None
        return run

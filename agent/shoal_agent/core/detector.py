"""When is silence suspicious? Phi-accrual over the arrivals of heartbeats.

Hayashibara et al. (2004) do not ask "was a beat missed?" but "how surprising is this silence, given how this peer's
beats came until now?"::

    phi(t) = -log10 P(a beat comes later than t),   P = Q((t - mean) / sigma),   Q: the tail of a Gaussian

phi = 8 is a silence that a living peer would produce once in 10^8 beats, if its arrivals were Gaussian. They are not,
which is why crossing 8 accuses nobody here: it only asks for a ping. Since Q(z) = 10^-8 at z = 5.612, the crossing has
a closed form, and a peer costs a few integer additions per beat instead of a scan per tick::

    silent from  last + mean + 5.612 * sigma

``mean`` and ``sigma`` are those of the last 100 intervals. The window begins with five of 1 s, so that a stranger is
judged from its first beat on. ``sigma`` is at least mean / 8: beats of 1 s +-10 % (whose own sigma is 0.06 s) then have
0.7 s of grace, and are silent after 1.7 s; less would ping peers whose scheduler hiccuped, more would eat the budget of
3 s from SIGSTOP to DEAD (see ``suspicion``). A peer with jittery arrivals gets longer, but never more than
``SILENCE_S_MAX``: a ping in vain costs two small frames, a late one costs every request that waits for the dead.
A gap above ``INTERVAL_S_MAX`` is an absence and says nothing about jitter, so it is not learnt.

Who is watched is looked at only when the earliest crossing may have come. A beat moves a crossing later, so nothing is
done about it then; the next look, about 0.6 s on, finds the new earliest one. With beats of 1 s that is one visit
per peer and 0.6 beats. Nor is a crossing calculated before somebody asks: none is nearer to its last beat than
``PATIENCE_S_MIN``, so a look passes by nearly all peers without knowing theirs.
"""

from array import array
from dataclasses import dataclass, field
from math import erfc, inf, log10, sqrt
from typing import Final

from shoal_protocol.ids import Instant, NodeId

BEAT_MS: Final = 1000
"""Nobody beats faster; a burst after a stalled broker must not make us expect it."""
PRIOR_COUNT: Final = 5
"""Intervals of 1 s assumed of a stranger: enough that its first late beat does not widen sigma tenfold."""
WINDOW: Final = 100
"""Intervals remembered: a minute and a half, so that yesterday's weather is forgotten."""
INTERVAL_S_MAX: Final = 4.0
"""Longer than any jitter we wait for: the peer, or we, were away."""
SIGMA_FRACTION: Final = 8
"""Sigma is at least the mean divided by this."""
CROSSING_SIGMAS: Final = 5.612
"""Q(5.612) = 10^-8."""
REGULAR_S_PER_MS: Final = (1.0 + CROSSING_SIGMAS / SIGMA_FRACTION) / 1000.0
"""The patience with a peer whose sigma is the least there is, per millisecond of its mean."""
SILENCE_S_MAX: Final = 2.5
"""However jittery: after so long without a beat a ping is the cheaper question."""
PATIENCE_S_MIN: Final = 1.7
"""However regular: nobody is silent sooner after a beat. Both floors together are 1.7015 s; this stays below them,
however floats are rounded."""
PHI_MAX: Final = 300.0
"""The tail of a double ends here."""


def phi_of(silent_s: float, mean_s: float, sigma_s: float) -> float:
    """How surprising a silence is: -log10 of the chance that a living peer is silent for longer."""
    tail = erfc((silent_s - mean_s) / (sigma_s * sqrt(2.0))) / 2.0
    return min(-log10(tail), PHI_MAX) if tail > 0.0 else PHI_MAX


def _prior() -> "array[int]":
    return array("H", [BEAT_MS] * PRIOR_COUNT)


@dataclass(slots=True)
class _Arrivals:
    """The beats of one peer; sums are of milliseconds, and exact."""

    last: Instant
    until: float | None = None
    """When it becomes silent; None: not calculated since its last beat."""
    window: "array[int]" = field(default_factory=_prior)
    """A ring once it is full: two bytes an interval, for a node keeps fifty of these and a simulated world 50,000."""
    oldest: int = 0
    """Where in the full ring the next interval goes."""
    total: int = BEAT_MS * PRIOR_COUNT
    squares: int = BEAT_MS * BEAT_MS * PRIOR_COUNT


class Detector:
    """The arrivals of every watched peer, and the earliest instant at which one of them becomes suspicious."""

    def __init__(self) -> None:
        self._arrivals: dict[NodeId, _Arrivals] = {}
        self._awaited: dict[NodeId, Instant] = {}
        """Those who are not silent, as far as we looked, and their last beats."""
        self.earliest = inf
        """No watched peer becomes silent before this; infinite if nobody is awaited."""

    def knows(self, node: NodeId) -> bool:
        """Whether beats of ``node`` are expected at all."""
        return node in self._arrivals

    def expect(self, node: NodeId, now: Instant) -> None:
        """A beat of ``node`` is due within the usual time, though none was heard yet."""
        arrivals = _Arrivals(Instant(-inf))
        arrivals.until = now + _patience_s(arrivals)
        self._arrivals[node] = arrivals
        self._awaited[node] = arrivals.last
        self.earliest = min(self.earliest, arrivals.until)

    def heard(self, node: NodeId, now: Instant) -> None:
        """A beat of ``node`` came; the first one makes it watched."""
        arrivals = self._arrivals.get(node)
        if arrivals is None:
            self._arrivals[node] = arrivals = _Arrivals(now)
        else:
            interval_s = now - arrivals.last
            if interval_s <= INTERVAL_S_MAX:
                _learn(arrivals, int(interval_s * 1000))
            arrivals.last = now
            arrivals.until = None
        self._awaited[node] = now
        if now + PATIENCE_S_MIN < self.earliest:
            self.earliest = min(self.earliest, _until(arrivals))

    def fell_silent(self, now: Instant) -> list[NodeId]:
        """Who became silent since the last look; each is named once, until it is heard again."""
        if now < self.earliest:
            return []
        silent, earliest = [], inf
        for node, last in self._awaited.items():
            if last + PATIENCE_S_MIN < earliest:
                until = _until(self._arrivals[node])
                if until <= now:
                    silent.append(node)
                elif until < earliest:
                    earliest = until
        for node in silent:
            del self._awaited[node]
        self.earliest = earliest
        return silent

    def is_silent(self, node: NodeId, now: Instant) -> bool:
        """Whether beats of ``node`` are overdue; so are those of a node never heard."""
        arrivals = self._arrivals.get(node)
        return arrivals is None or _until(arrivals) <= now

    def phi(self, node: NodeId, now: Instant) -> float:
        """How surprising the present silence of ``node`` is; 0 for a node never heard."""
        arrivals = self._arrivals.get(node)
        if arrivals is None:
            return 0.0
        mean_s, sigma_s = _shape(arrivals)
        return phi_of(now - arrivals.last, mean_s, sigma_s)

    def forget(self, node: NodeId) -> None:
        """``node`` is not watched any more, or begins a new life; its next beat is its first."""
        self._arrivals.pop(node, None)
        self._awaited.pop(node, None)


def _learn(arrivals: _Arrivals, interval_ms: int) -> None:
    window = arrivals.window
    if len(window) < WINDOW:
        window.append(interval_ms)
        arrivals.total += interval_ms
        arrivals.squares += interval_ms * interval_ms
        return
    place = arrivals.oldest
    oldest, window[place] = window[place], interval_ms
    arrivals.oldest = (place + 1) % WINDOW
    arrivals.total += interval_ms - oldest
    arrivals.squares += interval_ms * interval_ms - oldest * oldest


def _until(arrivals: _Arrivals) -> float:
    """When the peer becomes silent; whoever was never heard was told when it was first expected."""
    if arrivals.until is None:
        arrivals.until = arrivals.last + _patience_s(arrivals)
    return arrivals.until


def _patience_s(arrivals: _Arrivals) -> float:
    # Nearly every beat is a regular one.
    count, total = len(arrivals.window), arrivals.total
    mean_sum = max(total, BEAT_MS * count)
    spread = count * arrivals.squares - total * total
    if SIGMA_FRACTION * SIGMA_FRACTION * spread <= mean_sum * mean_sum:
        return min(mean_sum / count * REGULAR_S_PER_MS, SILENCE_S_MAX)
    mean_s, sigma_s = _shape(arrivals)
    return min(mean_s + CROSSING_SIGMAS * sigma_s, SILENCE_S_MAX)


def _shape(arrivals: _Arrivals) -> tuple[float, float]:
    """Mean and sigma in seconds, with their floors."""
    count, total = len(arrivals.window), arrivals.total
    mean_s = max(total / count, BEAT_MS) / 1000.0
    floor_s = mean_s / SIGMA_FRACTION
    spread = count * arrivals.squares - total * total
    return mean_s, max(sqrt(spread) / (1000.0 * count), floor_s)

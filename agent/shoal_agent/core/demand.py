"""What this node's own clients ask for: tokens, by deployment, as a rate that others can plan with.

A stage stands in line behind other sessions, so what a split costs depends on how much is asked of it (``crowding``).
Nobody sees that but the ingresses: each counts the tokens of the prompts it sends to stages and of the answers it gets,
tells the rate in its record, and everybody adds up what all ingresses tell. **Tokens and not sessions**: a session may
be ten tokens or ten thousand, and its work is that of its tokens.

*Over how long?* Requests come when they like, so ``n`` of them tell a rate to about one part in the root of n. The
window is the shortest that has ``ENOUGH`` of them, which is an eighth, but no shorter than ``WINDOW_S_MIN`` (a pause
between two bursts is no change) and no longer than ``WINDOW_S_MAX`` (what was before is over). So a busy ingress knows
its rate after a minute and a quiet one after a quarter of an hour; when clients stop coming the rate falls as one over
the time since. Fewer than ``TOKENS_MIN`` tokens in the window are no rate.

*What is not counted*: what is refused at the door is no work; what is run again after a loss was asked once.

What is told is rounded, and said again until it is a step away: a figure that trembles is no news, and a plan should
not be thought about anew for it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from shoal_protocol.ids import DeploymentId, Instant
from shoal_protocol.limits import DEMANDS_MAX, TOKENS_PER_KS_MAX
from shoal_protocol.measured import DemandMeasured

BUCKET_S: Final = 5.0
"""Requests are counted in so long pieces: an ingress keeps at most 180 of them, however many clients it has."""
WINDOW_S_MIN: Final = 60.0
WINDOW_S_MAX: Final = 900.0
ENOUGH: Final = 64
"""Requests in the window."""
TOKENS_MIN: Final = 512
"""A handful of short requests: whatever comes next need not be like them."""
STEP_BITS: Final = 4
"""What is told keeps so many bits after the first: steps of a sixteenth or less, finer than what is known."""


@dataclass(slots=True)
class _Bucket:
    """What was asked in the ``BUCKET_S`` from ``begun`` on."""

    begun: Instant
    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass(slots=True)
class _Asked:
    """One deployment: the newest bucket last, and what was said of it."""

    since: Instant
    buckets: deque[_Bucket] = field(default_factory=deque)
    prompt_said: int = 0
    answer_said: int = 0

    def bucket(self, now: Instant) -> _Bucket:
        """The one that is open."""
        if not self.buckets or now >= self.buckets[-1].begun + BUCKET_S:
            self.buckets.append(_Bucket(now))
        return self.buckets[-1]


class Demands:
    """All deployments that this node is an ingress of."""

    def __init__(self) -> None:
        self._asked: dict[DeploymentId, _Asked] = {}

    def began(self, deployment: DeploymentId, prompt_tokens: int, now: Instant) -> None:
        """A request with ``prompt_tokens`` goes to the stages."""
        bucket = self._asked.setdefault(deployment, _Asked(now)).bucket(now)
        bucket.requests += 1
        bucket.prompt_tokens += prompt_tokens

    def answered(self, deployment: DeploymentId, now: Instant) -> None:
        """A token came back."""
        self._asked.setdefault(deployment, _Asked(now)).bucket(now).answer_tokens += 1

    def measured(self, now: Instant) -> tuple[DemandMeasured, ...]:
        """What there is to tell, by deployment; of too many the greatest."""
        told = list(self._told(now))
        if len(told) > DEMANDS_MAX:
            told = sorted(told, key=lambda d: (-d.answer_tokens_per_ks, -d.prompt_tokens_per_ks, d.deployment))
        return tuple(sorted(told[:DEMANDS_MAX], key=lambda each: each.deployment))

    def _told(self, now: Instant) -> Iterator[DemandMeasured]:
        for name, asked in list(self._asked.items()):
            while asked.buckets and asked.buckets[0].begun < now - WINDOW_S_MAX:
                asked.buckets.popleft()
            if not asked.buckets:
                del self._asked[name]
                continue
            prompts, answers = _rates(asked, now)
            asked.prompt_said = _said(asked.prompt_said, prompts)
            asked.answer_said = _said(asked.answer_said, answers)
            if asked.prompt_said or asked.answer_said:
                yield DemandMeasured(name, asked.prompt_said, asked.answer_said)


def _rates(asked: _Asked, now: Instant) -> tuple[int, int]:
    """Tokens of prompts and of answers in a thousand seconds."""
    requests = prompts = answers = 0
    span_s = 0.0
    for bucket in reversed(asked.buckets):
        if span_s >= WINDOW_S_MIN and requests >= ENOUGH:
            break
        requests += bucket.requests
        prompts += bucket.prompt_tokens
        answers += bucket.answer_tokens
        span_s = now - bucket.begun
    if requests < ENOUGH:
        span_s = min(now - asked.since, WINDOW_S_MAX)
    if prompts + answers < TOKENS_MIN:
        return 0, 0
    span_s = max(span_s, WINDOW_S_MIN)
    return round(1000 * prompts / span_s), round(1000 * answers / span_s)


def _said(said: int, rate: int) -> int:
    """What is said now, if ``said`` was said last."""
    stays = rate > 0 and abs(rate - said) << STEP_BITS < said
    return said if stays else min(rounded(rate), TOKENS_PER_KS_MAX)


def rounded(rate: int) -> int:
    """``rate`` with STEP_BITS bits after the first, to the nearest."""
    drop = max(0, rate.bit_length() - 1 - STEP_BITS)
    return (rate + (1 << drop >> 1)) >> drop << drop

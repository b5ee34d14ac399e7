"""Can a request be done in time, with those that are under way? Asked once, when its prompt is known.

Stages work on different sessions at the same time, one run each. With n sessions under way, this one included, a token
takes the time of all stages while they wait for each other less than they work, else n times the slowest stage's::

    token_s = max(sum(single_s) + trip_s, n * max(single_s))
    done_s  = prompt * sum(chunked_s) + trip_s + answer * token_s

``trip_s`` is the way around, from the ingress through all stages and back, by measured links: no next token is asked
for before the last one is back. Where links were not measured it is nothing.

``answer`` is what the operator said an answer is (``Terms.answer_tokens``), or less if the client asked for less: few
answers are as long as they may be, and who refuses by the longest refuses nearly everybody.

If ``done_s`` is more than there is, the client is told when enough of the others should be over: sessions end at one in
``answer * max(single_s)``, which is how fast the slowest stage works them off. Refusing in time is kinder than failing
late: the answer would hold its KV to the deadline and be thrown away, and make all others late as well.
"""

from collections.abc import Sequence
from math import ceil
from typing import Final

from shoal_agent.core.resume import Speed

RETRY_S_MAX: Final = 60.0
"""A prediction over more than a minute is none."""


def done_s(others: int, prompt: int, answer: int, speeds: Sequence[Speed], trip_s: float = 0.0) -> float:
    """After how long the request is done beside ``others``."""
    slowest_s, alone_s = max(speed.single_s for speed in speeds), sum(speed.single_s for speed in speeds)
    return _prompt_s(prompt, speeds, trip_s) + answer * max(alone_s + trip_s, (others + 1) * slowest_s)


def _prompt_s(prompt: int, speeds: Sequence[Speed], trip_s: float) -> float:
    return prompt * sum(speed.chunked_s for speed in speeds) + trip_s


def late_s(
    others: int, prompt: int, answer: int, speeds: Sequence[Speed], left_s: float, trip_s: float = 0.0
) -> float | None:
    """After how long to ask again; None if the request is done within ``left_s`` beside ``others``."""
    if done_s(others, prompt, answer, speeds, trip_s) <= left_s:
        return None
    slowest_s, prompt_s = max(speed.single_s for speed in speeds), _prompt_s(prompt, speeds, trip_s)
    room = (left_s - prompt_s) / (answer * slowest_s) - 1 if slowest_s else 0.0
    too_many = max(1, ceil(others - max(0.0, room)))
    return min(RETRY_S_MAX, too_many * answer * slowest_s)

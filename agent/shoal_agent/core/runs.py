"""In which runs a session's positions were computed: the same again gives the same numbers.

A kernel rounds differently for 256 positions at once than for one after the other. So whatever is computed once more
must be computed in the very runs of the first time: the prompt in chunks, what was generated one by one. A prefill of
generated text (the last resort, see ``resume``) changes that for the positions it covers, and only those.

The runs are kept as segments (begin, step): from ``begin`` to the next segment's, in steps of ``step``, the last one
cut short. Two of them describe a session; each later prefill adds two at most.
"""

from collections.abc import Iterator
from typing import Final

from shoal_protocol.limits import PREFILL_CHUNK_TOKENS

STEP: Final = PREFILL_CHUNK_TOKENS
"""Positions of one run of a prompt."""


class Runs:
    """The runs of one session, as long as it may become."""

    def __init__(self, prompt_tokens: int, segments: tuple[tuple[int, int], ...] = ()) -> None:
        self._segments = segments or ((0, STEP), (prompt_tokens, 1))

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """As they are written down."""
        return self._segments

    def floor(self, position: int) -> int:
        """The start of the run that ``position`` is in."""
        begin, step = next(segment for segment in reversed(self._segments) if segment[0] <= position)
        return begin + (position - begin) // step * step

    def between(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """The runs from ``begin``, the start of one, to ``end``, where another one ends: starts and ends."""
        for index, (first, step) in enumerate(self._segments):
            limit = end if index + 1 == len(self._segments) else min(end, self._segments[index + 1][0])
            for start in range(max(first, begin), limit, step):
                yield start, min(start + step, limit)

    def amount(self, begin: int, end: int) -> tuple[int, int]:
        """What there is from ``begin`` to ``end``: positions run one by one, and positions run in chunks."""
        single = chunked = 0
        for index, (first, step) in enumerate(self._segments):
            limit = end if index + 1 == len(self._segments) else min(end, self._segments[index + 1][0])
            count = max(0, limit - max(first, begin))
            single, chunked = (single + count, chunked) if step == 1 else (single, chunked + count)
        return single, chunked

    def prefilled(self, begin: int, end: int) -> "Runs":
        """The runs after everything from ``begin`` to ``end`` was run anew in chunks, and what follows one by one."""
        kept = tuple(segment for segment in self._segments if segment[0] < begin)
        return Runs(0, (*kept, (begin, STEP), (end, 1)))

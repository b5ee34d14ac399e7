"""Whom to ask for a package, and a moment's patience of who has only just begun.

A node that was killed while it fetched begins its next life with the plan it had, before it has heard from anybody: it
asks for what it lacks, and names no source. The catalog would be a download and minutes of converting for what a
neighbour has, and would keep whatever is known a moment later from being asked. So who names nobody waits for a word
about that model that does, for ``patience_s``: brokers hand out what nodes say of themselves within a second.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from shoal_protocol.ids import Digest, NodeId

MODELS_MAX: Final = 64
"""Of so many models the last word is remembered: more than one node has plans of."""


class Sources:
    """What was said last of each model, and who waits for a word."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._known: dict[Digest, Sequence[NodeId]] = {}
        self._waiting: dict[asyncio.Future[Sequence[NodeId]], Digest] = {}

    def told(self, model: Digest, sources: Sequence[NodeId]) -> None:
        """These have the package of ``model``."""
        if not sources:
            return
        self._known.pop(model, None)
        self._known[model] = sources
        if len(self._known) > MODELS_MAX:
            del self._known[next(iter(self._known))]
        for waiting, wanted in self._waiting.items():
            if wanted == model and not waiting.done():
                waiting.set_result(sources)

    async def of(self, model: Digest, sources: Sequence[NodeId]) -> Sequence[NodeId]:
        """``sources``; if there are none, those named before or meanwhile, or none after all."""
        sources = sources or self._known.get(model, ())
        if sources or not self._patience_s:
            return sources
        waiting: asyncio.Future[Sequence[NodeId]] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = model
        try:
            async with asyncio.timeout(self._patience_s):
                return await waiting
        except TimeoutError:
            return sources
        finally:
            del self._waiting[waiting]

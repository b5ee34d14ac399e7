"""Whom to ask for a package, and a moment's patience of who has only just begun.

A node that was killed while it fetched begins its next life with the plan it had, before it has heard from anybody: it
asks for what it lacks, and names no source. The catalog would be a download and minutes of converting for what a
neighbour has, and would keep whatever is known a moment later from being asked. So who names nobody waits for a word
about that model that does, for ``patience_s``: brokers hand out what nodes say of themselves within a second.

Patience may end too soon: nobody tells a node of sources that hosts nothing any more, and a minute later it is to host
again. So a word is listened for while the catalog is at work, too, and whoever is named then is asked instead.
"""

import asyncio
from collections.abc import Container, Coroutine, Sequence
from typing import Any, Final

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
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._word(model)
        except TimeoutError:
            return sources

    async def unless_named(
        self, model: Digest, asked: Container[NodeId], work: Coroutine[Any, Any, None]
    ) -> Sequence[NodeId]:
        """Do ``work``, and name nobody; or leave it for whoever is named before it is done and is none of ``asked``."""
        working, named = asyncio.ensure_future(work), asyncio.ensure_future(self._beside(model, asked))
        try:
            await asyncio.wait({working, named}, return_when=asyncio.FIRST_COMPLETED)
            if named.done():
                return named.result()
            working.result()
            return ()
        finally:
            for each in (working, named):
                each.cancel()
            await asyncio.gather(working, named, return_exceptions=True)

    async def _beside(self, model: Digest, asked: Container[NodeId]) -> Sequence[NodeId]:
        """Wait until somebody is named who is none of ``asked``; who that is."""
        named = self._known.get(model, ())
        while not (others := [node for node in named if node not in asked]):
            named = await self._word(model)
        return others

    async def _word(self, model: Digest) -> Sequence[NodeId]:
        """Who is named next."""
        waiting: asyncio.Future[Sequence[NodeId]] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = model
        try:
            return await waiting
        finally:
            del self._waiting[waiting]

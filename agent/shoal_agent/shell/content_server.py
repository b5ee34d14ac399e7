"""Pieces for peers, out of the store: in turn by peer, at a bounded rate, and only when the link is free.

One piece is read and sent at a time; requests wait in a line per peer, and the lines are served in turn, so that a
peer that asks for much does not keep another one waiting. A request that would wait longer than ``CONTENT_WAIT_S_MAX``
is refused as busy at once: whoever asked knows others. Tokens are not disturbed: pieces are bulk to the data plane
(see ``links``), and reading happens off the loop.

What is served is not verified here; whoever receives it does that, with digests it trusts more than us.
"""

import asyncio
import os
from collections import deque
from functools import partial
from typing import Final

from shoal_agent.shell.content_orders import BUSY, CountContent, Offload, SendContent
from shoal_agent.shell.rate import Rate
from shoal_models.errors import ModelError
from shoal_models.package import Store
from shoal_models.pieces import PIECE_BYTES
from shoal_protocol.content import ContentKind, ContentRequested, ContentServed
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.limits import CONTENT_QUEUE_MAX, CONTENT_WAIT_S_MAX, REASON_CHARS_MAX

MANIFESTS_MAX: Final = 4
"""Encoded manifests kept while somebody asks for their pieces."""


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """Why there is no piece."""


class ContentServer:
    """Serves from ``store``; :meth:`run` is the one task of it."""

    def __init__(self, store: Store, send: SendContent, rate: Rate, offload: Offload, count: CountContent) -> None:
        self._store = store
        self._send = send
        self._rate = rate
        self._offload = offload
        self._count = count
        self._lines: dict[NodeId, deque[ContentRequested]] = {}
        self._bell = asyncio.Event()
        self._manifests: dict[Digest, bytes] = {}

    def asked(self, peer: NodeId, header: ContentRequested) -> None:
        """A peer wants a piece."""
        waiting = sum(len(line) for line in self._lines.values())
        wait_s = self._rate.wait_s(waiting * PIECE_BYTES, asyncio.get_running_loop().time())
        if wait_s > CONTENT_WAIT_S_MAX or waiting >= CONTENT_QUEUE_MAX:
            self._send(peer, ContentServed(header.call, 0, BUSY), None)
            return
        self._lines.setdefault(peer, deque()).append(header)
        self._bell.set()

    def lost(self, peer: NodeId) -> None:
        """It will not hear an answer."""
        self._lines.pop(peer, None)

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._bell.wait()
            if not self._lines:
                self._bell.clear()
                continue
            peer, line = next(iter(self._lines.items()))
            header = line.popleft()
            del self._lines[peer]
            if line:
                self._lines[peer] = line  # behind all others
            await self._serve(peer, header)

    async def _serve(self, peer: NodeId, header: ContentRequested) -> None:
        try:
            piece, total = await self._offload(partial(self._read, header))
        except (Refused, ModelError, OSError) as refusal:
            self._send(peer, ContentServed(header.call, 0, str(refusal)[:REASON_CHARS_MAX]), None)
            return
        await asyncio.sleep(self._rate.take(len(piece), asyncio.get_running_loop().time()))
        self._count("content_bytes", "out", len(piece))
        self._send(peer, ContentServed(header.call, total, ""), piece)

    def _read(self, header: ContentRequested) -> tuple[bytes, int]:
        """In a thread: the piece, and the size of the whole."""
        if header.byte_count > PIECE_BYTES:
            raise Refused(f"{header.byte_count} bytes at once, at most {PIECE_BYTES}")
        if header.content is ContentKind.MANIFEST:
            whole = self._manifest(header.digest)
            piece, total = whole[header.offset : header.offset + header.byte_count], len(whole)
        else:
            piece, total = self._blob(header)
        if not piece:
            raise Refused(f"it ends at byte {total}")
        return piece, total

    def _manifest(self, model: Digest) -> bytes:
        known = self._manifests.get(model)
        if known is None:
            known = self._store.find(model).encode()
            while len(self._manifests) >= MANIFESTS_MAX:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[model] = known
        return known

    def _blob(self, header: ContentRequested) -> tuple[bytes, int]:
        try:
            file = os.open(self._store.blob_path(header.digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Refused("not here") from None
        try:
            return os.pread(file, header.byte_count, header.offset), os.fstat(file).st_size
        finally:
            os.close(file)

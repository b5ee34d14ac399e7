"""Pieces of packages that nodes give each other.

    fetcher ── ContentRequested(digest, offset, byte_count) ──► holder ── ContentServed, and the piece ──► fetcher

Content is named by its digest and verified by whoever asked, piece by piece, against a manifest that hashes to the
model's digest: whom it comes from does not matter, and several can be asked at once. A connection's credit bounds what
is in flight; tokens overtake.
"""

from dataclasses import dataclass
from enum import IntEnum

from shoal_protocol.ids import Digest


class ContentKind(IntEnum):
    """What a peer may be asked for."""

    BLOB = 1
    MANIFEST = 2


@dataclass(frozen=True, slots=True)
class ContentRequested:
    """Send ``byte_count`` bytes from ``offset``; ``digest`` is a blob's own, or the model's whose manifest is meant."""

    call: int
    content: ContentKind
    digest: Digest
    offset: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class ContentServed:
    """The payload is the piece of ``call``; ``total_bytes`` of the whole. ``error`` says why there is none."""

    call: int
    total_bytes: int
    error: str


ContentHeader = ContentRequested | ContentServed
"""Frames about files, which never reach the core."""

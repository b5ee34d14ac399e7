"""A blob in pieces: what can be asked of several holders at once, and judged one by one.

A shard of gigabytes that is judged only when it is whole can be spoilt by one bad byte of one bad holder, and nobody
could tell which holder it was. So a manifest lists the digest of every piece of every blob that has more than one, and
the model's own digest covers that list: whoever has a verified manifest can take pieces from anybody, in any order,
and knows of each at once whether it is right. It is a hash tree of two levels; a deeper one would make the manifest
smaller (it grows by 1/4000 of the weights) and every piece's proof longer.

The last piece may be shorter. The digest of a blob of one piece is the blob's own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shoal_protocol.ids import Digest, digest_of
from shoal_protocol.limits import CONTENT_CHUNK_BYTES

PIECE_BYTES: Final = CONTENT_CHUNK_BYTES
"""A piece is what one frame carries, so that nothing unverified is ever put together."""


def piece_count(total_bytes: int) -> int:
    """Pieces of a blob."""
    return -(-total_bytes // PIECE_BYTES)


def piece_span(index: int, total_bytes: int) -> tuple[int, int]:
    """Offset and size of one piece."""
    offset = index * PIECE_BYTES
    return offset, min(PIECE_BYTES, total_bytes - offset)


def piece_digests(path: Path) -> tuple[Digest, ...]:
    """BLAKE2b-256 of every piece of a file, in order."""
    return tuple(digest_of(piece) for piece in _pieces(path))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece

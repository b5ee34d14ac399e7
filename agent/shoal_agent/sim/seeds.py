"""One root seed, many generators.

Every source of chance has a generator of its own, named by a path (``node/3``, ``network``, ``faults``), whose seed is

    BLAKE2b-128(root / path)

so a draw that is added in one place shifts nothing anywhere else: a failing seed stays the same failing world while
the code around it changes. Python's own ``hash`` takes no part: it differs from process to process.
"""

import hashlib
from random import Random

_SEED_BYTES = 16


def generator(root: int, *path: str | int) -> Random:
    """The generator that ``path`` names in the world of ``root``."""
    name = "/".join(str(part) for part in (root, *path))
    return Random(seed_bytes(name))  # noqa: S311 - chance in a world that must be repeatable, not a secret


def seed_bytes(name: str) -> bytes:
    """16 bytes that ``name`` alone decides."""
    return hashlib.blake2b(name.encode(), digest_size=_SEED_BYTES).digest()

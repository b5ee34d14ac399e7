"""What can go wrong with a model, and what to do about it.

::

    ModelError
    ├── UnreadableModel      a source file that is truncated, garbage, or contradicts itself
    ├── UnsupportedModel     a sound source file with something in it we do not convert; every such thing is named
    ├── ManifestInvalid      bytes that are no manifest; every fault with its path
    ├── PackageNotFound      no package of that name in the store
    ├── CorruptShard         a stored blob that is not what its digest says; names block, expected and found
    ├── StoreBusy            another process is writing to the store
    ├── StoreFull            the disk has no room; nothing half-written was left
    ├── CatalogInvalid       no such catalog entry, or one that is malformed
    └── FetchFailed          a download that did not succeed; what was received is kept and continued next time

Each message is one sentence that names the thing and, where there is one, the next step.
"""

from shoal_protocol.ids import Digest


class ModelError(Exception):
    """Anything this package raises about what it was given."""


class UnreadableModel(ModelError):  # noqa: N818 - the tree above is the naming
    """The source is damaged."""


class UnsupportedModel(ModelError):  # noqa: N818 - the tree above is the naming
    """The source is sound but holds something we refuse to guess about. ``things`` are all of them, by name."""

    def __init__(self, what: str, things: tuple[str, ...] = ()) -> None:
        super().__init__(": ".join((what, ", ".join(things))) if things else what)
        self.things = things


class ManifestInvalid(ModelError):  # noqa: N818 - the tree above is the naming
    """``faults`` are (path, complaint), all of them."""

    def __init__(self, faults: tuple[tuple[str, str], ...]) -> None:
        lines = "; ".join(f"{path}: {complaint}" for path, complaint in faults)
        super().__init__(f"invalid manifest: {lines}")
        self.faults = faults


class PackageNotFound(ModelError):  # noqa: N818 - the tree above is the naming
    """No such package here."""


class CorruptShard(ModelError):  # noqa: N818 - the tree above is the naming
    """``block`` needs the blob ``expected``; the file holds something else (``found`` None: there is no file)."""

    def __init__(self, block: str, expected: Digest, found: Digest | None, problem: str) -> None:
        seen = found.hex() if found is not None else "nothing"
        super().__init__(f"block {block}: {problem}: expected {expected.hex()}, found {seen}; import the model again")
        self.block = block
        self.expected = expected
        self.found = found


class StoreBusy(ModelError):  # noqa: N818 - the tree above is the naming
    """Another import or removal is at work in the same store."""


class StoreFull(ModelError):  # noqa: N818 - the tree above is the naming
    """No room left on the disk."""


class CatalogInvalid(ModelError):  # noqa: N818 - the tree above is the naming
    """A catalog entry that is not there or not well formed."""


class FetchFailed(ModelError):  # noqa: N818 - the tree above is the naming
    """A download that did not succeed."""

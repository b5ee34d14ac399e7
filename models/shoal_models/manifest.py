"""The manifest: all that is known of a package, in one canonical text, and the digest that names the model.

A model is a chain of blocks cut at *necks*, the values through which every path goes (here: the residual stream).
The manifest says for each block which graph runs it, which shards it needs, what goes in and out by name, which
inputs and outputs are state that stays on the host (the KV cache), and what it costs. The weights are elsewhere;
the manifest of a 30-layer model is about 60 KB.

Canonical form: JSON with sorted keys, no spaces, ASCII. ``parse`` refuses bytes that are not exactly what ``encode``
would write, so that equal models have equal digests and nothing hides in whitespace. Shapes are symbolic: an integer
is fixed, a name (``tokens``, ``capacity``) is filled in when the block runs.

*What the digest covers*: everything that decides what the model answers, and nothing that was measured. Two machines
that convert one source with one converter measure different costs, and yet hold the same model: a plan that one
proposes must find the other. So the digest is BLAKE2b-256 of the canonical form without ``cost``, ``certificates``,
``shortcuts`` and ``reference_macs_per_s``, which stay in the file.

Whoever has a manifest from somebody else can therefore verify by its digest every name, shape, graph, shard and piece
of one, but not its measurements: those are the sender's word, and bounded. Costs weigh in a planner and nowhere else,
so a lie costs a bad balance. Certificates and shortcuts count only where an operator allows some loss, and each node
goes by its own: a lie then costs more of the quality than was allowed. Who does not trust the sender measures again.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from shoal_models.errors import ManifestInvalid
from shoal_models.pieces import piece_count
from shoal_protocol.ids import DIGEST_BYTES, Digest, digest_of
from shoal_protocol.limits import (
    BLOCK_US_MAX,
    BLOCKS_MAX,
    LOSS_MICRONATS_MAX,
    MACS_PER_S_MAX,
    MANIFEST_BYTES_MAX,
    SHARDS_PER_BLOCK_MAX,
    SHORTCUTS_MAX,
    TENSOR_RANK_MAX,
    TEXT_BYTES_MAX,
)
from shoal_protocol.widths import GROUP_VALUES

FORMAT_VERSION: Final = 1

Hex = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{2 * DIGEST_BYTES}}}$")]
Text = Annotated[str, Field(min_length=1, max_length=TEXT_BYTES_MAX)]
Positive = Annotated[int, Field(gt=0, lt=2**63)]
Natural = Annotated[int, Field(ge=0, lt=2**63)]
Microseconds = Annotated[int, Field(gt=0, le=BLOCK_US_MAX)]
Dimension = Annotated[int, Field(gt=0, lt=2**31)] | Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
Shape = Annotated[tuple[Dimension, ...], Field(max_length=TENSOR_RANK_MAX)]
ElementType = Literal["f32", "f16", "i64", "i32", "u8", "i8"]
Numeric = Literal["int8", "fp32", "int4"]

NarrowWidth = Literal["f16", "i8x32", "i8"]

_MEASURED: Final[dict[str, Any]] = {
    "reference_macs_per_s": True,
    "boundary": {"certificates": True},
    "shortcuts": True,
    "blocks": {"__all__": {"cost": True}},
}
"""What differs between two imports of one source, and is no part of the model's name."""


class _Record(BaseModel):
    """Every part of a manifest: strict, frozen, nothing unknown."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class BlobRef(_Record):
    """A blob of the store: BLAKE2b-256 in hexadecimal, and its size."""

    digest: Hex
    bytes: Positive

    @property
    def id(self) -> Digest:
        return Digest(bytes.fromhex(self.digest))


class Port(_Record):
    """One input or output of a block's graph."""

    name: Text
    dtype: ElementType
    shape: Shape


class StatePair(_Record):
    """State that stays on the host: the graph reads ``past`` and writes ``present``; one buffer is bound to both."""

    past: Text
    present: Text
    dtype: ElementType
    shape: Shape


class Cost(_Record):
    """Measured microseconds of one run, on a device of ``reference_macs_per_s``. No part of the digest."""

    decode_us: Microseconds
    """1 token."""
    prefill_us: Microseconds
    """``costs.PREFILL_TOKENS`` tokens."""


class Block(_Record):
    """The smallest unit that is hosted, moved and fetched."""

    name: Text
    kind: Literal["embed", "layer", "head"]
    graph: BlobRef
    shards: Annotated[tuple[BlobRef, ...], Field(min_length=1, max_length=SHARDS_PER_BLOCK_MAX)]
    inputs: Annotated[tuple[Port, ...], Field(min_length=1)]
    """Without state. The first is what the block before hands over (token ids for the first block)."""
    outputs: Annotated[tuple[Port, ...], Field(min_length=1)]
    """Without state. The first is what the next block takes."""
    state: tuple[StatePair, ...]
    kv_bytes_per_token: Natural
    cost: Cost

    @property
    def shard_bytes(self) -> int:
        """Weight of the block alone: shards shared with other blocks count in each."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """Everything a host must have to open the block: its graph first."""
        return (self.graph, *self.shards)


class Pieces(_Record):
    """The digests of the pieces of one blob, in order; see ``pieces``."""

    blob: Hex
    digests: Annotated[tuple[Hex, ...], Field(min_length=2)]


class Certificate(_Record):
    """A narrower width in which a boundary may travel, and what one such cut costs; see ``certify``."""

    width: NarrowWidth
    loss_micronats: Annotated[int, Field(gt=0, le=LOSS_MICRONATS_MAX)]
    """KL to the answers of the model as it is. Never 0: who allows no loss gets no narrow width."""


class Shortcut(_Record):
    """A run of blocks that an answer may do without, and what that costs and saves; see ``shortcuts``."""

    first_block: Annotated[int, Field(gt=0, lt=BLOCKS_MAX)]
    last_block: Annotated[int, Field(gt=0, lt=BLOCKS_MAX)]
    loss_micronats: Annotated[int, Field(gt=0, le=LOSS_MICRONATS_MAX)]
    """KL to the answers of the model as it is."""
    agreement_permille: Annotated[int, Field(ge=0, le=1000)]
    """Positions whose most likely token is the same."""
    saved_permille: Annotated[int, Field(ge=0, lt=1000)]
    """Of the work of one token, by the measured costs."""


class Boundary(_Record):
    """The neck between any two neighbouring blocks."""

    dtype: ElementType
    shape: Shape
    bytes_per_token: Positive
    certified_widths: Annotated[tuple[Literal["f32", "f16", "i8"], ...], Field(min_length=1)]
    """Element types in which this value may travel as it is."""
    certificates: tuple[Certificate, ...] = ()
    """Narrower widths, as they were measured. No part of the digest; none in packages from before they were."""

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A package without certificates reads as it always did."""
        tree: dict[str, Any] = handler(self)
        if not tree.get("certificates", True):
            del tree["certificates"]
        return tree


class Dimensions(_Record):
    """The sizes of the network."""

    hidden: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    feed_forward: Positive
    vocabulary: Positive


class SpecialTokens(_Record):
    """``bos`` opens a text (None: the model wants none), each of ``eos`` ends a turn."""

    bos: Natural | None
    eos: tuple[Natural, ...]


class Source(_Record):
    """Where the weights came from."""

    format: Literal["gguf"]
    sha256: Hex


class Manifest(_Record):
    """One package. ``digest`` is the model's name everywhere."""

    format: Literal["shoal-model"]
    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    architecture: Literal["llama"]
    numeric: Numeric
    licence: Text
    source: Source
    dimensions: Dimensions
    context_tokens_max: Positive
    reference_macs_per_s: Annotated[int, Field(gt=0, le=MACS_PER_S_MAX)]
    boundary: Boundary
    blocks: Annotated[tuple[Block, ...], Field(min_length=3, max_length=BLOCKS_MAX)]
    tokenizer: BlobRef
    chat_template: BlobRef | None
    special_tokens: SpecialTokens
    piece_bytes: Literal[262144]
    pieces: tuple[Pieces, ...]
    """Of every blob that is larger than one piece, in the order of ``blobs``."""
    shortcuts: Annotated[tuple[Shortcut, ...], Field(max_length=SHORTCUTS_MAX)] = ()
    """As they were measured, the shortest first. No part of the digest; none in packages from before they were."""

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A package without shortcuts reads as it always did."""
        tree: dict[str, Any] = handler(self)
        if not tree.get("shortcuts", True):
            del tree["shortcuts"]
        return tree

    @property
    def digest(self) -> Digest:
        """Of everything but the measurements."""
        return digest_of(_canonical(self.model_dump(mode="json", exclude=_MEASURED)))

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """Every blob of the package once, in a fixed order."""
        texts = (self.tokenizer, *([self.chat_template] if self.chat_template is not None else []))
        refs = [ref for block in self.blocks for ref in block.blobs]
        return tuple({ref.digest: ref for ref in (*refs, *texts)}.values())

    @property
    def texts(self) -> tuple[BlobRef, ...]:
        """What a node must have to plan for the model and to serve it light services: every blob but the weights."""
        weights = {shard.digest for block in self.blocks for shard in block.shards}
        return tuple(ref for ref in self.blobs if ref.digest not in weights)

    def piece_digests(self, ref: BlobRef) -> tuple[Digest, ...]:
        """The digests of the pieces of one of :attr:`blobs`."""
        listed = next((each.digests for each in self.pieces if each.blob == ref.digest), (ref.digest,))
        return tuple(Digest(bytes.fromhex(digest)) for digest in listed)

    @property
    def package_bytes(self) -> int:
        """What the package takes on disk, its manifest apart."""
        return sum(ref.bytes for ref in self.blobs)

    def encode(self) -> bytes:
        """The canonical bytes."""
        return _canonical(self.model_dump(mode="json"))

    @staticmethod
    def parse(data: bytes) -> "Manifest":
        """The manifest in ``data``. ManifestInvalid lists every fault with its path."""
        if len(data) > MANIFEST_BYTES_MAX:
            raise ManifestInvalid((("", f"{len(data)} bytes are more than {MANIFEST_BYTES_MAX}"),))
        try:
            tree: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ManifestInvalid((("", f"not JSON: {error}"),)) from None
        try:
            manifest = Manifest.model_validate_json(data)
        except ValidationError as error:
            faults = tuple((_path(fault["loc"]), fault["msg"]) for fault in error.errors(include_url=False))
            raise ManifestInvalid(faults) from None
        contradictions = tuple(_contradictions(manifest))
        if contradictions:
            raise ManifestInvalid(contradictions)
        if _canonical(tree) != data or manifest.encode() != data:
            raise ManifestInvalid((("", "not in canonical form (sorted keys, no spaces, no repeated keys)"),))
        return manifest


def _canonical(tree: object) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _contradictions(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Faults between fields that are each well formed."""
    blocks = manifest.blocks
    kinds = ["embed", *["layer"] * (len(blocks) - 2), "head"]
    for index, (block, kind) in enumerate(zip(blocks, kinds, strict=True)):
        if block.kind != kind:
            yield f"blocks.{index}.kind", f"a chain is embed, layers, head: expected {kind}, found {block.kind}"
        yield from _block_contradictions(f"blocks.{index}", block)
    for index, (left, right) in enumerate(pairwise(blocks)):
        if (left.outputs[0].dtype, left.outputs[0].shape) != (right.inputs[0].dtype, right.inputs[0].shape):
            yield f"blocks.{index}.outputs.0", f"is not what blocks.{index + 1} takes"
    if (blocks[0].outputs[0].dtype, blocks[0].outputs[0].shape) != (manifest.boundary.dtype, manifest.boundary.shape):
        yield "boundary", "is not what blocks.0 gives"
    narrow = [certificate.width for certificate in manifest.boundary.certificates]
    if len(set(narrow)) != len(narrow):
        yield "boundary.certificates", "one width is certified twice"
    if "i8x32" in narrow and manifest.dimensions.hidden % GROUP_VALUES:
        yield "boundary.certificates", f"i8x32 takes a multiple of {GROUP_VALUES} values"
    runs = [(each.first_block, each.last_block) for each in manifest.shortcuts]
    if len(set(runs)) != len(runs):
        yield "shortcuts", "one run of blocks is listed twice"
    for index, (first, last) in enumerate(runs):
        if not first <= last < len(blocks) - 1:
            yield f"shortcuts.{index}", f"blocks {first}-{last} are no run of layers"
    if manifest.dimensions.heads % manifest.dimensions.kv_heads:
        yield "dimensions.kv_heads", "does not divide heads"
    names = [block.name for block in blocks]
    if len(set(names)) != len(names):
        yield "blocks", "two blocks have the same name"
    sizes = {ref.digest: ref.bytes for ref in manifest.blobs}
    if any(sizes[ref.digest] != ref.bytes for block in blocks for ref in block.blobs):
        yield "blocks", "one blob is given two sizes"
    listed = [(each.blob, len(each.digests)) for each in manifest.pieces]
    counts = ((ref.digest, piece_count(ref.bytes)) for ref in manifest.blobs)
    if listed != [(digest, count) for digest, count in counts if count > 1]:
        yield "pieces", "are not those of the blobs"
    special = (*manifest.special_tokens.eos, manifest.special_tokens.bos or 0)
    if max(special) >= manifest.dimensions.vocabulary:
        yield "special_tokens", "a token lies outside the vocabulary"


def _block_contradictions(path: str, block: Block) -> Iterator[tuple[str, str]]:
    names = [port.name for port in (*block.inputs, *block.outputs)]
    names += [name for pair in block.state for name in (pair.past, pair.present)]
    if len(set(names)) != len(names):
        yield path, "two inputs, outputs or states have the same name"
    if bool(block.state) != bool(block.kv_bytes_per_token):
        yield f"{path}.kv_bytes_per_token", "is zero exactly when there is no state"

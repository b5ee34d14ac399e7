"""From a model file to a package: read, convert block by block, measure, publish.

Atomic: blobs are written first, the manifest last, all under the store's lock. Whatever ends an import early (a full
disk, Ctrl-C, a tensor type we refuse) leaves the store as it was; a crash leaves blobs that the next writer deletes.
At most one block is in memory at a time besides the mapped file.

One source and one converter give one digest, whoever converts: no clock, no order of a hash table and no processor's
own arithmetic enters a blob (see ``portable_math``), and what is measured is not part of the name (see ``manifest``).
The converter includes the libraries that write the graph and the tokenizer: ``constraints.txt`` names their versions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shoal_models.blocks import BuiltBlock, build_embed, build_head, build_layer, neck, store_shared
from shoal_models.certify import certify
from shoal_models.costs import measure_costs
from shoal_models.durable import file_sha256
from shoal_models.importers.gguf import read_llama
from shoal_models.importers.gguf_file import Value, read_gguf
from shoal_models.llama import LlamaShape, LlamaSource
from shoal_models.manifest import Block, Boundary, Certificate, Cost, Dimensions, Manifest, Numeric, Pieces, Source
from shoal_models.package import Store
from shoal_models.pieces import PIECE_BYTES, piece_count, piece_digests
from shoal_models.ports import BlockRunner, BlockSession, Clock, Progress
from shoal_models.shortcuts import certify_shortcuts
from shoal_models.tokenizer import read_text_interface
from shoal_protocol.ids import parse_deployment_id
from shoal_protocol.limits import GRAPH_BYTES_MAX, TEXT_BYTES_MAX, TOKENIZER_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Measurement:
    """Who runs blocks on this machine, and how fast it is by the micro-benchmark every node publishes of itself."""

    runner: BlockRunner
    clock_ns: Clock
    macs_per_s: Callable[[], int]


@dataclass(frozen=True, slots=True)
class _Once:
    """Opens each block once, for all that measure."""

    runner: BlockRunner
    opened: dict[bytes, BlockSession] = field(default_factory=dict)

    def open(self, graph: bytes, blobs: Path) -> BlockSession:
        """The block of ``graph``, opened."""
        if graph not in self.opened:
            self.opened[graph] = self.runner.open(graph, blobs)
        return self.opened[graph]


def import_gguf(
    path: Path,
    store: Store,
    name: str,
    numeric: Numeric,
    licence: str | None,
    measurement: Measurement,
    progress: Progress,
) -> Manifest:
    """Convert ``path`` into the package ``name`` of ``store``, replacing one of that name.

    ``licence`` None: what the file itself says, or "unknown".
    Raises UnreadableModel, UnsupportedModel, StoreFull, StoreBusy, MalformedMessage (a bad name), OSError.
    """
    parse_deployment_id(name)
    progress("file read", 0, 1)
    file = read_gguf(path)
    source = read_llama(file)
    text = read_text_interface(file.fields, source.shape.vocabulary)
    assert len(text.tokenizer_json) <= TOKENIZER_BYTES_MAX, "a tokenizer we wrote is one we would read"
    source_sha256 = file_sha256(path)
    progress("file read", 1, 1)
    with store.exclusive():
        tokenizer = store.put(text.tokenizer_json)
        template = None if text.chat_template is None else store.put(text.chat_template.encode())
        built = _convert(store, source, numeric, progress)
        context = source.shape.context_tokens_max
        once = _Once(measurement.runner)
        costs = measure_costs(built, store.blobs, context, once, measurement.clock_ns, progress)
        certificates = certify(built, store.blobs, text.tokenizer_json, context, once, progress)
        shortcuts = certify_shortcuts(built, costs, store.blobs, text.tokenizer_json, context, once, progress)
        manifest = Manifest(
            format="shoal-model",
            version=1,
            name=name,
            architecture="llama",
            numeric=numeric,
            licence=licence or _stated_licence(file.fields),
            source=Source(format="gguf", sha256=source_sha256),
            dimensions=_dimensions(source.shape),
            context_tokens_max=context,
            reference_macs_per_s=measurement.macs_per_s(),
            boundary=_boundary(source.shape, certificates),
            blocks=tuple(_stored(store, block, cost) for block, cost in zip(built, costs, strict=True)),
            tokenizer=tokenizer,
            chat_template=template,
            special_tokens=text.special_tokens,
            piece_bytes=PIECE_BYTES,
            pieces=(),
            shortcuts=shortcuts,
        )
        manifest = manifest.model_copy(update={"pieces": _pieces(store, manifest)})
        store.publish(manifest)
    return manifest


def _pieces(store: Store, manifest: Manifest) -> tuple[Pieces, ...]:
    """The pieces of every blob that has several."""
    several = [ref for ref in manifest.blobs if piece_count(ref.bytes) > 1]
    digests = [piece_digests(store.blob_path(ref.id)) for ref in several]
    return tuple(
        Pieces(blob=ref.digest, digests=tuple(digest.hex() for digest in listed))
        for ref, listed in zip(several, digests, strict=True)
    )


def _stated_licence(fields: Mapping[str, Value]) -> str:
    stated = fields.get("general.license")
    return stated if isinstance(stated, str) and 0 < len(stated) <= TEXT_BYTES_MAX else "unknown"


def _convert(store: Store, source: LlamaSource, numeric: Numeric, progress: Progress) -> tuple[BuiltBlock, ...]:
    total = source.shape.layers + 2
    shared = store_shared(store, source, numeric)
    built = [build_embed(source.shape, shared)]
    progress("blocks converted", len(built), total)
    for index in range(source.shape.layers):
        built.append(build_layer(store, source, index, shared, numeric))
        progress("blocks converted", len(built), total)
    built.append(build_head(store, source, shared, numeric))
    progress("blocks converted", len(built), total)
    return tuple(built)


def _stored(store: Store, block: BuiltBlock, cost: Cost) -> Block:
    assert len(block.graph) <= GRAPH_BYTES_MAX, "a graph we wrote is one we would read"
    return Block(
        name=block.name,
        kind=block.kind,
        graph=store.put(block.graph),
        shards=tuple(shard.ref for shard in block.shards),
        inputs=block.inputs,
        outputs=block.outputs,
        state=block.state,
        kv_bytes_per_token=block.kv_bytes_per_token,
        cost=cost,
    )


def _dimensions(shape: LlamaShape) -> Dimensions:
    return Dimensions(
        hidden=shape.hidden,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        feed_forward=shape.feed_forward,
        vocabulary=shape.vocabulary,
    )


def _boundary(shape: LlamaShape, certificates: tuple[Certificate, ...]) -> Boundary:
    port = neck("hidden", shape)
    return Boundary(
        dtype=port.dtype,
        shape=port.shape,
        bytes_per_token=4 * shape.hidden,
        certified_widths=("f32",),
        certificates=certificates,
    )

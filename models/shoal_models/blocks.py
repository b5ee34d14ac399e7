"""The blocks of a llama-family network: embed, one per layer, head.

::

    embed   input_ids -> hidden
    layer   hidden, seqlens_k, total_sequence_length, past_key, past_value -> hidden_out, present_key, present_value
    head    hidden -> logits of the last position

Every neck is the residual stream, float32 [1, tokens, hidden]. A layer's past and present are one buffer of
``capacity`` positions: ``GroupQueryAttention`` writes the new positions in place. The rotation tables (2 MB for a
context of 8192) are one shard that all layers name; a tied token table is one shard that embed and head name.

The token table and the output rows stay at 8 bits when the layers are at 4: they decide the distribution directly.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from shoal_models.graph import BLOCK_SIZE, BlockGraph
from shoal_models.llama import LlamaLayer, LlamaShape, LlamaSource, rotation_tables
from shoal_models.manifest import Numeric, Port, StatePair
from shoal_models.package import Store
from shoal_models.ports import Array
from shoal_models.quantize import quantize_rows
from shoal_models.shards import Shard, store_shard
from shoal_models.source_tensors import SourceTensor

_LAYER_BITS: Final[dict[Numeric, int]] = {"int8": 8, "int4": 4}
_TABLE_BITS: Final = 8
_F32_BYTES: Final = 4
_TABLE: Final = "token_table"
_OUTPUT: Final = "output"


@dataclass(frozen=True, slots=True)
class BuiltBlock:
    """A block whose shards are stored and whose graph is ready to be."""

    name: str
    kind: Literal["embed", "layer", "head"]
    graph: bytes
    shards: tuple[Shard, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    state: tuple[StatePair, ...]
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class SharedShards:
    """What several blocks refer to."""

    token_table: Shard
    rotation: Shard


def store_shared(store: Store, source: LlamaSource, numeric: Numeric) -> SharedShards:
    """Store the token table and the rotation tables."""
    cosines, sines = rotation_tables(source)
    rotation = store_shard(store, {"rotation.cosines": cosines, "rotation.sines": sines})
    if numeric == "fp32":
        table: dict[str, Array] = {f"{_TABLE}.weight": source.token_table.dequantize()}
    else:
        table = _quantized(_TABLE, (source.token_table,), _TABLE_BITS)
    return SharedShards(store_shard(store, table), rotation)


def build_embed(shape: LlamaShape, shared: SharedShards) -> BuiltBlock:
    """Token ids to the first neck."""
    graph, table = BlockGraph(), shared.token_table
    if f"{_TABLE}.weight" in table.tensors:
        graph.node("Gather", [graph.weight(table, f"{_TABLE}.weight"), "input_ids"], "hidden", axis=0)
    else:
        codes = graph.weight(table, f"{_TABLE}.codes", (shape.vocabulary, shape.hidden))
        inputs = [codes, "input_ids", graph.weight(table, f"{_TABLE}.scales")]
        graph.fused(
            "GatherBlockQuantized", inputs, "hidden", bits=8, block_size=BLOCK_SIZE, gather_axis=0, quantize_axis=1
        )
    inputs_ = (Port(name="input_ids", dtype="i64", shape=(1, "tokens")),)
    outputs = (neck("hidden", shape),)
    return BuiltBlock(
        "embed", "embed", graph.serialize("embed", inputs_, outputs, ()), (table,), inputs_, outputs, (), 0
    )


def build_layer(store: Store, source: LlamaSource, index: int, shared: SharedShards, numeric: Numeric) -> BuiltBlock:
    """Layer ``index``: neck to neck, with its keys and values kept on the host."""
    shape = source.shape
    shard = store_shard(store, _layer_tensors(source.layers[index], numeric))
    graph = _layer_graph(shape, shard, shared.rotation)
    inputs = (
        neck("hidden", shape),
        Port(name="seqlens_k", dtype="i32", shape=(1,)),
        Port(name="total_sequence_length", dtype="i32", shape=()),
    )
    outputs = (neck("hidden_out", shape),)
    kv_shape = (1, shape.kv_heads, "capacity", shape.head_dim)
    state = tuple(
        StatePair(past=f"past_{part}", present=f"present_{part}", dtype="f32", shape=kv_shape)
        for part in ("key", "value")
    )
    kv_bytes = len(state) * shape.kv_heads * shape.head_dim * _F32_BYTES
    name = f"layer.{index}"
    data = graph.serialize("layer", inputs, outputs, state)
    return BuiltBlock(name, "layer", data, (shard, shared.rotation), inputs, outputs, state, kv_bytes)


def build_head(store: Store, source: LlamaSource, shared: SharedShards, numeric: Numeric) -> BuiltBlock:
    """The last neck to the logits of its last position."""
    shape = source.shape
    tensors: dict[str, Array] = {"norm.weight": source.output_norm.dequantize()[0]}
    if source.output is not None:
        tensors |= _linear(_OUTPUT, (source.output,), numeric, _TABLE_BITS)
    own = store_shard(store, tensors)
    graph = BlockGraph()
    last = graph.last_position("hidden", "last")
    normed = graph.rms_norm(own, "norm", last, "normed", shape.rms_epsilon)
    if source.output is not None:
        graph.linear(own, _OUTPUT, normed, "logits")
    elif f"{_TABLE}.weight" in shared.token_table.tensors:
        _tied_product(graph, shared.token_table, normed, shape)
    else:
        graph.linear(shared.token_table, _TABLE, normed, "logits")
    shards = (own,) if source.output is not None else (own, shared.token_table)
    inputs = (neck("hidden", shape),)
    outputs = (Port(name="logits", dtype="f32", shape=(1, 1, shape.vocabulary)),)
    return BuiltBlock("head", "head", graph.serialize("head", inputs, outputs, ()), shards, inputs, outputs, (), 0)


def neck(name: str, shape: LlamaShape) -> Port:
    """The residual stream under ``name``."""
    return Port(name=name, dtype="f32", shape=(1, "tokens", shape.hidden))


def _layer_graph(shape: LlamaShape, shard: Shard, rotation: Shard) -> BlockGraph:
    graph, epsilon = BlockGraph(), shape.rms_epsilon
    normed = graph.rms_norm(shard, "attention_norm", "hidden", "attention_normed", epsilon)
    qkv = graph.linear(shard, "qkv", normed, "qkv")
    attended = graph.fused(
        "GroupQueryAttention",
        [
            *(qkv, "", "", "past_key", "past_value", "seqlens_k", "total_sequence_length"),
            graph.weight(rotation, "rotation.cosines"),
            graph.weight(rotation, "rotation.sines"),
        ],
        "attended",
        "present_key",
        "present_value",
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        scale=float(1 / np.sqrt(shape.head_dim)),
        do_rotary=1,
        rotary_interleaved=0,
    )
    mixed = graph.linear(shard, "attention_output", attended, "mixed")
    middle = graph.node("Add", ["hidden", mixed], "middle")
    normed = graph.rms_norm(shard, "feed_forward_norm", middle, "feed_forward_normed", epsilon)
    gate = graph.linear(shard, "gate", normed, "gate")
    up = graph.linear(shard, "up", normed, "up")
    silu = graph.node("Mul", [gate, graph.node("Sigmoid", [gate], "gate_sigmoid")], "silu")
    down = graph.linear(shard, "down", graph.node("Mul", [silu, up], "gated"), "down")
    graph.node("Add", [middle, down], "hidden_out")
    return graph


def _layer_tensors(layer: LlamaLayer, numeric: Numeric) -> dict[str, Array]:
    """All weights of a layer by their names in the graph; one product serves query, key and value."""
    bits = _LAYER_BITS.get(numeric, 0)
    return {
        "attention_norm.weight": layer.attention_norm.dequantize()[0],
        **_linear("qkv", (layer.query, layer.key, layer.value), numeric, bits),
        **_linear("attention_output", (layer.attention_output,), numeric, bits),
        "feed_forward_norm.weight": layer.feed_forward_norm.dequantize()[0],
        **_linear("gate", (layer.gate,), numeric, bits),
        **_linear("up", (layer.up,), numeric, bits),
        **_linear("down", (layer.down,), numeric, bits),
    }


def _linear(key: str, tensors: tuple[SourceTensor, ...], numeric: Numeric, bits: int) -> dict[str, Array]:
    if numeric == "fp32":
        return {f"{key}.weight": np.concatenate([tensor.dequantize() for tensor in tensors]).T}
    return _quantized(key, tensors, bits)


def _quantized(key: str, tensors: tuple[SourceTensor, ...], bits: int) -> dict[str, Array]:
    rows = quantize_rows(tensors, bits)
    parts: dict[str, Array] = {f"{key}.codes": rows.codes, f"{key}.scales": rows.scales}
    if rows.zero_points is not None:
        parts[f"{key}.zero_points"] = rows.zero_points
    return parts


def _tied_product(graph: BlockGraph, table: Shard, value: str, shape: LlamaShape) -> None:
    """Logits from the token table as it lies: ``Gemm`` can transpose, ``MatMul`` would need a second copy."""
    rows = graph.node("Reshape", [value, graph.constant("as_row", np.array([1, shape.hidden], np.int64))], "row")
    product = graph.node("Gemm", [rows, graph.weight(table, f"{_TABLE}.weight")], "row_logits", transB=1)
    whole = graph.constant("as_logits", np.array([1, 1, shape.vocabulary], np.int64))
    graph.node("Reshape", [product, whole], "logits")

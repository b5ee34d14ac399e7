"""GGUF files of the llama family as a :class:`~shoal_models.llama.LlamaSource`.

Nothing is guessed: another architecture, another tensor type, a tensor this network does not have (biases, experts),
a rotation that is scaled in a way not described here, are each refused by name, all tensors together, before any work.

Files of this architecture store the rows of Q and K for a rotation of neighbours (0,1), (2,3), ...; the runtime rotates
halves (0, h/2), (1, h/2 + 1), ...; so those rows are put back (see ``gguf_tensors``).

Rotation frequencies: f_j = base^(-2j / head_dim), divided by ``rope_freqs.weight`` where the file has it, and by the
factor of a linear scaling.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from shoal_models.errors import UnreadableModel, UnsupportedModel
from shoal_models.importers.gguf_file import GgufFile, TensorEntry, Value
from shoal_models.importers.gguf_tensors import OTHER_TYPES, TYPE_CODES, source_tensor
from shoal_models.llama import LlamaLayer, LlamaShape, LlamaSource
from shoal_models.portable_math import powers
from shoal_models.source_tensors import BLOCK_VALUES, SourceTensor
from shoal_protocol.limits import BLOCKS_MAX

_ARCHITECTURE: Final = "llama"
_ROPE_BASE: Final = 10_000.0
_TABLE: Final = "token_embd.weight"
_OUTPUT: Final = "output.weight"
_OUTPUT_NORM: Final = "output_norm.weight"
_ROPE_FREQUENCIES: Final = "rope_freqs.weight"
_CONTEXT_TOKENS_MAX: Final = 1024 * 1024
"""Rotation tables are as long as the context: beyond a million positions they would outweigh the model."""


def read_llama(file: GgufFile) -> LlamaSource:
    """The network in ``file``. UnsupportedModel names all it cannot take, UnreadableModel what is missing or wrong."""
    architecture = file.fields.get("general.architecture")
    if architecture != _ARCHITECTURE:
        raise UnsupportedModel(f"architecture {architecture!r}; only {_ARCHITECTURE!r} is converted")
    shape = _shape(file)
    expected = _expected_tensors(shape, file.tensors)
    _refuse_unknown(file.tensors, expected)
    missing = [name for name in expected if name not in file.tensors]
    if missing:
        raise UnreadableModel(f"the file lacks tensors: {', '.join(missing)}")
    wrong = [
        f"{name} is {list(file.tensors[name].shape)} instead of {list(wanted)}"
        for name, wanted in expected.items()
        if file.tensors[name].shape != wanted
    ]
    if wrong:
        raise UnreadableModel(f"tensors of the wrong shape: {'; '.join(wrong)}")

    def tensor(name: str, rotary_heads: int = 0) -> SourceTensor:
        return source_tensor(file, file.tensors[name], rotary_heads)

    def layer(index: int) -> LlamaLayer:
        prefix = f"blk.{index}."
        return LlamaLayer(
            attention_norm=tensor(f"{prefix}attn_norm.weight"),
            query=tensor(f"{prefix}attn_q.weight", shape.heads),
            key=tensor(f"{prefix}attn_k.weight", shape.kv_heads),
            value=tensor(f"{prefix}attn_v.weight"),
            attention_output=tensor(f"{prefix}attn_output.weight"),
            feed_forward_norm=tensor(f"{prefix}ffn_norm.weight"),
            gate=tensor(f"{prefix}ffn_gate.weight"),
            up=tensor(f"{prefix}ffn_up.weight"),
            down=tensor(f"{prefix}ffn_down.weight"),
        )

    return LlamaSource(
        shape=shape,
        frequencies=_frequencies(file, shape),
        token_table=tensor(_TABLE),
        layers=tuple(layer(index) for index in range(shape.layers)),
        output_norm=tensor(_OUTPUT_NORM),
        output=tensor(_OUTPUT) if _OUTPUT in expected else None,
    )


def _shape(file: GgufFile) -> LlamaShape:
    fields = file.fields
    heads = _size(fields, "llama.attention.head_count")
    hidden = _size(fields, "llama.embedding_length")
    head_dim = _size(fields, "llama.attention.key_length", hidden // heads)
    table = file.tensors.get(_TABLE)
    shape = LlamaShape(
        layers=_size(fields, "llama.block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=_size(fields, "llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        feed_forward=_size(fields, "llama.feed_forward_length"),
        vocabulary=_size(fields, "llama.vocab_size", table.shape[0] if table is not None else None),
        context_tokens_max=_size(fields, "llama.context_length"),
        rms_epsilon=_number(fields, "llama.attention.layer_norm_rms_epsilon"),
    )
    faults = [
        (shape.layers > BLOCKS_MAX - 2, f"{shape.layers} layers, more than {BLOCKS_MAX - 2}"),
        (shape.context_tokens_max > _CONTEXT_TOKENS_MAX, f"a context of {shape.context_tokens_max} tokens"),
        (heads % shape.kv_heads != 0, f"{heads} heads over {shape.kv_heads} key heads"),
        (head_dim % 2 != 0, f"heads of {head_dim}, an odd size"),
        (_size(fields, "llama.rope.dimension_count", head_dim) != head_dim, "a rotation of part of each head"),
        (_size(fields, "llama.attention.value_length", head_dim) != head_dim, "values of another size than keys"),
        (hidden % BLOCK_VALUES != 0, f"hidden size {hidden}, not a multiple of {BLOCK_VALUES}"),
        (heads * head_dim % BLOCK_VALUES != 0, f"attention width {heads * head_dim}, not a multiple of {BLOCK_VALUES}"),
        (shape.feed_forward % BLOCK_VALUES != 0, f"feed-forward size {shape.feed_forward}, not a multiple of 32"),
    ]
    found = tuple(fault for wrong, fault in faults if wrong)
    if found:
        raise UnsupportedModel("sizes we do not convert", found)
    return shape


def _expected_tensors(shape: LlamaShape, present: Mapping[str, TensorEntry]) -> dict[str, tuple[int, ...]]:
    """Every tensor this network has, with its shape; the optional ones if the file has them."""
    hidden, width, kv_width = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    expected: dict[str, tuple[int, ...]] = {_TABLE: (shape.vocabulary, hidden), _OUTPUT_NORM: (hidden,)}
    if _OUTPUT in present:
        expected[_OUTPUT] = (shape.vocabulary, hidden)
    if _ROPE_FREQUENCIES in present:
        expected[_ROPE_FREQUENCIES] = (shape.head_dim // 2,)
    for index in range(shape.layers):
        prefix = f"blk.{index}."
        expected |= {
            f"{prefix}attn_norm.weight": (hidden,),
            f"{prefix}attn_q.weight": (width, hidden),
            f"{prefix}attn_k.weight": (kv_width, hidden),
            f"{prefix}attn_v.weight": (kv_width, hidden),
            f"{prefix}attn_output.weight": (hidden, width),
            f"{prefix}ffn_norm.weight": (hidden,),
            f"{prefix}ffn_gate.weight": (shape.feed_forward, hidden),
            f"{prefix}ffn_up.weight": (shape.feed_forward, hidden),
            f"{prefix}ffn_down.weight": (hidden, shape.feed_forward),
        }
    return expected


def _refuse_unknown(present: Mapping[str, TensorEntry], expected: Mapping[str, tuple[int, ...]]) -> None:
    types = [
        f"{entry.name} is {OTHER_TYPES.get(entry.type_code, f'type {entry.type_code}')}"
        for entry in present.values()
        if entry.type_code not in TYPE_CODES
    ]
    if types:
        known = ", ".join(TYPE_CODES.values())
        raise UnsupportedModel(f"tensor types we do not convert (only {known})", tuple(types))
    extra = tuple(name for name in present if name not in expected)
    if extra:
        raise UnsupportedModel("tensors a llama network does not have", extra)


def _frequencies(file: GgufFile, shape: LlamaShape) -> npt.NDArray[np.float64]:
    scaling = file.fields.get("llama.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise UnsupportedModel(f"rotation scaling {scaling!r}; only none and linear are converted")
    factor = _number(file.fields, "llama.rope.scaling.factor", 1.0) if scaling == "linear" else 1.0
    base = _number(file.fields, "llama.rope.freq_base", _ROPE_BASE)
    if not (base > 0 and factor > 0):
        raise UnreadableModel(f"rotation base {base} and factor {factor} must be positive")
    frequencies = powers(base, tuple(-pair / shape.head_dim for pair in range(0, shape.head_dim, 2))) / factor
    if _ROPE_FREQUENCIES in file.tensors:
        with np.errstate(divide="ignore", invalid="ignore"):  # what is no number is refused below
            frequencies = frequencies / source_tensor(file, file.tensors[_ROPE_FREQUENCIES]).dequantize()[0]
    if not ((frequencies > 0) & (frequencies <= 1)).all():
        raise UnsupportedModel("a rotation that stands still or turns by more than one radian per position")
    return frequencies


def _size(fields: Mapping[str, Value], key: str, default: int | None = None) -> int:
    value = fields.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise UnreadableModel(f"field {key} is {value!r}, not a size")
    return value


def _number(fields: Mapping[str, Value], key: str, default: float | None = None) -> float:
    value = fields.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not np.isfinite(value):
        raise UnreadableModel(f"field {key} is {value!r}, not a number")
    return float(value)

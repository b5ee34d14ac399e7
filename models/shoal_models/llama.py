"""A llama-family network as data: what every importer of the family must find, and every builder may rely on.

Decoder-only transformer: token table, layers of (RMS norm, grouped-query attention with rotary positions, RMS norm,
gated SiLU feed-forward), final RMS norm, output rows (often the token table again: *tied*).

Rotary positions turn each pair (x_j, x_{j + h/2}) of a head by the angle position * f_j. The f_j come from the
importer, because files state them in several ways.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal_models.portable_math import cosines_and_sines
from shoal_models.ports import FloatArray
from shoal_models.source_tensors import SourceTensor


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The sizes of one network."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocabulary: int
    context_tokens_max: int
    rms_epsilon: float


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    """Weights of one layer, still in their file."""

    attention_norm: SourceTensor
    query: SourceTensor
    key: SourceTensor
    value: SourceTensor
    attention_output: SourceTensor
    feed_forward_norm: SourceTensor
    gate: SourceTensor
    up: SourceTensor
    down: SourceTensor


@dataclass(frozen=True, slots=True)
class LlamaSource:
    """One network, still in its file."""

    shape: LlamaShape
    frequencies: npt.NDArray[np.float64]
    """f_j [head_dim / 2], radians per position, above 0 and at most 1."""
    token_table: SourceTensor
    layers: tuple[LlamaLayer, ...]
    output_norm: SourceTensor
    output: SourceTensor | None
    """None: the token table."""


def rotation_tables(source: LlamaSource) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines [context, head_dim / 2] of every angle the model can meet."""
    positions = np.arange(source.shape.context_tokens_max, dtype=np.float64)
    cosines = np.empty((positions.size, source.frequencies.size), np.float32)
    sines = np.empty_like(cosines)
    for pair, frequency in enumerate(source.frequencies):  # one at a time: a million positions times all are gigabytes
        cosines[:, pair], sines[:, pair] = cosines_and_sines(positions * frequency)
    return cosines, sines

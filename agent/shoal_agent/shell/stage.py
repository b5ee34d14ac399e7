"""One session on one stage: its KV, its buffers, its bindings.

The KV of every layer is one buffer pair of the session's full length, allocated once and bound both as past and as
present: a run writes the new positions in place and nothing is ever copied or grown. Fresh pages cost nothing until
they are written.

Decoding runs one position at a time through buffers bound once, each block's output being the next block's input;
per token only the input and two lengths change. A prompt chunk has its own bindings, whose hidden buffers are
rebound for each chunk; its output is a fresh array, because chunks overlap in a pipeline.

    total = position + token_count      seqlens_k = total - 1      (GroupQueryAttention counts from the last position)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shoal_agent.shell.ort import Binding, BlockSession, Cancel, EngineError, Value, value_of
from shoal_agent.shell.ports import Array
from shoal_models.manifest import Block, Manifest

KV_STEP_TOKENS: Final = 64
"""KV is allocated in whole steps, so that sessions of similar length have equal buffers."""
LENGTH_INPUTS: Final = ("seqlens_k", "total_sequence_length")
"""The two inputs that say how much of the KV is valid."""


@dataclass(frozen=True, slots=True)
class OpenBlock:
    """A block of a package and its session."""

    block: Block
    session: BlockSession


class _Lengths:
    """The two length inputs, shared by all blocks of a stage."""

    def __init__(self) -> None:
        self._last = np.zeros((1,), np.int32)
        self._total = np.zeros((), np.int32)
        self.values = dict(zip(LENGTH_INPUTS, (value_of(self._last), value_of(self._total)), strict=True))

    def set(self, total: int) -> None:
        """``total`` positions are valid after the next run."""
        self._last[0] = total - 1
        self._total[...] = total


class Stage:
    """A run of blocks for one session. Not thread-safe: one run at a time."""

    def __init__(self, manifest: Manifest, blocks: Sequence[OpenBlock], tokens_max: int) -> None:
        sizes = manifest.dimensions
        self._hidden = sizes.hidden
        self._vocabulary = sizes.vocabulary
        self._blocks = tuple(blocks)
        self._from_tokens = blocks[0].block.kind == "embed"
        self._to_logits = blocks[-1].block.kind == "head"
        capacity = -(-tokens_max // KV_STEP_TOKENS) * KV_STEP_TOKENS
        self._capacity = capacity
        shape = (1, sizes.kv_heads, capacity, sizes.head_dim)
        self._lengths = _Lengths()
        self._kv = [
            {name: value for pair in each.block.state for name, value in _pair(pair.past, pair.present, shape)}
            for each in blocks
        ]
        self.kv_bytes = sum(block.block.kv_bytes_per_token for block in blocks) * capacity
        self._decode = self._bind_decode()
        self._prefill: list[Binding] | None = None

    def run(self, inputs: Array, position: int, want_logits: bool, cancel: Cancel) -> Array | None:  # noqa: FBT001
        """Run over the positions of ``inputs`` (ids [1, n] int64, or hidden [1, n, H] float32) from ``position`` on.

        Returns hidden [1, n, H], or logits [1, 1, V] of the last position, or None if the head was to be skipped.
        The result of a one-token run is a buffer that the next run overwrites. EngineError.
        """
        count = inputs.shape[1]
        if position + count > self._capacity:
            raise EngineError(f"position {position + count} is beyond the session's {self._capacity}")
        self._lengths.set(position + count)
        if count == 1:
            return self._run_decode(inputs, want_logits, cancel)
        return self._run_prefill(inputs, count, want_logits, cancel)

    # --- one position -----------------------------------------------------------------------------------------------

    def _bind_decode(self) -> list[Binding]:
        source = np.zeros((1, 1), np.int64) if self._from_tokens else np.zeros((1, 1, self._hidden), np.float32)
        value = value_of(source)
        self._decode_in = value
        bindings = []
        for index in range(len(self._blocks)):
            binding = self._bind_state(index)
            block = self._blocks[index].block
            binding.bind_input(block.inputs[0].name, value)
            width = self._vocabulary if block.kind == "head" else self._hidden
            value = value_of(np.zeros((1, 1, width), np.float32))
            binding.bind_output(block.outputs[0].name, value)
            bindings.append(binding)
        self._decode_out = value
        return bindings

    def _run_decode(self, inputs: Array, want_logits: bool, cancel: Cancel) -> Array | None:  # noqa: FBT001
        self._decode_in.array[...] = inputs
        bindings = self._decode if want_logits or not self._to_logits else self._decode[:-1]
        for binding in bindings:
            binding.run(cancel)
        return self._decode_out.array if want_logits or not self._to_logits else None

    # --- many positions ---------------------------------------------------------------------------------------------

    def _run_prefill(self, inputs: Array, count: int, want_logits: bool, cancel: Cancel) -> Array | None:  # noqa: FBT001
        if self._prefill is None:
            self._prefill = [self._bind_state(index) for index in range(len(self._blocks))]
        value = value_of(inputs)
        # Two buffers take turns between blocks; the last output gets an array of its own.
        turns = [value_of(np.empty((1, count, self._hidden), np.float32)) for _ in range(2)]
        for index, (each, binding) in enumerate(zip(self._blocks, self._prefill, strict=True)):
            if each.block.kind == "head":
                if not want_logits:
                    return None
                out = value_of(np.empty((1, 1, self._vocabulary), np.float32))
            else:
                out = turns[index % 2]
            binding.bind_input(each.block.inputs[0].name, value)
            binding.bind_output(each.block.outputs[0].name, out)
            binding.run(cancel)
            value = out
        return value.array

    def _bind_state(self, index: int) -> Binding:
        """A binding of block ``index`` with everything bound that never changes."""
        each = self._blocks[index]
        binding = each.session.binding()
        for port in each.block.inputs[1:]:
            binding.bind_input(port.name, self._lengths.values[port.name])
        for pair in each.block.state:
            binding.bind_input(pair.past, self._kv[index][pair.past])
            binding.bind_output(pair.present, self._kv[index][pair.present])
        return binding


def _pair(past: str, present: str, shape: tuple[int, ...]) -> tuple[tuple[str, Value], tuple[str, Value]]:
    """One buffer under both its names."""
    value = value_of(np.zeros(shape, np.float32))
    return (past, value), (present, value)

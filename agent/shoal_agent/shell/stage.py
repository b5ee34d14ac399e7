"""One session on one stage: its KV, its buffers, its bindings.

Each block of the stage has one binding. Its KV buffers and the two length inputs are bound once; what is read and
written besides is a *chain* of buffers, each block's output being the next block's input, so that nothing is copied
between blocks. A chain for one position is kept for the whole session and stays bound while the session decodes: per
token only the input and two integers change. A prompt chunk gets a chain of its own, which the next run releases.

    total = position + token_count      seqlens_k = total - 1      (GroupQueryAttention counts from the last position)

What a run returns is the caller's: the chain's last buffer if the chain is used once, a copy (4 us for 49,152 logits)
if it is used again. Inputs are copied in (0.3 us per token): they may lie unaligned in what a socket received.

A session may do without some of the blocks. They are not bound, and have no KV: the chain goes past them, from the
block before to the block after. A stage of which nothing is left hands on what came, in the width in which it gives.

Hidden states may come and leave narrower than they are computed with. They are converted here, so whoever keeps an
output to send it again keeps what was sent.

Bytes and hidden states come from peers, so their size is checked here, and token ids against the vocabulary: the
runtime answers one outside it with zeros, silently.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from shoal_agent.shell.kv import KvCache, dtype_of, fixed
from shoal_agent.shell.ort import Binding, BlockSession, Cancel, EngineError, Value, value_of
from shoal_agent.shell.ports import Array
from shoal_models.manifest import Block, Port
from shoal_protocol.widths import ActivationWidth, narrow, row_bytes, widen

LENGTH_INPUTS: Final = ("seqlens_k", "total_sequence_length")
"""The two inputs that say how much of the KV is valid."""


@dataclass(frozen=True, slots=True)
class OpenBlock:
    """A block of a package and its session."""

    block: Block
    session: BlockSession


class Stage:
    """A run of blocks for one session of at most ``tokens_max`` positions. Not thread-safe: one run at a time.

    ``vocabulary``: number of tokens of the model. Hidden states come in the width ``takes`` and leave in ``gives``.
    ``left_out``: places of blocks that are not run; rows of their KV are none.
    Raises EngineError, and OSError if there is no memory for the KV.
    """

    def __init__(
        self,
        blocks: Sequence[OpenBlock],
        vocabulary: int,
        tokens_max: int,
        takes: ActivationWidth = ActivationWidth.F32,
        gives: ActivationWidth = ActivationWidth.F32,
        left_out: range = range(0),
    ) -> None:
        run = [(place, each) for place, each in enumerate(blocks) if place not in left_out]
        self._blocks = tuple(each.block for _, each in run)
        self._neck = (self._blocks or (blocks[0].block,))[0].inputs[0]
        self._vocabulary = vocabulary
        self._tokens_max = tokens_max
        self._takes = takes
        self._gives = gives
        self._has_head = blocks[-1].block.kind == "head"
        self._has_embedding = blocks[0].block.kind == "embed"
        self._lengths = {
            LENGTH_INPUTS[0]: value_of(np.zeros(1, np.int32)),
            LENGTH_INPUTS[1]: value_of(np.zeros((), np.int32)),
        }
        states = [() if place in left_out else each.block.state for place, each in enumerate(blocks)]
        self.kv = KvCache(states, tokens_max)
        self._bindings = [self._bind_state(place, each) for place, each in run]
        self._single = _chain(self._neck, self._blocks, 1)
        self._bound: list[Value] = []

    def blank(self, token_count: int) -> Array:
        """Input of zeros for ``token_count`` positions, at full width."""
        return np.zeros_like(_buffer(self._neck, token_count).array)

    def run(
        self, data: Array | bytes | memoryview, position: int, token_count: int, *, want_logits: bool, cancel: Cancel
    ) -> Array | None:
        """Run over ``token_count`` positions from ``position`` on.

        ``data``: ids int64 [1, n] if the stage begins with the embedding, else hidden states [1, n, H] as they travel
        (see ``widths``), or the bytes of either. Returns hidden [1, n, H] as they travel, or logits [1, 1, V] of the
        last position, or None if the stage ends with the head and no logits are wanted. EngineError: refused, failed
        or cancelled.
        """
        assert position >= 0, "positions count from 0"
        assert 0 < token_count <= self._tokens_max - position, "the session was opened for fewer positions"
        chain = self._single if token_count == 1 else _chain(self._neck, self._blocks, token_count)
        self._bind_chain(chain)
        self._read(data, chain[0].array)
        total = position + token_count
        self._lengths[LENGTH_INPUTS[0]].array[0] = total - 1
        self._lengths[LENGTH_INPUTS[1]].array[...] = total
        skip_head = self._has_head and not want_logits
        for index in range(len(self._bindings) - skip_head):
            try:
                self._bindings[index].run(cancel)
            except EngineError as fault:
                raise EngineError(f"block {self._blocks[index].name}: {fault}") from fault
        if skip_head:
            return None
        output = chain[-1].array
        if self._gives is not ActivationWidth.F32:
            return narrow(output, self._gives)
        return output.copy() if chain is self._single else output

    def _bind_state(self, place: int, opened: OpenBlock) -> Binding:
        """A binding of the block at ``place`` with everything bound that never changes."""
        block = opened.block
        binding = opened.session.binding()
        for port in block.inputs[1:]:
            if port.name not in self._lengths:
                raise EngineError(f"block {block.name} wants an input {port.name!r}, which no stage has")
            binding.bind_input(port.name, self._lengths[port.name])
        for pair, value in zip(block.state, self.kv.of_block(place), strict=True):
            binding.bind_input(pair.past, value)
            binding.bind_output(pair.present, value)
        return binding

    def _bind_chain(self, chain: list[Value]) -> None:
        if chain is self._bound:
            return
        for index, (block, binding) in enumerate(zip(self._blocks, self._bindings, strict=True)):
            binding.bind_input(block.inputs[0].name, chain[index])
            binding.bind_output(block.outputs[0].name, chain[index + 1])
        self._bound = chain

    def _read(self, data: Array | bytes | memoryview, target: Array) -> None:
        """Copy ``data`` into the first buffer of the chain; EngineError unless it is just that."""
        byte_count, wanted = len(data) if isinstance(data, bytes) else data.nbytes, target.nbytes
        if self._takes is not ActivationWidth.F32:
            wanted = row_bytes(self._takes, target.shape[-1]) * target.shape[-2]
        if byte_count != wanted:
            raise EngineError(f"{byte_count} bytes came, {wanted} are {self._takes.name} {target.dtype} {target.shape}")
        if self._takes is not ActivationWidth.F32:
            target[...] = widen(data, self._takes, target.shape)
            return
        if isinstance(data, np.ndarray) and data.dtype != target.dtype:
            raise EngineError(f"{data.dtype} came, the stage takes {target.dtype}")
        values = data if isinstance(data, np.ndarray) else np.frombuffer(data, target.dtype)
        target[...] = values.reshape(target.shape)
        if self._has_embedding and not (target.min() >= 0 and target.max() < self._vocabulary):
            raise EngineError(f"a token is outside the vocabulary of {self._vocabulary}")


def _chain(neck: Port, blocks: Sequence[Block], token_count: int) -> list[Value]:
    """What goes into each block for ``token_count`` positions and, last, what leaves the stage; ``neck`` is the first.

    Between blocks two buffers take turns: an output is written where the block before last had written its own.
    """
    values = [_buffer(neck, token_count)]
    for index, block in enumerate(blocks):
        inner = 1 < index < len(blocks) - 1
        if inner and block.outputs[0].shape == blocks[index - 2].outputs[0].shape:
            values.append(values[index - 1])
        else:
            values.append(_buffer(block.outputs[0], token_count))
    return values


def _buffer(port: Port, token_count: int) -> Value:
    return value_of(np.empty(fixed(port.shape, {"tokens": token_count}), dtype_of(port.dtype)))

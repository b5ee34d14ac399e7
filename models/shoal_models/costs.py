"""What a block costs, measured: the planner balances time, never layer counts (a head can weigh five layers).

The whole chain is opened and run in its order, one token (decode) and PREFILL_TOKENS (prefill), several rounds; each
block is timed on its own. In its order, because a decode step is bound by reading weights from memory: a block run
again and again would find them in the cache and look three times cheaper than it is, and the small ones more so than
the large. Blocks that are the same network with other weights (all layers) cost the same, so each of them gets the
median over all their runs: another process's burst does not become a property of layer 17. Measuring takes as much
memory as hosting the model alone.

Microseconds mean something only on one machine. The manifest therefore records the machine's speed
(``reference_macs_per_s``, the same micro-benchmark every node publishes of itself), and a planner scales by the ratio.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from shoal_models.blocks import BuiltBlock
from shoal_models.manifest import Cost, ElementType, Shape
from shoal_models.ports import Array, BlockRunner, BlockSession, Clock, Progress

PREFILL_TOKENS: Final = 128
"""A prompt of ordinary length; long enough that per-run overhead vanishes. A model of shorter context: all of it."""
_DECODE_ROUNDS: Final = 7
_PREFILL_ROUNDS: Final = 3
"""Of a group of one block (the head) the median of this many; of 30 layers, of 30 times as many."""
_NUMPY: Final[dict[ElementType, str]] = {"f32": "<f4", "f16": "<f2", "i64": "<i8", "i32": "<i4", "u8": "u1", "i8": "i1"}


def measure_costs(
    blocks: tuple[BuiltBlock, ...],
    blobs: Path,
    context_tokens_max: int,
    runner: BlockRunner,
    clock_ns: Clock,
    progress: Progress,
) -> tuple[Cost, ...]:
    """One cost per block, in order; ``blobs`` holds their shards."""
    prefill_tokens = min(PREFILL_TOKENS, context_tokens_max)
    sessions: list[BlockSession] = []
    for block in blocks:
        sessions.append(runner.open(block.graph, blobs))
        progress("blocks opened", len(sessions), len(blocks))
    decode_us = _median_us(blocks, sessions, clock_ns, 1, _DECODE_ROUNDS)
    progress("lengths measured", 1, 2)
    prefill_us = _median_us(blocks, sessions, clock_ns, prefill_tokens, _PREFILL_ROUNDS)
    progress("lengths measured", 2, 2)
    return tuple(
        Cost(decode_us=decode, prefill_us=prefill) for decode, prefill in zip(decode_us, prefill_us, strict=True)
    )


def _median_us(
    blocks: tuple[BuiltBlock, ...], sessions: list[BlockSession], clock_ns: Clock, tokens: int, rounds: int
) -> list[int]:
    """One time per block, in order; the first round warms up and does not count."""
    groups = [_structure(block) for block in blocks]
    feeds = [feeds_of(block, tokens) for block in blocks]
    times_ns: dict[bytes, list[int]] = {group: [] for group in groups}
    for round_ in range(rounds + 1):
        for group, session, feed in zip(groups, sessions, feeds, strict=True):
            start = clock_ns()
            session.run(feed)
            if round_ > 0:
                times_ns[group].append(clock_ns() - start)
    return [max(1, round(statistics.median(times_ns[group]) / 1000)) for group in groups]


def _structure(block: BuiltBlock) -> bytes:
    """The graph without the names of its shards: equal for blocks that do the same work."""
    graph = block.graph
    for shard in block.shards:
        graph = graph.replace(shard.ref.digest.encode(), b"")
    return graph


def feeds_of(block: BuiltBlock, tokens: int) -> Mapping[str, Array]:
    """Inputs for the first ``tokens`` positions of a text; values do not change the time, zeros are denormal-free."""
    sizes = {"tokens": tokens, "capacity": tokens}
    feeds = {port.name: np.zeros(_fixed(port.shape, sizes), _NUMPY[port.dtype]) for port in block.inputs}
    feeds |= {pair.past: np.zeros(_fixed(pair.shape, sizes), _NUMPY[pair.dtype]) for pair in block.state}
    for name, value in (("seqlens_k", tokens - 1), ("total_sequence_length", tokens)):
        if name in feeds:
            feeds[name][...] = value
    return feeds


def _fixed(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in shape)

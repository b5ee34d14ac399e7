"""What the core and the planner must know of a package, out of its manifest.

*What a block keeps in memory.* While the runtime opens a block it repacks the matrices of its products, and keeps only
the repacked copy. What is looked up by row is read where it lies, in the page cache: the token table by the embedding,
the rotation tables by the layers. Measured of SmolLM2-135M, in MB, in a process of its own, every row having been read:

    package   a layer: its shard, resident    head: its shard, resident    embedding    rotation tables
    int8      3.99      5.09  (x 1.27)        31.9      42.4 (x 1.33)      31.9         2.1
    int4      2.29      3.38  (x 1.48)        31.9      42.4 (x 1.33)      31.9         2.1
    fp32      14.16     14.35 (x 1.01)        113       114  (x 1.01)      113          2.1

Quantised products keep sums beside the codes, and how a matrix is laid out is the processor's choice: the factors are
what was measured (x86-64 with AVX-512), not what is promised.

*What blocks share.* Every layer maps the rotation tables by itself, and all of them see the same pages: a host keeps
one copy, however many layers it holds and however often its resident set counts them. A tied token table is another
matter: the embedding reads it in place, the head keeps a repacked copy, and a host of both keeps both.
"""

from collections import Counter
from typing import Final

from shoal_agent.core.facts import BlockFacts, ModelFacts, Shortcut
from shoal_agent.shell.widths import widths_of
from shoal_models.manifest import Block, Hex, Manifest, Numeric

_REPACKED_PERMILLE: Final[dict[Numeric, int]] = {"int8": 1300, "int4": 1450, "fp32": 1010}
"""Resident per byte of a shard whose matrices are repacked."""


def facts_of(manifest: Manifest) -> ModelFacts:
    """The facts of ``manifest``; every block but the last hands over one boundary."""
    last = len(manifest.blocks) - 1
    shared = _shared_by_layers(manifest)
    blocks = tuple(
        BlockFacts(
            resident_bytes=_resident_bytes(block, manifest.numeric, shared),
            kv_bytes_per_token=block.kv_bytes_per_token,
            decode_us=block.cost.decode_us,
            prefill_us=block.cost.prefill_us,
            boundary_bytes_per_token=0 if index == last else manifest.boundary.bytes_per_token,
        )
        for index, block in enumerate(manifest.blocks)
    )
    return ModelFacts(
        manifest.digest,
        manifest.name,
        blocks,
        manifest.reference_macs_per_s,
        manifest.context_tokens_max,
        sum(shared.values()),
        widths_of(manifest),
        tuple(
            Shortcut(
                (each.first_block, each.last_block), each.loss_micronats, each.agreement_permille, each.saved_permille
            )
            for each in manifest.shortcuts
        ),
    )


def _shared_by_layers(manifest: Manifest) -> dict[Hex, int]:
    """Digest and size of every shard that several layers name: tables, which none of them repacks."""
    shards = [shard for block in manifest.blocks if block.kind == "layer" for shard in block.shards]
    holders = Counter(shard.digest for shard in shards)
    return {shard.digest: shard.bytes for shard in shards if holders[shard.digest] > 1}


def _resident_bytes(block: Block, numeric: Numeric, shared: dict[Hex, int]) -> int:
    own = sum(shard.bytes for shard in block.shards if shard.digest not in shared)
    return own if block.kind == "embed" else own * _REPACKED_PERMILLE[numeric] // 1000

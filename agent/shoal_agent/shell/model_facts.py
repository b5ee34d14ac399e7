"""What the core and the planner must know of a package, out of its manifest."""

from shoal_agent.core.facts import BlockFacts, ModelFacts
from shoal_models.manifest import Manifest


def facts_of(manifest: Manifest) -> ModelFacts:
    """The facts of ``manifest``; every block but the last hands over one boundary."""
    last = len(manifest.blocks) - 1
    blocks = tuple(
        BlockFacts(
            shard_bytes=block.shard_bytes,
            kv_bytes_per_token=block.kv_bytes_per_token,
            decode_us=block.cost.decode_us,
            prefill_us=block.cost.prefill_us,
            boundary_bytes_per_token=0 if index == last else manifest.boundary.bytes_per_token,
        )
        for index, block in enumerate(manifest.blocks)
    )
    return ModelFacts(
        manifest.digest, manifest.name, blocks, manifest.reference_macs_per_s, manifest.context_tokens_max
    )

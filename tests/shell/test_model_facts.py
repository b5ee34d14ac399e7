from shoal_agent.shell.model_facts import facts_of


def test_facts_are_the_manifest_s(tiny_store):
    manifest = tiny_store.load("tiny")
    facts = facts_of(manifest)
    assert (facts.model, facts.name) == (manifest.digest, "tiny")
    assert facts.reference_macs_per_s == manifest.reference_macs_per_s
    assert facts.context_tokens_max == manifest.context_tokens_max
    assert len(facts.blocks) == len(manifest.blocks)
    for block, told in zip(manifest.blocks, facts.blocks, strict=True):
        assert told.shard_bytes == sum(shard.bytes for shard in block.shards)
        assert told.kv_bytes_per_token == block.kv_bytes_per_token
        assert (told.decode_us, told.prefill_us) == (block.cost.decode_us, block.cost.prefill_us)


def test_only_the_last_block_hands_nothing_over(tiny_store):
    manifest = tiny_store.load("tiny")
    *inner, last = facts_of(manifest).blocks
    assert all(block.boundary_bytes_per_token == manifest.boundary.bytes_per_token for block in inner)
    assert last.boundary_bytes_per_token == 0

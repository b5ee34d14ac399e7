from shoal_agent.core import facts as core
from shoal_agent.core.facts import StageSpan
from shoal_agent.core.plan import resident_bytes
from shoal_agent.shell.model_facts import facts_of
from shoal_models.importing import import_gguf
from shoal_models.manifest import Shortcut
from shoal_models.package import Store
from shoal_models.ports import no_progress
from shoal_protocol.ids import DeploymentId, Epoch


def test_facts_are_the_manifest_s(tiny_store):
    manifest = tiny_store.load("tiny")
    facts = facts_of(manifest)
    assert (facts.model, facts.name) == (manifest.digest, "tiny")
    assert facts.reference_macs_per_s == manifest.reference_macs_per_s
    assert facts.context_tokens_max == manifest.context_tokens_max
    assert len(facts.blocks) == len(manifest.blocks)
    for block, told in zip(manifest.blocks, facts.blocks, strict=True):
        assert told.kv_bytes_per_token == block.kv_bytes_per_token
        assert (told.decode_us, told.prefill_us) == (block.cost.decode_us, block.cost.prefill_us)


def test_shortcuts_are_the_manifest_s(tiny_store):
    manifest = tiny_store.load("tiny")
    certified = Shortcut(first_block=2, last_block=3, loss_micronats=70_000, agreement_permille=800, saved_permille=300)
    facts = facts_of(manifest.model_copy(update={"shortcuts": (certified,)}))
    assert facts.shortcuts == (core.Shortcut((2, 3), 70_000, 800, 300),)
    assert facts.shortcut((2, 3)) is facts.shortcuts[0]
    assert (facts.shortcut((2, 2)), facts.shortcut(None), facts_of(manifest).shortcuts) == (None, None, ())


def test_only_the_last_block_hands_nothing_over(tiny_store):
    manifest = tiny_store.load("tiny")
    *inner, last = facts_of(manifest).blocks
    assert all(block.boundary_bytes_per_token == manifest.boundary.bytes_per_token for block in inner)
    assert last.boundary_bytes_per_token == 0


def test_what_layers_share_counts_once_and_a_tied_table_twice(tiny_store):
    manifest = tiny_store.load("tiny")
    facts = facts_of(manifest)
    (table,) = manifest.blocks[0].shards
    matrices, rotation = manifest.blocks[1].shards
    norm, tied = manifest.blocks[-1].shards
    assert tied == table
    embed, *layers, head = (block.resident_bytes for block in facts.blocks)
    assert embed == table.bytes, "the embedding reads its rows where they lie"
    assert layers == [matrices.bytes * 13 // 10] * 4, "products are repacked"
    assert head == (norm.bytes + tied.bytes) * 13 // 10
    assert facts.shared_bytes == rotation.bytes
    whole = StageSpan(DeploymentId("tiny"), Epoch(0), facts.model, 0, 5)
    assert resident_bytes(facts, whole) == embed + sum(layers) + head + rotation.bytes


def test_other_numbers_are_repacked_to_other_sizes(tiny_gguf, measurement, tmp_path):
    ratios = {}
    for numeric in ("int8", "int4", "fp32"):
        manifest = import_gguf(tiny_gguf, Store(tmp_path), "tiny", numeric, "x", measurement, no_progress)
        ratios[numeric] = facts_of(manifest).blocks[1].resident_bytes / manifest.blocks[1].shards[0].bytes
    assert ratios["fp32"] < ratios["int8"] < ratios["int4"] < 1.5

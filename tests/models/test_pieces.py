"""Arithmetic of pieces, and their digests in a manifest."""

import json

import pytest

from shoal_models.errors import ManifestInvalid
from shoal_models.manifest import Manifest
from shoal_models.pieces import PIECE_BYTES, piece_count, piece_digests, piece_span
from shoal_protocol.ids import digest_of
from tests.support.depots import NAME, wide_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return wide_store(tmp_path_factory.mktemp("wide"))


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_pieces_cover_a_blob_without_a_gap(count, extra):
    total = max(1, count * PIECE_BYTES + extra)
    spans = [piece_span(index, total) for index in range(piece_count(total))]
    assert [offset for offset, _ in spans] == [index * PIECE_BYTES for index in range(len(spans))]
    assert sum(size for _, size in spans) == total
    assert all(size == PIECE_BYTES for _, size in spans[:-1])


def test_digests_are_of_the_pieces_in_order(tmp_path):
    data = bytes(PIECE_BYTES) + b"the rest"
    (tmp_path / "blob").write_bytes(data)
    assert piece_digests(tmp_path / "blob") == (digest_of(data[:PIECE_BYTES]), digest_of(b"the rest"))


def test_a_manifest_lists_the_pieces_of_large_blobs_and_of_no_others(store):
    manifest = store.load(NAME)
    large = [ref for ref in manifest.blobs if ref.bytes > PIECE_BYTES]
    assert len(large) == 3
    assert [each.blob for each in manifest.pieces] == [ref.digest for ref in large]
    for ref in manifest.blobs:
        assert manifest.piece_digests(ref) == piece_digests(store.blob_path(ref.id))


def test_texts_are_what_is_not_weights(store):
    manifest = store.load(NAME)
    weights = {shard.digest for block in manifest.blocks for shard in block.shards}
    texts = {ref.digest for ref in manifest.texts}
    assert texts | weights == {ref.digest for ref in manifest.blobs}
    assert not texts & weights
    assert {manifest.tokenizer.digest, manifest.blocks[1].graph.digest} <= texts


@pytest.mark.parametrize(
    "bend",
    [
        lambda pieces: pieces[:-1],
        lambda pieces: pieces[::-1],
        lambda pieces: [*pieces, pieces[0]],
        lambda pieces: [{**pieces[0], "digests": pieces[0]["digests"][:-1]}, *pieces[1:]],
    ],
    ids=["one missing", "another order", "one twice", "a digest short"],
)
def test_a_manifest_whose_pieces_are_not_those_of_its_blobs_is_refused(store, bend):
    tree = json.loads(store.load(NAME).encode())
    tree["pieces"] = bend(tree["pieces"])
    with pytest.raises(ManifestInvalid, match="pieces"):
        Manifest.parse(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())


def test_the_model_s_digest_covers_every_piece(store):
    manifest = store.load(NAME)
    tree = json.loads(manifest.encode())
    tree["pieces"][0]["digests"][1] = "0" * 64
    bent = Manifest.parse(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode())
    assert bent.digest != manifest.digest

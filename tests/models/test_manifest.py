"""Canonical bytes, and every fault with its path."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shoal_models.errors import ManifestInvalid
from shoal_models.manifest import Manifest
from shoal_protocol.ids import digest_of
from shoal_protocol.limits import MANIFEST_BYTES_MAX


@pytest.fixture(scope="module")
def manifest(tiny_store) -> Manifest:
    return tiny_store.load("tiny")


def encoded(tree: object) -> bytes:
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


def bend(tree, path: str, value: object):
    """``tree`` with the value at ``path`` replaced; ``...`` deletes it."""
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node = tree
    for part in way:
        node = node[part]
    if value is ...:
        del node[last]
    else:
        node[last] = value
    return tree


def test_encoding_and_parsing_are_inverse(manifest):
    data = manifest.encode()
    again = Manifest.parse(data)
    assert again == manifest
    assert again.encode() == data


def unmeasured(data: bytes) -> bytes:
    tree = json.loads(data)
    del tree["reference_macs_per_s"], tree["boundary"]["certificates"]
    tree.pop("shortcuts", None)
    for block in tree["blocks"]:
        del block["cost"]
    return encoded(tree)


def test_the_digest_is_of_all_but_the_measurements(manifest):
    assert manifest.digest == digest_of(unmeasured(manifest.encode()))


def test_a_package_without_certificates_reads_as_before_there_were_any(manifest):
    """Not to the byte only: it is the same model as one imported today."""
    tree = json.loads(manifest.encode())
    del tree["boundary"]["certificates"]
    old = Manifest.parse(encoded(tree))
    assert old.boundary.certificates == ()
    assert old.encode() == encoded(tree)
    assert old.digest == manifest.digest


SHORTCUT = {
    "first_block": 2,
    "last_block": 3,
    "loss_micronats": 9000,
    "agreement_permille": 900,
    "saved_permille": 300,
}


def test_shortcuts_are_read_and_are_no_part_of_the_digest(manifest):
    tree = json.loads(manifest.encode()) | {"shortcuts": [SHORTCUT]}
    short = Manifest.parse(encoded(tree))
    assert (short.shortcuts[0].first_block, short.shortcuts[0].last_block) == (2, 3)
    assert short.encode() == encoded(tree)
    assert short.digest == manifest.digest


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("first_block", 0, "greater than 0"),
        ("last_block", 5, "no run of layers"),
        ("last_block", 1, "no run of layers"),
        ("last_block", 3.0, "integer"),
        ("loss_micronats", 0, "greater than 0"),
        ("loss_micronats", 10_000_001, "less than or equal"),
        ("agreement_permille", 1001, "less than or equal"),
        ("saved_permille", 1000, "less than 1000"),
        ("saved_permille", -1, "greater than or equal"),
        ("width", "f16", "not permitted"),
    ],
)
def test_a_shortcut_that_cannot_be_is_refused(manifest, name, value, complaint):
    tree = json.loads(manifest.encode()) | {"shortcuts": [SHORTCUT | {name: value}]}
    with pytest.raises(ManifestInvalid) as refusal:
        Manifest.parse(encoded(tree))
    assert any(path.startswith("shortcuts.0") and complaint in text for path, text in refusal.value.faults)


@pytest.mark.parametrize("count", [2, 17])
def test_a_run_is_certified_once_and_there_are_not_many(manifest, count):
    tree = json.loads(manifest.encode()) | {"shortcuts": [SHORTCUT] * count}
    with pytest.raises(ManifestInvalid, match="listed twice" if count == 2 else "at most 16"):
        Manifest.parse(encoded(tree))


MEASURED = [
    "reference_macs_per_s",
    "blocks.0.cost.decode_us",
    "blocks.5.cost.prefill_us",
    "boundary.certificates.0.loss_micronats",
]


@pytest.mark.parametrize("path", MEASURED)
def test_another_measurement_is_the_same_model(manifest, path):
    other = Manifest.parse(encoded(bend(json.loads(manifest.encode()), path, 3_456_789)))
    assert other != manifest
    assert other.digest == manifest.digest


def leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value of ``tree`` that is no container, with its path."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else None
    if pairs is None:
        yield path, tree
        return
    for key, value in pairs:
        yield from leaves(value, f"{path}.{key}" if path else str(key))


def others(value: object) -> list[object]:
    """Values near ``value``, of which most fields take at least one."""
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, str):
        return [value[:-1] + ("0" if value[-1] != "0" else "1"), "fp32", "f16", "embed", "layer"]
    return [1]


def test_anything_else_that_differs_is_another_model(manifest):
    named = dict(leaves(json.loads(unmeasured(manifest.encode()))))
    changed = set()
    for path, value in named.items():
        for other in others(value):
            tree = bend(json.loads(manifest.encode()), path, other)
            try:
                digest = Manifest.model_validate_json(encoded(tree)).digest
            except ValidationError:
                continue
            assert (digest == manifest.digest) == (other == value), path
            changed.add(path)
    assert set(named) - changed == {"format", "version", "architecture", "source.format", "piece_bytes"}


def test_what_it_says_of_the_tiny_model(manifest):
    assert [block.name for block in manifest.blocks] == ["embed", *(f"layer.{index}" for index in range(4)), "head"]
    layer = manifest.blocks[1]
    assert [port.name for port in layer.inputs] == ["hidden", "seqlens_k", "total_sequence_length"]
    assert [(pair.past, pair.present) for pair in layer.state] == [
        ("past_key", "present_key"),
        ("past_value", "present_value"),
    ]
    assert layer.state[0].shape == (1, 2, "capacity", 16)
    assert layer.kv_bytes_per_token == 2 * 2 * 16 * 4
    assert manifest.boundary.shape == (1, "tokens", 64)
    assert manifest.boundary.bytes_per_token == 256
    assert manifest.boundary.certified_widths == ("f32",)
    assert [each.width for each in manifest.boundary.certificates] == ["f16", "i8x32", "i8"]
    assert manifest.special_tokens.bos is None
    assert manifest.special_tokens.eos == (0, 2)


def test_shared_blobs_count_once_in_the_package_and_in_each_block(manifest):
    embed, first, second, head = (manifest.blocks[index] for index in (0, 1, 2, -1))
    assert embed.shards[0] in head.shards, "the tied table is one shard"
    assert first.shards[1] == second.shards[1], "the rotation tables are one shard"
    assert first.shard_bytes == sum(shard.bytes for shard in first.shards)
    digests = [ref.digest for ref in manifest.blobs]
    assert len(set(digests)) == len(digests)
    assert manifest.package_bytes < sum(block.shard_bytes for block in manifest.blocks)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("name", "No Spaces", "pattern"),
        ("version", 2, "1"),
        ("numeric", "int3", "int8"),
        ("blocks.1.shards.0.digest", "00", "pattern"),
        ("blocks.1.shards.0.bytes", "12", "integer"),
        ("blocks.1.shards.0.bytes", 1.0, "integer"),
        ("blocks.1.cost.decode_us", 0, "greater than 0"),
        ("blocks.2.inputs", [], "at least 1"),
        ("blocks.2.extra", 1, "not permitted"),
        ("tokenizer", ..., "required"),
        ("boundary.certified_widths", ["f64"], "f32"),
        ("boundary.certificates.0.width", "f8", "f16"),
        ("boundary.certificates.0.loss_micronats", 0, "greater than 0"),
        ("boundary.certificates.0.loss_micronats", 10_000_001, "less than or equal"),
        ("context_tokens_max", -1, "greater than 0"),
    ],
)
def test_a_fault_is_named_by_its_path(manifest, path, value, complaint):
    tree = bend(json.loads(manifest.encode()), path, value)
    with pytest.raises(ManifestInvalid) as refusal:
        Manifest.parse(encoded(tree))
    assert any(found.startswith(path) and complaint in text for found, text in refusal.value.faults), refusal.value


def test_all_faults_are_reported_together(manifest):
    tree = json.loads(manifest.encode())
    for path, value in (("name", ""), ("blocks.0.kind", "foot"), ("special_tokens.eos", [-1])):
        bend(tree, path, value)
    with pytest.raises(ManifestInvalid) as refusal:
        Manifest.parse(encoded(tree))
    assert [path for path, _ in refusal.value.faults] == ["name", "blocks.0.kind", "special_tokens.eos.0"]


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("blocks.1.kind", "head", "blocks.1.kind"),
        ("blocks.1.name", "embed", "blocks"),
        ("blocks.1.kv_bytes_per_token", 0, "blocks.1.kv_bytes_per_token"),
        ("blocks.1.state.0.past", "hidden", "blocks.1"),
        ("blocks.1.outputs.0.shape", [1, "tokens", 32], "blocks.1.outputs.0"),
        ("boundary.dtype", "f16", "boundary"),
        ("dimensions.kv_heads", 3, "dimensions.kv_heads"),
        ("special_tokens.eos", [320], "special_tokens"),
        ("special_tokens.bos", 320, "special_tokens"),
        ("blocks.1.shards.1.bytes", 1, "blocks"),
    ],
)
def test_contradictions_between_fields(manifest, path, value, found):
    tree = bend(json.loads(manifest.encode()), path, value)
    with pytest.raises(ManifestInvalid) as refusal:
        Manifest.parse(encoded(tree))
    assert found in [where for where, _ in refusal.value.faults]


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda data: data + b"\n",
        lambda data: data.replace(b",", b", ", 1),
        lambda data: json.dumps(dict(reversed(json.loads(data).items())), separators=(",", ":")).encode(),
        lambda data: data.replace(b'"version":1', b'"version":1,"version":1'),
        lambda data: data.replace(b'"name":"tiny"', b'"name":"\\u0074iny"'),
    ],
    ids=["newline", "space", "order", "repeated key", "escape"],
)
def test_only_the_canonical_form_is_accepted(manifest, rewrite):
    with pytest.raises(ManifestInvalid, match="canonical"):
        Manifest.parse(rewrite(manifest.encode()))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b"null", b"[" * 100_000, b"NaN"])
def test_what_is_no_manifest_at_all(data):
    with pytest.raises(ManifestInvalid):
        Manifest.parse(data)


def test_a_manifest_is_bounded():
    with pytest.raises(ManifestInvalid, match="more than"):
        Manifest.parse(bytes(MANIFEST_BYTES_MAX + 1))


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_bent_bytes_never_pass_for_the_same_model(manifest, data):
    whole = bytearray(manifest.encode())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    try:
        other = Manifest.parse(bytes(whole))
    except ManifestInvalid:
        return
    assert other.digest != manifest.digest or unmeasured(other.encode()) == unmeasured(manifest.encode())

"""Messages name the thing, all of them, and the next step."""

from shoal_models.errors import CorruptShard, ManifestInvalid, UnsupportedModel
from shoal_protocol.ids import digest_of


def test_a_refusal_names_every_thing():
    error = UnsupportedModel("tensor types", ("a is Q6_K", "b is Q4_K"))
    assert str(error) == "tensor types: a is Q6_K, b is Q4_K"
    assert error.things == ("a is Q6_K", "b is Q4_K")


def test_a_refusal_of_one_thing_stands_alone():
    assert str(UnsupportedModel("architecture 'gpt2'")) == "architecture 'gpt2'"


def test_a_manifest_names_every_fault_with_its_path():
    assert str(ManifestInvalid((("a.b", "one"), ("c", "two")))) == "invalid manifest: a.b: one; c: two"


def test_a_corrupt_shard_names_block_expected_and_found():
    expected, found = digest_of(b"right"), digest_of(b"wrong")
    text = str(CorruptShard("layer.3", expected, found, "blob was changed"))
    assert "layer.3" in text
    assert expected.hex() in text
    assert found.hex() in text
    assert "found nothing" in str(CorruptShard("head", expected, None, "blob is missing"))

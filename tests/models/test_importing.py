"""The whole way from a file to a package, and that a way cut short leaves nothing."""

import hashlib

import pytest

from shoal_models.errors import StoreFull, UnreadableModel, UnsupportedModel
from shoal_models.importing import import_gguf
from shoal_models.package import Store
from shoal_models.ports import no_progress
from shoal_protocol.errors import MalformedMessage
from tests.support.tiny_model import TinyLlama, write_tiny_llama


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def leftovers(store: Store) -> list[str]:
    return [path.name for path in store.root.rglob("*") if path.is_file() and path.name != "lock"]


def test_a_package_is_whole(tiny_gguf, store, measurement):
    steps = []
    manifest = import_gguf(
        tiny_gguf, store, "tiny", "int8", "Apache-2.0", measurement, lambda *step: steps.append(step)
    )
    assert store.load("tiny") == manifest
    assert store.verify("tiny") == ()
    assert manifest.source.sha256 == hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    assert manifest.reference_macs_per_s == measurement.macs_per_s()
    assert (manifest.name, manifest.licence, manifest.numeric) == ("tiny", "Apache-2.0", "int8")
    assert all(0 <= done <= total for _, done, total in steps)
    assert ("blocks converted", 6, 6) in steps


def test_weights_do_not_depend_on_who_imports(tiny_gguf, store, measurement, tmp_path):
    """Costs differ from machine to machine; shards and graphs must not."""
    other = Store(tmp_path / "other")
    first = import_gguf(tiny_gguf, store, "a", "int8", "x", measurement, no_progress)
    second = import_gguf(tiny_gguf, other, "b", "int8", "x", measurement, no_progress)
    assert first.blobs == second.blobs


def test_a_package_is_replaced_and_its_old_blobs_go(tiny_gguf, store, measurement):
    import_gguf(tiny_gguf, store, "tiny", "fp32", "x", measurement, no_progress)
    manifest = import_gguf(tiny_gguf, store, "tiny", "int8", "x", measurement, no_progress)
    assert {path.name for path in store.blobs.iterdir()} == {ref.digest for ref in manifest.blobs}


@pytest.mark.parametrize("step", ["blocks converted", "blocks opened", "lengths measured"])
@pytest.mark.parametrize("fault", [KeyboardInterrupt, StoreFull])
def test_an_import_that_is_cut_short_leaves_nothing(tiny_gguf, store, measurement, step, fault):
    def stop(name, done, total):
        if name == step and done >= 1:
            raise fault

    with pytest.raises(fault):
        import_gguf(tiny_gguf, store, "tiny", "int8", "x", measurement, stop)
    assert leftovers(store) == []


def test_a_bad_name_is_refused_before_any_work(tiny_gguf, store, measurement):
    with pytest.raises(MalformedMessage):
        import_gguf(tiny_gguf, store, "Not A Name", "int8", "x", measurement, no_progress)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (TinyLlama(architecture="falcon"), "falcon"),
        (TinyLlama(pre="gpt-4o"), "gpt-4o"),
        (TinyLlama(matrix_type="BF16"), "blk.0.attn_q.weight is BF16"),
    ],
)
def test_what_is_not_supported_is_refused_before_any_work(spec, complaint, store, measurement, tmp_path):
    path = write_tiny_llama(tmp_path / "t.gguf", spec)
    with pytest.raises((UnsupportedModel, UnreadableModel), match=complaint):
        import_gguf(path, store, "t", "int8", "x", measurement, no_progress)
    assert not store.root.exists()

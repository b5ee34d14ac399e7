"""The whole way from a file to a package, and that a way cut short leaves nothing."""

import hashlib
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from shoal_models.errors import StoreFull, UnreadableModel, UnsupportedModel
from shoal_models.importing import Measurement, import_gguf
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


def on_a_machine(measurement: Measurement, speed: int) -> Measurement:
    """``measurement`` on a machine so many times as fast as one that takes a millisecond for everything."""
    ticks = count(step=1_000_000 // speed)
    return Measurement(measurement.runner, lambda: next(ticks), lambda: 1_000_000_000 * speed)


@pytest.mark.parametrize("numeric", ["int8", "int4", "fp32"])
def test_a_model_is_the_same_whoever_imports_it(tiny_gguf, store, measurement, tmp_path, numeric):
    other = Store(tmp_path / "other")
    slow = import_gguf(tiny_gguf, store, "a", numeric, "x", on_a_machine(measurement, 1), no_progress)
    fast = import_gguf(tiny_gguf, other, "a", numeric, "x", on_a_machine(measurement, 5), no_progress)
    assert slow.reference_macs_per_s * 5 == fast.reference_macs_per_s
    assert {block.cost.decode_us for block in slow.blocks} == {1000}
    assert {block.cost.decode_us for block in fast.blocks} == {200}
    assert slow.digest == fast.digest
    assert slow.blobs == fast.blobs


ELSEWHERE = """
import sys
from pathlib import Path
from shoal_models.importing import import_gguf
from shoal_models.package import Store
from shoal_models.ports import no_progress
from tests.support.models import measurement
source, root, numeric = sys.argv[1:]
print(import_gguf(Path(source), Store(Path(root)), "a", numeric, "x", measurement(), no_progress).digest.hex())
"""


@pytest.mark.parametrize("numeric", ["int8", "int4"])
def test_a_model_is_the_same_on_another_processor(tiny_gguf, store, measurement, tmp_path, numeric):
    here = import_gguf(tiny_gguf, store, "a", numeric, "x", measurement, no_progress)
    features = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    elsewhere = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tiny_gguf, tmp_path / "other", numeric],
        cwd=Path(__file__).parents[2],
        env={"NPY_DISABLE_CPU_FEATURES": " ".join(features), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert elsewhere.stdout.strip() == here.digest.hex()


def test_other_weights_another_name_or_numeric_are_another_model(tiny_gguf, store, measurement, tmp_path):
    seed = write_tiny_llama(tmp_path / "seed.gguf", TinyLlama(seed=2))
    variants = [(tiny_gguf, "a", "int8"), (tiny_gguf, "b", "int8"), (tiny_gguf, "a", "int4"), (seed, "a", "int8")]
    digests = {
        import_gguf(*variant[:1], store, *variant[1:], "x", measurement, no_progress).digest for variant in variants
    }
    assert len(digests) == len(variants)


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

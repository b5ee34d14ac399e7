"""Models that several rooms test with. Each is made once per run; nothing here needs a network.

``tiny_*`` is a four-layer llama of random weights, imported in a fraction of a second. ``smollm2_store`` needs the real
file (marker ``model``), which ``shoal model import smollm2-135m-instruct`` fetches into the cache.
"""

from pathlib import Path
from time import perf_counter_ns

import pytest

from shoal_models.importing import Measurement, import_gguf
from shoal_models.package import Store
from shoal_models.ports import no_progress
from tests.support.ort_runner import OrtRunner
from tests.support.tiny_model import TinyLlama, write_tiny_llama

TINY_MACS_PER_S = 10_000_000_000


@pytest.fixture(scope="session")
def measurement() -> Measurement:
    """Really runs blocks; claims a fixed machine speed."""
    return Measurement(OrtRunner(), perf_counter_ns, lambda: TINY_MACS_PER_S)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-layer llama of random weights (Q4_1, table Q8_0, tied), 320 tokens, context 512."""
    return write_tiny_llama(tmp_path_factory.mktemp("gguf") / "tiny.gguf", TinyLlama())


@pytest.fixture(scope="session")
def tiny_store(tiny_gguf: Path, measurement: Measurement, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with the package ``tiny`` (int8). Shared by all tests: read only."""
    store = Store(tmp_path_factory.mktemp("models"))
    import_gguf(tiny_gguf, store, "tiny", "int8", "Apache-2.0", measurement, no_progress)
    return store

"""Models that several rooms test with. Each is made once per run; only ``smollm2_store`` may need a network.

``tiny_*`` is a four-layer llama of random weights, imported in a fraction of a second. ``smollm2_store`` holds the
catalog's real model (tests that use it carry the marker ``model``), fetched and imported once into the user's cache.

What they need is loaded when one is asked for: the tests of the core and of the protocol must not wait for a runtime.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

# The runtime reports home unless told not to before it is loaded; tests may load it without the product's own wrapper.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


@pytest.fixture(scope="session")
def measurement() -> Any:
    """A ``Measurement`` that really runs blocks, on one thread, and claims a fixed machine speed."""
    return import_module("tests.support.models").measurement()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-layer llama of random weights (Q4_1, table Q8_0, tied), 320 tokens, context 512."""
    tiny = import_module("tests.support.tiny_model")
    return tiny.write_tiny_llama(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny.TinyLlama())


@pytest.fixture(scope="session")
def tiny_store(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A ``Store`` with the package ``tiny`` (int8). Shared by all tests: read only."""
    return import_module("tests.support.models").tiny_store(tiny_gguf, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def smollm2_store() -> Any:
    """A ``Store`` with the package ``smollm2-135m-instruct`` (int8). Shared by all tests: read only."""
    return import_module("tests.support.models").smollm2_store()

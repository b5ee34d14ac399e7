"""Models that several rooms test with. Each is made once per run; only ``smollm2_store`` may need a network.

``tiny_*`` is a four-layer llama of random weights, imported in a fraction of a second. ``smollm2_store`` holds the
catalog's real model (tests that use it carry the marker ``model``), fetched and imported once into the user's cache.

What they need is loaded when one is asked for: the tests of the core and of the protocol must not wait for a runtime.
"""

import os
from collections.abc import AsyncIterator
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


@pytest.fixture
async def host(tiny_store: Any) -> AsyncIterator[Any]:
    """A ``Host`` of the package ``tiny``: a real engine and whatever it needs around it."""
    made = import_module("tests.support.engines").Host(tiny_store)
    yield made
    await made.close()


@pytest.fixture
def whole(tiny_store: Any) -> Any:
    """The span of all blocks of ``tiny``, on one host."""
    return import_module("tests.support.engines").spans(tiny_store, "tiny", 1)[0]


@pytest.fixture
def big_run() -> Any:
    """Ids that take ``tiny`` tens of milliseconds, so that something can happen meanwhile."""
    return import_module("numpy").tile([[7, 100, 31, 250, 18, 9, 77, 310, 4, 4, 19]], (1, 40))[:, :400]

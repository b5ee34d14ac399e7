"""Packages for the fixtures of the same names: see `tests/conftest.py`, which loads this only when one is asked for."""

import os
import shutil
from hashlib import blake2b
from pathlib import Path
from time import perf_counter_ns

import shoal_models
from shoal_agent.cli.model import default_cache
from shoal_agent.cli.model_import import import_source
from shoal_agent.shell import ort
from shoal_models.importing import Measurement, import_gguf
from shoal_models.manifest import Numeric
from shoal_models.package import Store
from shoal_models.ports import no_progress

TINY_MACS_PER_S = 10_000_000_000
SMOLLM2 = "smollm2-135m-instruct"


def measurement() -> Measurement:
    """Really runs blocks, on one thread; claims a fixed machine speed."""
    ort.configure(1)
    return Measurement(ort.Runner(), perf_counter_ns, lambda: TINY_MACS_PER_S)


def tiny_store(gguf: Path, root: Path) -> Store:
    store = Store(root)
    import_gguf(gguf, store, "tiny", "int8", "Apache-2.0", measurement(), no_progress)
    return store


def smollm2_store() -> Store:
    """One directory per state of the converter's source: no test passes on weights that an older converter wrote."""
    root = default_cache(os.environ) / "test-models"
    sources = sorted(Path(shoal_models.__file__).parent.rglob("*.py"))
    state = blake2b(b"".join(path.read_bytes() for path in sources), digest_size=8).hexdigest()
    if root.is_dir():
        for old in root.iterdir():
            if old.name != state:
                shutil.rmtree(old)
    store = Store(root / state)
    ensure_smollm2(store, SMOLLM2, "int8")
    return store


def ensure_smollm2(store: Store, name: str, numeric: Numeric) -> None:
    """Import the real model as ``name`` unless it is there, whole."""
    if name not in store.names() or store.verify(name):
        import_source(SMOLLM2, name, numeric, store, default_cache(os.environ), quiet=True)

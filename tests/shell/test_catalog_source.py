"""The catalog as a last source: a child imports, the digest decides, nothing of a failure is left."""

import json
import shutil
import sys

import pytest

from shoal_agent.shell.catalog_source import CatalogSource, _command, child_environment
from shoal_models.catalog import catalog_names
from shoal_models.errors import FetchFailed
from shoal_models.package import Store
from shoal_protocol.ids import Digest

COPY = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2]); print(sys.argv[3])"
OTHER = Digest(b"?" * 32)


@pytest.fixture
def made(tiny_store):
    """What the child would print of the tiny package."""
    return json.dumps({"name": "tiny", "digest": tiny_store.load("tiny").digest.hex()})


@pytest.fixture
def imports(tiny_store, made):
    """Commands of children that "import" by copying the tiny package; each call is remembered."""
    calls = []

    def command(name, numeric, scratch):
        calls.append((name, numeric))
        return [sys.executable, "-c", COPY, str(tiny_store.root), str(scratch), made]

    command.calls = calls
    return command


async def test_what_the_import_gives_is_taken_over_as_a_fetched_package(tiny_store, tmp_path, imports):
    manifest, store = tiny_store.load("tiny"), Store(tmp_path / "store")
    await CatalogSource(store, {}, ("one",), imports).obtain(manifest.digest)
    assert store.find(manifest.digest) == manifest
    assert store.fetched() == (manifest.digest,)
    assert store.names() == ()
    assert not store.lacking(manifest.blobs)
    assert not (store.root / "scratch").exists()


async def test_an_entry_that_gives_another_model_is_tried_once(tmp_path, imports):
    source = CatalogSource(Store(tmp_path / "store"), {}, ("one", "two"), imports)
    for _ in range(2):
        with pytest.raises(FetchFailed, match="one, two"):
            await source.obtain(OTHER)
    assert imports.calls == [(name, numeric) for name in ("one", "two") for numeric in ("int8", "int4", "fp32")]
    assert not (tmp_path / "store" / "scratch").exists()


@pytest.mark.parametrize(
    "script",
    ["import sys; sys.exit(3)", "print('{')", "print('[]')", "print('{}')", "print('x' * 10**6)", "pass"],
)
async def test_a_child_that_fails_is_no_source_and_may_be_tried_again(tmp_path, script):
    calls = []

    def command(name, numeric, _scratch):
        calls.append(numeric)
        return [sys.executable, "-c", script]

    source = CatalogSource(Store(tmp_path / "store"), {}, ("one",), command, import_s_max=10.0)
    for _ in range(2):
        with pytest.raises(FetchFailed):
            await source.obtain(OTHER)
    assert calls == ["int8", "int8"], "what fails one way is not tried in the others"


async def test_a_child_that_takes_too_long_is_killed(tmp_path):
    def command(*_arguments):
        return [sys.executable, "-c", "import time; time.sleep(60)"]

    with pytest.raises(FetchFailed):
        await CatalogSource(Store(tmp_path / "store"), {}, ("one",), command, import_s_max=0.2).obtain(OTHER)


async def test_a_promise_that_is_not_kept_leaves_no_package(tiny_store, tmp_path, made):
    def command(*_arguments):
        return [sys.executable, "-c", f"print({made!r})"]

    store, digest = Store(tmp_path / "store"), tiny_store.load("tiny").digest
    with pytest.raises(FetchFailed):
        await CatalogSource(store, {}, ("one",), command).obtain(digest)
    assert store.fetched() == ()


async def test_without_entries(tmp_path):
    with pytest.raises(FetchFailed, match="none"):
        await CatalogSource(Store(tmp_path), {}, ()).obtain(OTHER)


def test_the_child_does_what_an_operator_would(tmp_path):
    command = _command("smollm2-135m-instruct", "int4", tmp_path)
    at = command.index("-m")
    assert command[at : at + 5] == ("-m", "shoal_agent", "model", "import", "smollm2-135m-instruct")
    assert {"--numeric", "int4", "--store", str(tmp_path), "--json"} <= set(command)
    assert (shutil.which("nice") is None) == (command[0] == sys.executable)
    assert catalog_names()


def test_a_service_without_a_home_keeps_downloads_beside_the_store(tmp_path):
    assert child_environment({"HOME": str(tmp_path)}, tmp_path / "s") == {"HOME": str(tmp_path)}
    assert child_environment({"XDG_CACHE_HOME": "/c"}, tmp_path / "s") == {"XDG_CACHE_HOME": "/c"}
    for homeless in ({}, {"HOME": ""}, {"HOME": str(tmp_path / "absent")}):
        assert child_environment(homeless, tmp_path / "s")["XDG_CACHE_HOME"] == str(tmp_path / "s" / "downloads")

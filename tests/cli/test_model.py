"""`shoal model` as it is typed: results on stdout, one JSON object if asked, a code for every ending."""

import hashlib
import shutil
import subprocess
import sys

import pytest

import shoal_agent.cli.model as command
import shoal_agent.cli.model_import as importer
import shoal_models.catalog
from shoal_agent.errors import ExitCode
from shoal_models.errors import StoreFull
from shoal_models.package import Store
from tests.support.commands import shoal


@pytest.fixture
def store(tiny_store, tmp_path) -> Store:
    shutil.copytree(tiny_store.root, tmp_path / "store")
    return Store(tmp_path / "store")


def model(*arguments: object, store: Store):
    return shoal("model", *arguments, "--store", store.root)


def damage(store: Store) -> str:
    """Bend one shard of layer.1; its digest."""
    ref = store.load("tiny").blocks[2].shards[0]
    data = bytearray(store.blob_path(ref.id).read_bytes())
    data[100] ^= 1
    store.blob_path(ref.id).write_bytes(data)
    return ref.digest


def test_list_and_show(store):
    listed = model("list", "--json", store=store)
    assert [package["name"] for package in listed.json["packages"]] == ["tiny"]
    assert model("list", store=store).out.startswith("tiny ")
    shown = model("show", "tiny", "--json", store=store).json
    assert shown["digest"] == store.load("tiny").digest.hex()
    assert len(shown["manifest"]["blocks"]) == shown["blocks"] == 6
    text = model("show", "tiny", store=store).out
    assert "layer.3" in text
    assert "Apache-2.0" in text


def test_an_empty_store_says_how_to_begin(tmp_path):
    ended = model("list", store=Store(tmp_path))
    assert ended.code == 0
    assert "shoal model import" in ended.out


def test_a_damaged_package_is_listed_as_damaged(store):
    (store.root / "packages" / "broken.json").write_bytes(b"{}")
    ended = model("list", store=store)
    assert ended.code == 0
    assert "broken" in ended.out
    assert "damaged" in ended.out
    assert model("show", "broken", store=store).code == ExitCode.CORRUPT


def test_verify(store):
    assert model("verify", "tiny", store=store).code == 0
    digest = damage(store)
    ended = model("verify", "tiny", "--json", store=store)
    assert ended.code == ExitCode.CORRUPT
    assert "layer.1" in ended.err
    assert digest in ended.err
    assert ended.json["error"]["exit_code"] == ExitCode.CORRUPT


def test_rm(store):
    ended = model("rm", "tiny", "--json", store=store)
    assert (ended.code, ended.json["name"], ended.json["freed_bytes"] > 0) == (0, "tiny", True)
    assert list(store.blobs.iterdir()) == []
    assert model("rm", "tiny", store=store).code == ExitCode.NOT_FOUND


@pytest.mark.parametrize("verb", ["show", "verify", "rm"])
def test_an_unknown_package(store, verb):
    ended = model(verb, "other", "--json", store=store)
    assert ended.code == ExitCode.NOT_FOUND
    assert "there: tiny" in ended.err
    assert ended.json["error"]["message"]


def test_import_a_file(tiny_gguf, tmp_path):
    store = Store(tmp_path / "new")
    ended = model("import", tiny_gguf, "--json", store=store)
    assert ended.code == 0, ended.err
    assert (ended.json["name"], ended.json["licence"]) == ("tiny", "unknown")
    assert store.verify("tiny") == ()
    assert store.load("tiny").reference_macs_per_s > 0
    assert model("import", tiny_gguf, "--name", "four", "--numeric", "int4", store=store).out.startswith("four ")


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["nosuchmodel"], ExitCode.NOT_FOUND, "there: smollm2-135m-instruct"),
        (["/nowhere/x.gguf"], ExitCode.FAILED, "No such file"),
        (["{tiny}", "--name", "Not A Name"], ExitCode.USAGE, "not a deployment id"),
        (["smollm2-135m-instruct", "--name", "Not A Name"], ExitCode.USAGE, "not a deployment id"),
        (["{tiny}", "--numeric", "int3"], ExitCode.USAGE, "int3"),
        (["{garbage}"], ExitCode.FAILED, "does not begin with 'GGUF'"),
    ],
)
def test_an_import_that_cannot_be(arguments, code, complaint, tiny_gguf, tmp_path):
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"nothing of the kind")
    words = [word.format(tiny=tiny_gguf, garbage=garbage) for word in arguments]
    ended = model("import", *words, store=Store(tmp_path / "new"))
    assert ended.code == code
    assert complaint in ended.err


def test_a_full_disk_is_said_plainly(tiny_gguf, tmp_path, monkeypatch):
    def full(*_):
        raise StoreFull("no room left at /x: No space left on device; free some space and try again")

    monkeypatch.setattr(Store, "put", full)
    ended = model("import", tiny_gguf, store=Store(tmp_path / "new"))
    assert (ended.code, "free some space" in ended.err) == (ExitCode.FAILED, True)


WITHOUT_ONNX = """
import sys
sys.modules["onnx"] = None
from shoal_agent.cli.main import main
main(sys.argv[1:])
"""


def test_without_the_extra_everything_but_importing_works(store, tiny_gguf):
    def run(*arguments):
        command = [sys.executable, "-c", WITHOUT_ONNX, "model", *arguments, "--store", store.root]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert run("verify", "tiny").returncode == 0
    ended = run("import", tiny_gguf)
    assert ended.returncode == ExitCode.FAILED
    assert "pip install 'shoal[import]'" in ended.stderr


def test_where_things_are_kept(tmp_path):
    environment = {"XDG_DATA_HOME": "/d", "XDG_CACHE_HOME": "/c"}
    assert str(command.default_store(environment)) == "/d/shoal/models"
    assert str(command.default_cache(environment)) == "/c/shoal"
    assert str(command.default_store({})).endswith("/.local/share/shoal/models")
    assert str(command.default_cache({"XDG_CACHE_HOME": ""})).endswith("/.cache/shoal")


def test_a_catalog_model_is_imported_only_if_it_is_not_there_whole(tiny_gguf, tmp_path, monkeypatch):
    """The download itself is tested in the models room; here the file stands in the cache already."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digest = hashlib.sha256(tiny_gguf.read_bytes()).hexdigest()
    real = shoal_models.catalog.catalog_entry("smollm2-135m-instruct")
    member = real.source.member.model_copy(update={"sha256": digest})
    entry = real.model_copy(update={"source": real.source.model_copy(update={"member": member})})
    for module in (importer, shoal_models.catalog):
        monkeypatch.setattr(module, "catalog_entry", lambda name: entry)
    cached = tmp_path / "cache" / "shoal" / "sources" / f"{digest}.gguf"
    cached.parent.mkdir(parents=True)
    shutil.copy(tiny_gguf, cached)

    store = command.ensure_catalog_model("smollm2-135m-instruct", quiet=True)
    first = store.load("smollm2-135m-instruct")
    again = command.ensure_catalog_model("smollm2-135m-instruct", quiet=True)
    assert again.load("smollm2-135m-instruct") == first, "measured once, not again"
    store.blob_path(first.blobs[-1].id).unlink()
    command.ensure_catalog_model("smollm2-135m-instruct", quiet=True)
    assert store.verify("smollm2-135m-instruct") == ()

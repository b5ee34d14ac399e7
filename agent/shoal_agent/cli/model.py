"""``shoal model``: packages in the store of this machine.

The store is a directory that agents read and this command writes; by default the user's own
(``$XDG_DATA_HOME/shoal/models``). Importing needs the ``import`` extra (``onnx``); everything else does not, so a node
that only hosts can still list and verify what it holds.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal_agent.cli.output import AsJson, print_json
from shoal_agent.errors import ExitCode, FailedError, UserError
from shoal_models.errors import CatalogInvalid, CorruptShard, ManifestInvalid, ModelError, PackageNotFound
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_protocol.errors import MalformedMessage

app = typer.Typer(no_args_is_help=True, help="Import, list, show, verify and remove packages.")


class NumericOption(StrEnum):
    """In which numbers a model is stored."""

    INT8 = "int8"
    FP32 = "fp32"
    INT4 = "int4"


StoreOption = Annotated[
    Path | None, typer.Option("--store", help="The store's directory; by default $XDG_DATA_HOME/shoal/models.")
]


def default_store(environment: Mapping[str, str]) -> Path:
    """Where packages of this user are kept."""
    return Path(environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "shoal" / "models"


def default_cache(environment: Mapping[str, str]) -> Path:
    """Where downloads of this user are kept."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal"


def ensure_catalog_model(name: str, *, quiet: bool) -> Store:
    """The user's store with the catalog model ``name`` in it, whole; fetched and imported if need be. UserError."""
    store = Store(default_store(os.environ))
    with _explained():
        from shoal_models.catalog import catalog_entry  # noqa: PLC0415 - as `_importer`

        if not _holds(store, name, catalog_entry(name).source.member.sha256):
            _importer().import_source(name, None, "int8", store, default_cache(os.environ), quiet=quiet)
    return store


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A name of the catalog, or a .gguf file.")],
    name: Annotated[str | None, typer.Option(help="What to call the package.")] = None,
    numeric: Annotated[NumericOption, typer.Option(help="Numbers of the weights.")] = NumericOption.INT8,
    store: StoreOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Convert a model into a package: blocks, shards, tokenizer, measured costs.

    Example: shoal model import smollm2-135m-instruct
    """
    with _explained():
        place = open_store(store)
        manifest = _importer().import_source(
            source, name, numeric.value, place, default_cache(os.environ), quiet=as_json
        )
    if as_json:
        print_json(_summary(manifest) | {"store": str(place.root)})
        return
    print(_line(_summary(manifest)))


@app.command("list")
def list_(store: StoreOption = None, *, as_json: AsJson = False) -> None:
    """List the packages of the store.

    Example: shoal model list
    """
    place = open_store(store)
    packages = [_described(place, name) for name in place.names()]
    if as_json:
        print_json({"store": str(place.root), "packages": packages})
        return
    for package in packages:
        print(_line(package))
    if not packages:
        print(f"no packages in {place.root}; begin with: shoal model import smollm2-135m-instruct")


@app.command()
def show(name: str, store: StoreOption = None, *, as_json: AsJson = False) -> None:
    """Show a package: where it came from, its blocks, what they cost.

    Example: shoal model show smollm2-135m-instruct
    """
    with _explained():
        manifest = open_store(store).load(name)
    if as_json:
        print_json(_summary(manifest) | {"manifest": manifest.model_dump(mode="json")})
        return
    size = manifest.dimensions
    print(f"{manifest.name}\n  digest     {manifest.digest.hex()}\n  licence    {manifest.licence}")
    print(f"  source     {manifest.source.format}, sha256 {manifest.source.sha256}")
    print(f"  network    {manifest.architecture}, hidden {size.hidden}, {size.heads} heads over {size.kv_heads}")
    print(f"  context    {manifest.context_tokens_max} tokens, vocabulary {size.vocabulary}")
    print(f"  weights    {manifest.numeric}, {_megabytes(manifest.package_bytes)} in all")
    print(f"  measured   on {manifest.reference_macs_per_s / 1e9:.1f} GMAC/s\n")
    print(f"  {'block':<12} {'shards':>10} {'1 token':>12} {'128 tokens':>12} {'KV per token':>14}")
    for block in manifest.blocks:
        cost = f"{block.cost.decode_us / 1000:>9.3f} ms {block.cost.prefill_us / 1000:>9.3f} ms"
        print(f"  {block.name:<12} {_megabytes(block.shard_bytes):>10} {cost} {block.kv_bytes_per_token:>12} B")


@app.command()
def verify(name: str, store: StoreOption = None, *, as_json: AsJson = False) -> None:
    """Hash every file of a package again.

    Example: shoal model verify smollm2-135m-instruct
    """
    with _explained():
        faults = open_store(store).verify(name)
    if faults:
        lines = "\n".join(fault.problem for fault in faults)
        raise UserError(f"{name} is damaged:\n{lines}", "import it again; sound files are kept", ExitCode.CORRUPT)
    if as_json:
        print_json({"name": name, "ok": True})
        return
    print(f"{name}: every file is what its digest says")


@app.command()
def rm(name: str, store: StoreOption = None, *, as_json: AsJson = False) -> None:
    """Remove a package, and every file that no other package needs.

    Example: shoal model rm smollm2-135m-instruct
    """
    with _explained():
        freed = open_store(store).remove(name)
    if as_json:
        print_json({"name": name, "freed_bytes": freed})
        return
    print(f"removed {name}, {_megabytes(freed)} freed")


def open_store(path: Path | None) -> Store:
    """The store at ``path``, or this user's."""
    return Store(path if path is not None else default_store(os.environ))


def _holds(store: Store, name: str, source_sha256: str) -> bool:
    """Whether the package is there, from that source, and whole."""
    try:
        return store.load(name).source.sha256 == source_sha256 and not store.verify(name)
    except (PackageNotFound, ManifestInvalid):
        return False


def _importer() -> Any:  # noqa: ANN401 - a module that may not be importable here
    try:
        from shoal_agent.cli import model_import  # noqa: PLC0415 - only importing needs onnx and onnxruntime
    except ModuleNotFoundError as fault:
        raise FailedError(f"importing needs the package {fault.name}", "pip install 'shoal[import]'") from fault
    return model_import


def _described(store: Store, name: str) -> dict[str, Any]:
    try:
        manifest = store.load(name)
    except ModelError as fault:
        return {"name": name, "fault": str(fault)}
    return _summary(manifest)


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "digest": manifest.digest.hex(),
        "architecture": manifest.architecture,
        "numeric": manifest.numeric,
        "licence": manifest.licence,
        "bytes": manifest.package_bytes,
        "blocks": len(manifest.blocks),
        "context_tokens_max": manifest.context_tokens_max,
    }


def _line(package: Mapping[str, Any]) -> str:
    if "fault" in package:
        return f"{package['name']:<28} damaged: {package['fault']}"
    size = _megabytes(package["bytes"])
    return f"{package['name']:<28} {package['numeric']}  {package['blocks']:>3} blocks  {size:>9}  {package['licence']}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


@contextmanager
def _explained() -> Iterator[None]:
    """What went wrong with a model, in words of the command line and with its exit code."""
    try:
        yield
    except (PackageNotFound, CatalogInvalid) as fault:
        hint = "shoal model import NAME, with a name of the catalog or a .gguf file"
        raise UserError(str(fault), hint, ExitCode.NOT_FOUND) from fault
    except (CorruptShard, ManifestInvalid) as fault:
        raise UserError(str(fault), "import the model again", ExitCode.CORRUPT) from fault
    except MalformedMessage as fault:
        raise UserError(str(fault), "choose a --name like my-model-1b", ExitCode.USAGE) from fault
    except ModelError as fault:
        raise FailedError(str(fault)) from fault
    except OSError as fault:
        raise FailedError(f"{fault.filename or 'the store'}: {fault.strerror or fault}") from fault

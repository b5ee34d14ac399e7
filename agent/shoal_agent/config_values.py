"""The kinds of value a configuration is made of: paths, private files, sizes, counts, hosts.

Each is an annotated type that pydantic reads, so that a fault is reported with the path of its setting, together with
all the others. A path is made absolute against the folder of its file; ``credential:NAME`` is a file that systemd's
``LoadCredential=`` hands to the service. A file that holds a private key must be its owner's alone (mode 0600);
credentials are guarded by systemd itself. Files are looked at only when the caller is about to use them.
"""

import ipaddress
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

CREDENTIAL_PREFIX: Final = "credential:"
NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
HASH: Final = re.compile(r"[0-9a-f]{64}")

_SIZE_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Section(BaseModel):
    """What every section is: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a configuration is read: what its paths are relative to, and whether its files must be there."""

    folder: Path
    environment: Mapping[str, str]
    check_files: bool


def _place(info: ValidationInfo) -> Place:
    assert isinstance(info.context, Place), "sections are read through load_config"
    return info.context


def _resolve(value: object, info: ValidationInfo) -> object:
    """A path as text, made absolute."""
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be a path")
    place, text = _place(info), str(value)
    if not text.startswith(CREDENTIAL_PREFIX):
        return place.folder / Path(text).expanduser()
    credentials = place.environment.get("CREDENTIALS_DIRECTORY")
    if credentials is None:
        raise ValueError(f"{text} needs systemd's LoadCredential= ($CREDENTIALS_DIRECTORY is not set); name a file")
    return Path(credentials) / Path(text.removeprefix(CREDENTIAL_PREFIX)).name


def _readable(path: Path, info: ValidationInfo) -> Path:
    if _place(info).check_files and not path.is_file():
        raise ValueError(f"{path} is not there")
    if _place(info).check_files and not os.access(path, os.R_OK):
        raise ValueError(f"{path} may not be read by this user")
    return path


def _private(path: Path, info: ValidationInfo) -> Path:
    place = _place(info)
    guarded = place.environment.get("CREDENTIALS_DIRECTORY") == str(path.parent)
    if not place.check_files or guarded:
        return path
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ValueError(f"{path} holds a private key and has mode {mode:04o}; run: chmod 600 {path}")
    return path


def _folder(path: Path, info: ValidationInfo) -> Path:
    if _place(info).check_files and path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a directory")
    return path


def _whole(value: object) -> object:
    """A whole number; TOML's booleans are none, though Python would count with them."""
    if isinstance(value, bool | float):
        raise ValueError("must be a whole number")  # noqa: TRY004 - pydantic collects ValueError only
    return value


def _size(value: object) -> object:
    """Bytes, as a number or as text with a unit."""
    if not isinstance(value, str):
        return _whole(value)
    match = re.fullmatch(r"(\d{1,18})\s*([A-Za-z]*)", value.strip())
    if match is None or match[2].upper() not in _SIZE_UNITS:
        raise ValueError("must be a number of bytes, such as 500000000, '500 MB' or '2 GiB'")
    return int(match[1]) * _SIZE_UNITS[match[2].upper()]


def _hash(value: str) -> str:
    if not HASH.fullmatch(value):
        raise ValueError("must be 64 hexadecimal characters, lower case")
    return value


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("must be a name: a-z 0-9 . _ -, at most 64, beginning with a letter or digit")
    return value


def is_loopback(host: str) -> bool:
    """Whether ``host`` can only be this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_wildcard(host: str) -> bool:
    """Whether listening on ``host`` means every interface."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


ReadableFile = Annotated[Path, BeforeValidator(_resolve), AfterValidator(_readable)]
PrivateFile = Annotated[Path, BeforeValidator(_resolve), AfterValidator(_readable), AfterValidator(_private)]
Directory = Annotated[Path, BeforeValidator(_resolve), AfterValidator(_folder)]
Whole = Annotated[int, BeforeValidator(_whole)]
Port = Annotated[Whole, Field(ge=0, le=65535)]
Count = Annotated[Whole, Field(ge=1, le=1024)]
Bytes = Annotated[int, BeforeValidator(_size), Field(gt=0)]
Room = Annotated[int, BeforeValidator(_size), Field(ge=0)]
"""As Bytes; 0 means no bound."""
Seconds = Annotated[float, Field(ge=0, le=600)]
"""Nobody waits for ten minutes."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Watts, money: a number that is not negative; TOML's ``nan`` and ``inf`` are none."""
Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Of an amount: 0 would forbid everything."""
Hash = Annotated[str, AfterValidator(_hash)]
Name = Annotated[str, AfterValidator(_name)]

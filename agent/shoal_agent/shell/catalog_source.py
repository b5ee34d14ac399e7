"""A package from the catalog, when no peer has it: imported here, in a process of its own.

A catalog entry names a model file, not a package: which digest its import will have, only importing tells (it depends
on the converter and its libraries). So each entry is imported into a scratch store beside the real one, and the digest
compared; what it came to is remembered, so that no entry is converted twice for nothing. The package that was wanted
is taken over, as if a peer had given it: it is not pinned.

The child does what ``shoal model import`` does, at the lowest priority: converting takes minutes of a core, and this
node may be serving.
"""

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

from shoal_models.catalog import catalog_names
from shoal_models.errors import FetchFailed, ModelError
from shoal_models.package import Store
from shoal_protocol.ids import Digest

IMPORT_S_MAX: Final = 1800.0
"""To download and convert one model on a small device; a child that takes longer is killed."""
OUTPUT_BYTES_MAX: Final = 64 * 1024
"""What a child may print: one JSON object."""
NUMERICS: Final = ("int8", "int4", "fp32")
"""Ways to import an entry, the usual one first."""

Command = Callable[[str, str, Path], Sequence[str]]
"""Entry, numeric and store to the command line that imports."""


class CatalogSource:
    """The catalog of this installation as a source of packages for ``store``."""

    def __init__(
        self,
        store: Store,
        environment: Mapping[str, str],
        names: Sequence[str] | None = None,
        command: Command | None = None,
        import_s_max: float = IMPORT_S_MAX,
    ) -> None:
        self._store = store
        self._environment = environment
        self._names = names if names is not None else catalog_names()
        self._command = command or _command
        self._import_s_max = import_s_max
        self._known: dict[tuple[str, str], str] = {}
        """(entry, numeric) -> the digest its import has."""
        self._one_at_a_time = asyncio.Lock()

    async def obtain(self, model: Digest) -> None:
        """Have the package ``model`` in the store. FetchFailed says what was tried."""
        async with self._one_at_a_time:
            for name in self._names:
                for numeric in NUMERICS:
                    digest = self._known.get((name, numeric))
                    if digest is None or digest == model.hex():
                        digest = await self._try(name, numeric, model)
                    if digest == model.hex():
                        return
                    if digest is None:
                        break  # what fails one way, fails the others: no network, no converter
        raise FetchFailed(f"no import of the catalog gives it (entries: {', '.join(self._names) or 'none'})")

    async def _try(self, name: str, numeric: str, model: Digest) -> str | None:
        """Import one entry; its digest, None if that failed. If it is ``model``, the package is in the store."""
        scratch = self._store.root / "scratch"
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        try:
            imported = json.loads(await self._run(self._command(name, numeric, scratch)))
            digest = str(imported["digest"])
            self._known[name, numeric] = digest
            if digest == model.hex():
                await asyncio.to_thread(partial(self._store.take_over, Store(scratch), str(imported["name"])))
        except (ValueError, KeyError, TypeError, OSError, ModelError):
            return None
        else:
            return digest
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)

    async def _run(self, command: Sequence[str]) -> bytes:
        """What the child printed; empty if it failed. TimeoutError after ``import_s_max``."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=dict(self._environment),
            start_new_session=True,
        )
        assert process.stdout is not None
        answer = b""
        try:
            async with asyncio.timeout(self._import_s_max):
                while chunk := await process.stdout.read(OUTPUT_BYTES_MAX):
                    answer += chunk if len(answer) < OUTPUT_BYTES_MAX else b""
                return answer if await process.wait() == 0 else b""
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            # A pipe that is not read to its end would keep wait() from returning.
            while await process.stdout.read(OUTPUT_BYTES_MAX):
                pass
            await process.wait()


def _command(name: str, numeric: str, scratch: Path) -> Sequence[str]:
    here = (sys.executable, "-m", "shoal_agent", "model", "import", name)
    nice = shutil.which("nice")
    return (*((nice, "-n", "19") if nice else ()), *here, "--numeric", numeric, "--store", str(scratch), "--json")


def child_environment(environment: Mapping[str, str], store: Path) -> dict[str, str]:
    """``environment``, with downloads beside the store for a service that has no home to put them in."""
    home = environment.get("HOME", "")
    if environment.get("XDG_CACHE_HOME") or (home and os.access(home, os.W_OK)):
        return dict(environment)
    return {**environment, "XDG_CACHE_HOME": str(store / "downloads")}

"""llama.cpp, built from a source package that anybody can have: ``llama-cpp-python`` vendors it whole.

Everything goes into one folder: the package as pip fetched it (its digest is written here, so the same bytes are built
everywhere), the tree that was in it, cmake and ninja in an environment of their own, the build and its log. A folder
that holds a finished build of the same package with the same options is used as it is.

Only a C++ compiler is expected of the machine. The build runs at the lowest priority: it takes ten minutes and nobody
waits for it.
"""

import asyncio
import json
import os
import re
import shutil
import sys
import tarfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PACKAGE: Final = "llama_cpp_python"
VERSION: Final = "0.3.36"
TREE: Final = f"{PACKAGE}-{VERSION}"
SHA256: Final = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
TOOLS: Final = ("cmake==3.31.10", "ninja==1.13.0")
TARGETS: Final = ("ggml-rpc-server", "llama-server", "llama-bench")
OPTIONS: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_RPC=ON",
    # What would need a network, or libraries that have no part in what is measured.
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)
NICE: Final = ("nice", "-n", "15")
SILENCE_S_MAX: Final = 1800.0
"""The slowest file takes two minutes alone on one core; a busy machine needs several times that."""
STEP: Final = re.compile(r"^\[(\d+)/(\d+)\]")
"""How ninja begins each line."""
TAIL_LINES: Final = 15


Show = Callable[[str], object]


@dataclass(frozen=True)
class Built:
    """A finished build, and what a reader of figures wants to know of it; ``commit`` is llama.cpp's own."""

    programs: Path
    described: dict[str, Any]

    def program(self, name: str) -> str:
        """One of TARGETS, as it is started."""
        return str(self.programs / name)


async def build(folder: Path, jobs: int) -> Built:
    """The build in ``folder``, which exists; made if it is not there."""
    stamp = folder / "built.json"
    wanted = {"sha256": SHA256, "compiler": await _compiler(), "options": list(OPTIONS)}
    if not (stamp.is_file() and json.loads(stamp.read_text()) == wanted):
        stamp.unlink(missing_ok=True)
        await _fetch(folder)
        await _compile(folder, jobs)
        stamp.write_text(json.dumps(wanted, indent=1) + "\n")
    commit = (folder / TREE / ".git" / "modules" / "vendor" / "llama.cpp" / "HEAD").read_text().strip()
    return Built(folder / "build" / "bin", {"package": f"{PACKAGE} {VERSION}", "commit": commit, **wanted})


async def _compiler() -> str:
    """What the machine's C++ compiler calls itself."""
    found = shutil.which("c++")
    if found is None:
        raise SystemExit("no C++ compiler (c++) on this machine; on Debian and Ubuntu: apt-get install g++")
    said: list[str] = []
    await _run([found, "--version"], show=said.append)
    return said[0].strip()


async def _fetch(folder: Path) -> None:
    """The package, exactly the bytes named above, and its tree beside it."""
    wish = folder / "requirements.txt"
    wish.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    only_this = ("--no-deps", "--no-binary", PACKAGE, "--require-hashes")
    await _run([*_pip(Path(sys.executable), "download"), *only_this, "-d", str(folder), "-r", str(wish)])
    shutil.rmtree(folder / TREE, ignore_errors=True)
    with tarfile.open(folder / f"{TREE}.tar.gz") as packed:
        await asyncio.to_thread(packed.extractall, folder, filter="data")


async def _compile(folder: Path, jobs: int) -> None:
    """The programs, in ``build/bin``; what the tools said meanwhile, in ``build.log``."""
    tools = folder / "tools"
    await _run([sys.executable, "-m", "venv", "--clear", str(tools)])
    await _run([*_pip(tools / "bin" / "python", "install"), *TOOLS])
    path = {"PATH": f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    source, work = folder / TREE / "vendor" / "llama.cpp", folder / "build"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars, (folder / "build.log").open("w") as log:
        bar = bars.add_task("building llama.cpp", total=None)

        def show(line: str) -> None:
            log.write(line)
            if step := STEP.match(line):
                bars.update(bar, completed=int(step[1]), total=int(step[2]))

        await _run([*NICE, "cmake", "-S", str(source), "-B", str(work), "-G", "Ninja", *OPTIONS], path, show)
        await _run([*NICE, "ninja", "-C", str(work), "-j", str(jobs), *TARGETS], path, show)


def _pip(python: Path, command: str) -> list[str]:
    return [str(python), "-m", "pip", command, "--quiet", "--disable-pip-version-check"]


async def _run(
    command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({}), show: Show = lambda _line: None
) -> None:
    """Run ``command`` to its end, showing its lines as they come; SystemExit with the last ones if it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        while line := (await asyncio.wait_for(process.stdout.readline(), SILENCE_S_MAX)).decode(errors="replace"):
            show(line)
            last.append(line)
        code = await asyncio.wait_for(process.wait(), SILENCE_S_MAX)
    finally:
        if process.returncode is None:
            process.terminate()  # ninja ends its compilers, pip its helpers
            await process.wait()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{''.join(last)}")

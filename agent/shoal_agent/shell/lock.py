"""``reconfig.lock``: how an operator says "not now".

While a file of this name lies in the state directory, or in the runtime directory (which a reboot empties), this node
votes against every change that is no repair and takes no blocks it does not have. It need not contain anything:
``touch`` and ``rm`` are the whole interface, for people and for scripts. Looking is one ``stat`` a second, so that a
lock counts before whoever made it has turned around.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from shoal_agent.core.events import LockChanged
from shoal_agent.shell.ports import Post

LOCK_FILE: Final = "reconfig.lock"
LOOK_S: Final = 1.0


def lock_files(state_dir: Path, environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a lock may lie; systemd names the runtime directories, if there are any."""
    runtime = [Path(part) for part in environment.get("RUNTIME_DIRECTORY", "").split(":") if part]
    return tuple(folder / LOCK_FILE for folder in (state_dir, *runtime))


class LockWatch:
    """Looks after the lock."""

    def __init__(self, files: Sequence[Path], post: Post) -> None:
        self._files = tuple(files)
        self._post = post
        self._held = False

    def look(self) -> None:
        """Tell the node if something has changed."""
        held = any(file.exists() for file in self._files)
        if held != self._held:
            self._held = held
            self._post(LockChanged(held))

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

"""How much memory an engine keeps for open blocks: run as a process of its own, which holds nothing else.

    python -m tests.support.resident <store> <package> <first block> <last block>

prints {"resident_bytes": ..., "counted_bytes": ...} of the blocks: after every row they may look up was looked up, less
what the process had before. Resident is private memory plus every mapped page of a blob once; counted is what the
system's own resident set size says, where a page that thirty sessions map is thirty pages.
"""

import asyncio
import gc
import json
import sys
from pathlib import Path

import numpy as np
import psutil

from shoal_agent.core.facts import StageSpan
from shoal_agent.shell.ort import Cancel
from shoal_agent.shell.stage import OpenBlock, Stage
from shoal_models.manifest import Manifest
from shoal_models.package import Store
from shoal_protocol.ids import DeploymentId, Epoch
from tests.support.engines import Host

_CHUNK = 1024
_STRIDE = 256
"""Positions between two runs: a page fault brings 64 KB of a table, which is 512 rows of 128 bytes."""


def use(blocks: tuple[OpenBlock, ...], manifest: Manifest) -> None:
    """Look up every token and every position's rotation; the KV goes with the sessions."""
    vocabulary = manifest.dimensions.vocabulary
    if blocks[0].block.kind == "embed":
        for start in range(0, vocabulary, _CHUNK):
            tokens = np.arange(start, min(start + _CHUNK, vocabulary))[None]
            Stage(blocks[:1], vocabulary, _CHUNK).run(tokens, 0, tokens.size, want_logits=False, cancel=Cancel())
    stage = Stage(blocks, vocabulary, manifest.context_tokens_max)
    for position in range(0, manifest.context_tokens_max, _STRIDE):
        stage.run(stage.blank(1), position, 1, want_logits=position == 0, cancel=Cancel())


def memory() -> tuple[int, int]:
    """(private bytes and blob pages once, resident set size)."""
    gc.collect()
    private, pages, key = 0, {}, None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            path = values[4] if len(values) > 4 else ""
            key = (path, values[1]) if "/blobs/" in path else None
        elif name == "Anonymous:":
            private += 1024 * int(values[0])
        elif name == "Rss:" and key is not None:
            pages[key] = max(pages.get(key, 0), 1024 * int(values[0]))
    return private + sum(pages.values()), psutil.Process().memory_info().rss


async def main(root: str, package: str, first: str, last: str) -> None:
    host = Host(Store(Path(root)))
    manifest = host.store.load(package)
    span = StageSpan(DeploymentId(package), Epoch(0), manifest.digest, int(first), int(last))
    before = memory()
    await host.load(span)
    use(host.blocks.of(span).blocks, manifest)
    after = memory()
    await host.close()
    sys.stdout.write(json.dumps({"resident_bytes": after[0] - before[0], "counted_bytes": after[1] - before[1]}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

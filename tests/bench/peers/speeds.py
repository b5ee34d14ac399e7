"""Decode and prefill, whole and split, of both systems, in turns.

============  =====================================================================================
whole         Shoal's engine with all blocks in one process, no agent (see ``tests/bench/variants.py``)
one, two      so many agents, asked through the API of the one with the first stage
server-whole  llama-server by itself
server-two    llama-server over two ggml-rpc-servers
bench-whole   llama-bench by itself: no HTTP, no sampling
bench-two     llama-bench over two ggml-rpc-servers
============  =====================================================================================
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench.machine import Foreign
from tests.bench.peers import llama
from tests.bench.peers.build import Built
from tests.bench.run import Settings, rotated, sample
from tests.bench.variants import Model, Variant, running

SHOAL: Final = ("whole", "one", "two")
SERVERS: Final = ("server-whole", "server-two")

Turn = Callable[[], Awaitable[dict[str, list[float]]]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Sides:
    """Both systems, and the machine they share. ``prose`` are the tokens that prompts are cut from."""

    built: Built
    gguf: Path
    model: Model
    cores: Sequence[int]
    prose: list[int]


async def measure(sides: Sides, settings: Settings, folder: Path, tell: Tell) -> dict[str, Any]:
    """{rounds, disturbances, same_tokens}."""
    found: dict[str, Any] = {"rounds": [], "disturbances": [], "same_tokens": {}}
    for number in range(settings.sittings):
        async with _turns(sides, settings, number, folder / f"sitting-{number}") as (turns, same_tokens):
            found["same_tokens"] = same_tokens
            await _sit(turns, settings, found, tell)
    return found


async def _sit(turns: Mapping[str, Turn], settings: Settings, found: dict[str, Any], tell: Tell) -> None:
    """Every round asks everybody, each time in another order."""
    foreign = Foreign()
    for number in range(settings.rounds):
        waited_s = await foreign.quiet(settings.patience_s)
        samples: dict[str, dict[str, list[float]]] = {}
        used: dict[str, float] = {}
        for name in rotated(tuple(turns), number):
            foreign.look()
            samples[name] = await turns[name]()
            used[name] = foreign.look()
        found["rounds"].append(samples)
        found["disturbances"].append({"waited_s": waited_s, "foreign_cores": used})
        medians = ", ".join(f"{name} {median(samples[name]['decode_ms']):.2f} ms" for name in sorted(samples))
        tell(f"round {len(found['rounds'])}: {medians} ({max(used.values()):.2f} cores used by others)")


@asynccontextmanager
async def _turns(
    sides: Sides, settings: Settings, number: int, folder: Path
) -> AsyncIterator[tuple[dict[str, Turn], dict[str, bool]]]:
    """What takes turns, all of it up; and whether each system says the same whole and split."""
    built, gguf, front, cores = sides.built, sides.gguf, sides.cores[0], sides.cores[: llama.HOSTS]
    async with AsyncExitStack() as stack:
        shoal = running(rotated(SHOAL, number), sides.model, folder, sides.cores)
        variants: dict[str, Variant] = {**await stack.enter_async_context(shoal)}
        over = await stack.enter_async_context(llama.hosts(built, cores, folder / "server-hosts"))
        for name, hosts in zip(SERVERS, ([], over), strict=True):
            server = llama.server(built, gguf, hosts, front, folder / name)
            variants[name] = await stack.enter_async_context(server)
        bench_over = await stack.enter_async_context(llama.hosts(built, cores, folder / "bench-hosts"))
        prompt = sides.prose[: settings.prompt_tokens]
        tokens = {
            name: (await variant.generate(prompt, settings.decode_tokens)).tokens for name, variant in variants.items()
        }
        turns: dict[str, Turn] = {
            name: partial(sample, variant, sides.prose, settings, tokens[name]) for name, variant in variants.items()
        }
        sizes = settings.prefill_tokens, settings.decode_tokens
        turns["bench-whole"] = partial(llama.bench, built, gguf, [], front, *sizes)
        turns["bench-two"] = partial(llama.bench, built, gguf, bench_over, front, *sizes)
        same = {
            "Shoal": all(tokens[name] == tokens[SHOAL[0]] for name in SHOAL),
            "llama.cpp": all(tokens[name] == tokens[SERVERS[0]] for name in SERVERS),
        }
        yield turns, same

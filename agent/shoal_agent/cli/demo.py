"""`shoal demo`: the main job, end to end, on one machine.

Fetches and converts the model if it is not there, starts a broker and the agents, has the operator plan and announce
the split, waits until every stage is ready, streams one answer from the first agent's OpenAI API, prints a summary,
and stops everything it started. With ``--keep`` the cluster stays up until Ctrl-C or SIGTERM.

With ``--json`` stdout is exactly one JSON object; everything a person may like to see meanwhile goes to stderr.
"""

import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.table import Table

from shoal_agent.cli.model import ensure_catalog_model
from shoal_agent.errors import ExitCode, FailedError
from shoal_agent.shell.cluster import LocalCluster, local_cluster
from shoal_agent.shell.lab import LabSettings

MODEL: Final = "smollm2-135m-instruct"
PROMPT: Final = "What is the capital of France? Then tell me one interesting fact about it."
NODES_MAX: Final = 8
REQUEST_TIMEOUT_S: Final = 300.0
"""A long answer on a busy laptop; the API's own deadline comes first."""


@dataclass(slots=True)
class Answer:
    """One streamed answer, as its client saw it."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    first_token_s: float = 0.0
    total_s: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Rate after the first token: decoding alone."""
        span = self.total_s - self.first_token_s
        return (len(self.token_ids) - 1) / span if len(self.token_ids) > 1 and span > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Wishes:
    """The command line."""

    prompt: str
    nodes: int
    max_tokens: int
    seed: int
    keep: bool
    port: int
    as_json: bool
    started: float


def demo(
    prompt: Annotated[str, typer.Option(help="What to ask.")] = PROMPT,
    nodes: Annotated[int, typer.Option(min=1, max=NODES_MAX, help="Agents, one stage of the model each.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Longest answer.")] = 128,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the sampler; the demo is greedy, so it changes nothing yet.")
    ] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster up until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the first agent's API; 0 takes a free one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Split a real language model over agents on this machine and ask it something.

    Example: shoal demo --nodes 3 --prompt "Why is the sky blue?"
    """
    wishes = Wishes(prompt, nodes, max_tokens, seed, keep, port, as_json, time.monotonic())
    raise SystemExit(asyncio.run(_run_until_signal(wishes)))


async def _run_until_signal(wishes: Wishes) -> int:
    """Run the demo as a task that SIGINT and SIGTERM cancel, so that every ``finally`` on the way gets its turn."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(_demo(wishes))
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return ExitCode.OK if wishes.keep else ExitCode.INTERRUPTED


async def _demo(wishes: Wishes) -> int:
    console = Console(stderr=True, quiet=wishes.as_json)
    store = await asyncio.to_thread(ensure_catalog_model, MODEL, quiet=wishes.as_json)
    folder = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    settings = LabSettings(folder / "lab", wishes.nodes, store.root, (), api_port=wishes.port)
    try:
        console.print(f"starting a broker and {wishes.nodes} agents ...")
        async with local_cluster(settings, MODEL, stages=wishes.nodes) as cluster:
            console.print(_plan_table(cluster))
            if wishes.keep:
                return await _keep(cluster, wishes)
            return await _ask_once(cluster, wishes, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _keep(cluster: LocalCluster, wishes: Wishes) -> int:
    if wishes.as_json:
        print(json.dumps(_kept_json(cluster)), flush=True)
    else:
        print(f"API      {cluster.api}/v1\nAPI key  {cluster.lab.api_key}\nstop with Ctrl-C", flush=True)
    await cluster.watch()
    return ExitCode.OK


async def _ask_once(cluster: LocalCluster, wishes: Wishes, console: Console) -> int:
    console.print(f"[dim]{wishes.prompt}[/dim]")

    def show(text: str) -> None:
        if not wishes.as_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    answer = await stream_chat(cluster.api, cluster.lab.api_key, wishes, show)
    if wishes.as_json:
        print(json.dumps(_answer_json(cluster, answer, wishes)), flush=True)
        return ExitCode.OK
    print(flush=True)
    console.print(
        f"{len(answer.token_ids)} tokens, {answer.tokens_per_second:.1f} tokens/s, "
        f"first token {answer.first_token_s:.2f} s after asking, "
        f"{time.monotonic() - wishes.started:.1f} s in all, epoch {cluster.plan.epoch}"
    )
    return ExitCode.OK


async def stream_chat(api: str, key: str, wishes: Wishes, show: Callable[[str], None]) -> Answer:
    """Ask over the OpenAI API, streaming; ``show`` gets each piece of text."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": wishes.prompt}],
        "max_tokens": wishes.max_tokens,
        "temperature": 0,
        "seed": wishes.seed,
        "stream": True,
        "return_token_ids": True,
    }
    answer = Answer()
    begun = time.monotonic()
    timeout = httpx.Timeout(REQUEST_TIMEOUT_S, connect=5.0)
    async with (
        httpx.AsyncClient(timeout=timeout, headers={"Authorization": f"Bearer {key}"}) as client,
        client.stream("POST", f"{api}/v1/chat/completions", json=body) as response,
    ):
        if response.status_code != httpx.codes.OK:
            text = (await response.aread()).decode(errors="replace")
            raise FailedError(f"the API answered {response.status_code}: {text[:500]}")
        async for line in response.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                _take(json.loads(line.removeprefix("data: ")), answer, begun, show)
    answer.total_s = time.monotonic() - begun
    return answer


def _take(event: dict[str, Any], answer: Answer, begun: float, show: Callable[[str], None]) -> None:
    if "error" in event:
        raise FailedError(f"the stream broke: {event['error'].get('message', event['error'])}")
    for choice in event.get("choices", ()):
        tokens = choice.get("token_ids") or []
        if tokens and not answer.token_ids:
            answer.first_token_s = time.monotonic() - begun
        answer.token_ids += tokens
        text = choice.get("delta", {}).get("content") or ""
        answer.text += text
        show(text)


def _plan_json(cluster: LocalCluster) -> list[dict[str, Any]]:
    return [
        {"node": stage.node, "first_block": stage.first_block, "last_block": stage.last_block}
        for stage in cluster.plan.stages
    ]


def _answer_json(cluster: LocalCluster, answer: Answer, wishes: Wishes) -> dict[str, Any]:
    return {
        "text": answer.text,
        "token_ids": answer.token_ids,
        "tokens": len(answer.token_ids),
        "tokens_per_second": round(answer.tokens_per_second, 2),
        "first_token_s": round(answer.first_token_s, 4),
        "epoch": cluster.plan.epoch,
        "plan": _plan_json(cluster),
        "broker": cluster.broker.url,
        "total_s": round(time.monotonic() - wishes.started, 3),
    }


def _kept_json(cluster: LocalCluster) -> dict[str, Any]:
    return {
        "api": cluster.api,
        "api_key": cluster.lab.api_key,
        "epoch": cluster.plan.epoch,
        "plan": _plan_json(cluster),
        "agents": [
            {"node": agent.node.node, "pid": agent.pid, "api": cluster.apis[agent.node.node]}
            for agent in cluster.agents
        ],
        "brokers": [{"url": cluster.broker.url, "pid": cluster.broker.pid}],
        "state_dir": str(cluster.lab.settings.folder),
    }


def _plan_table(cluster: LocalCluster) -> Table:
    table = Table("stage", "node", "blocks", title=f"{MODEL}, epoch {cluster.plan.epoch}")
    for index, stage in enumerate(cluster.plan.stages):
        table.add_row(str(index), stage.node, f"{stage.first_block} - {stage.last_block}")
    return table

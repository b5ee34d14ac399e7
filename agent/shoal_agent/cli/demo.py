"""`shoal demo`: the main job, end to end, on one machine.

Fetches and converts the model if it is not there, starts a broker and the agents, has the operator plan and announce
the split, waits until every stage is ready, streams one answer from the first agent's OpenAI API, kills one of the
others in the middle of the same answer (``demo_chaos``), prints what came of it, and stops everything it started. With
``--keep`` the cluster stays up until Ctrl-C or SIGTERM, whole: the agent that was killed is started again.

The answer goes to stdout, once; everything else, the second stream included, is for a person and goes to stderr. With
``--json`` stdout is exactly one JSON object.
"""

import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.table import Table

from shoal_agent.cli.demo_ask import Answer, Question, ask, session_client
from shoal_agent.cli.demo_chaos import TOKENS_MIN, Chaos, Target, come_back, lose_one
from shoal_agent.cli.model import ensure_catalog_model
from shoal_agent.errors import ExitCode
from shoal_agent.shell.cluster import LocalCluster, local_cluster
from shoal_agent.shell.lab import LabSettings

MODEL: Final = "smollm2-135m-instruct"
PROMPT: Final = "What is the capital of France, and what is it known for?"
"""Its answer is three sentences, long enough to be interrupted, and ends by itself."""
NODES_MAX: Final = 8

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wishes:
    """The command line."""

    question: Question
    nodes: int
    chaos: bool
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
    chaos: Annotated[
        bool, typer.Option("--chaos/--no-chaos", help="Ask again, and kill one host in the middle of the answer.")
    ] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Afterwards leave the cluster up until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the first agent's API; 0 takes a free one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Split a real language model over agents on this machine and ask it something.

    Then ask it the same again, kill one host in the middle of the answer, and say what came of it: the demo fails
    (exit code 7) if the answer breaks off or a single token is another one.

    With --json the object has "chaos": what was killed (node, first_block, last_block, after_tokens), what the client
    saw (identical, gap_s, usual_s), how the session came back (way: kv, replay, prefill or move; detect_s, switch_s,
    rebuild_s, moved), and what the others decided (epoch, reason, plan, decided_s, serving_s, redundant_s, why_not).
    If nobody was killed it is null, and "chaos_skipped" says why.

    Example: shoal demo --nodes 3 --prompt "Why is the sky blue?"
    """
    question = Question(MODEL, prompt, max_tokens, seed)
    wishes = Wishes(question, nodes, chaos, keep, port, as_json, time.monotonic())
    raise SystemExit(asyncio.run(_run_until_signal(wishes)))


async def _run_until_signal(wishes: Wishes) -> int:
    """Run the demo as a task that a signal cancels, so that every ``finally`` on the way gets its turn, undisturbed."""
    loop = asyncio.get_running_loop()
    kept = asyncio.Event()
    task = asyncio.ensure_future(_demo(wishes, kept))

    def end() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end)
    try:
        return await task
    except asyncio.CancelledError:
        return ExitCode.OK if kept.is_set() else ExitCode.INTERRUPTED


async def _demo(wishes: Wishes, kept: asyncio.Event) -> int:
    console = Console(stderr=True, quiet=wishes.as_json)
    store = await asyncio.to_thread(ensure_catalog_model, MODEL, quiet=wishes.as_json)
    folder = Path(tempfile.mkdtemp(prefix="shoal-demo-"))
    settings = LabSettings(folder / "lab", wishes.nodes, store.root, (), api_port=wishes.port)
    try:
        console.print(f"starting a broker and {wishes.nodes} agents ...")
        async with (
            local_cluster(settings, MODEL, stages=wishes.nodes) as cluster,
            session_client(cluster.api, cluster.lab.api_key) as client,
        ):
            console.print(_plan_table(cluster))
            told = await _show(cluster, client, wishes, console)
            if wishes.as_json:
                print(json.dumps(told), flush=True)
            if wishes.keep:
                kept.set()
                await cluster.watch()
        return ExitCode.OK
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _show(cluster: LocalCluster, client: httpx.AsyncClient, wishes: Wishes, console: Console) -> Json:
    """The whole show; what there is to tell of it."""
    answer = await _ask(cluster, client, wishes, console)
    skipped = why_no_chaos(wishes, answer)
    chaos = None if skipped else await _lose_one(cluster, client, wishes, answer, console)
    if skipped and wishes.chaos:
        console.print(f"nobody is killed: {skipped}", highlight=False)
    console.print(f"{time.monotonic() - wishes.started:.1f} s in all", highlight=False)
    told = _answer_json(cluster, answer, wishes) | _chaos_json(chaos, skipped)
    if not wishes.keep:
        return told
    if chaos is not None:
        console.print(f"starting {chaos.node[:8]} again, so that what is kept is whole ...", highlight=False)
        cluster.apis[chaos.node] = await come_back(client, chaos.node, cluster.start_again)
    if not wishes.as_json:
        print(f"API      {cluster.api}/v1\nAPI key  {cluster.lab.api_key}\nstop with Ctrl-C", flush=True)
    return told | _kept_json(cluster)


async def _ask(cluster: LocalCluster, client: httpx.AsyncClient, wishes: Wishes, console: Console) -> Answer:
    """The first answer, which nothing disturbs: it is the result."""
    console.print(wishes.question.prompt, style="dim", markup=False, highlight=False)

    def show(_answer: Answer, text: str) -> None:
        if not wishes.as_json:
            sys.stdout.write(text)
            sys.stdout.flush()

    answer = await ask(client, wishes.question, show)
    if not wishes.as_json:
        print(flush=True)
    console.print(
        f"{len(answer.token_ids)} tokens, {answer.tokens_per_second:.1f} tokens/s, "
        f"first token {answer.first_token_s:.2f} s after asking, epoch {cluster.plan.epoch}",
        highlight=False,
    )
    return answer


def why_no_chaos(wishes: Wishes, answer: Answer) -> str:
    """Why nobody is to be killed; empty if somebody is."""
    if not wishes.chaos:
        return "--no-chaos"
    if wishes.nodes == 1:
        return "there is one agent only, and it is the one that is asked"
    if len(answer.token_ids) < TOKENS_MIN:
        return f"an answer of {len(answer.token_ids)} tokens has no middle, it takes {TOKENS_MIN}"
    return ""


async def _lose_one(
    cluster: LocalCluster, client: httpx.AsyncClient, wishes: Wishes, answer: Answer, console: Console
) -> Chaos:
    def show(_answer: Answer, text: str) -> None:
        console.print(text, end="", soft_wrap=True, markup=False, highlight=False)

    def tell(line: str) -> None:
        console.print(line, style="bold" if "✗" in line else None, soft_wrap=True, markup=False, highlight=False)

    target = Target(client, cluster.lab.nodes[0].node, wishes.question, cluster.kill)
    return await lose_one(target, answer, show, tell)


def _plan_json(cluster: LocalCluster) -> list[Json]:
    return [
        {"node": stage.node, "first_block": stage.first_block, "last_block": stage.last_block}
        for stage in cluster.plan.stages
    ]


def _answer_json(cluster: LocalCluster, answer: Answer, wishes: Wishes) -> Json:
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


def _chaos_json(chaos: Chaos | None, skipped: str) -> Json:
    return {"chaos": None if chaos is None else chaos.as_json(), "chaos_skipped": skipped or None}


def _kept_json(cluster: LocalCluster) -> Json:
    return {
        "api": cluster.api,
        "api_key": cluster.lab.api_key,
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

"""Real blocks and engines in one process: answers are awaited, and stages chained by hand instead of over sockets."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event as Signal

import numpy as np

from shoal_agent.core.effects import ExportKv, ImportKv, RunStage
from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    Event,
    KvExported,
    KvImported,
    StageFailed,
    StageFinished,
)
from shoal_agent.core.facts import LeftOut, StageSpan
from shoal_agent.shell import ort
from shoal_agent.shell.blocks import Blocks
from shoal_agent.shell.engine import Engine
from shoal_agent.shell.lanes import Lanes
from shoal_agent.shell.tensors import Tensors
from shoal_models.package import Store
from shoal_protocol.ids import DeploymentId, Epoch, SessionId

ANSWER_S = 30


def a_session() -> SessionId:
    return SessionId(secrets.token_bytes(16))


def spans(store: Store, name: str, stages: int, epoch: int = 0) -> list[StageSpan]:
    """All blocks of a package in ``stages`` runs of about the same length."""
    manifest = store.load(name)
    cuts = np.linspace(0, len(manifest.blocks), stages + 1).round().astype(int).tolist()
    return [
        StageSpan(DeploymentId(name), Epoch(epoch), manifest.digest, first, after - 1)
        for first, after in pairwise(cuts)
    ]


def await_all(lanes: Lanes) -> None:
    """Until every job submitted so far is done, without letting the loop turn."""
    done = Signal()
    lanes.submit(done.set, lambda _: None)
    assert done.wait(10)


@dataclass
class Host:
    """One node's blocks and engine. Create it inside a loop."""

    store: Store
    tensors: Tensors = field(default_factory=Tensors)
    answers: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)
    lanes: int = 1
    blocks: Blocks = field(init=False)
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        ort.configure(1)
        self.blocks = Blocks(self.store, self.answers.put_nowait)
        self.engine = Engine(self.blocks, self.tensors, self.answers.put_nowait, self.lanes)

    async def answer(self) -> Event:
        return await asyncio.wait_for(self.answers.get(), ANSWER_S)

    async def load(self, span: StageSpan) -> BlocksLoaded | BlocksFailed:
        self.blocks.load(span)
        answer = await self.answer()
        assert isinstance(answer, BlocksLoaded | BlocksFailed)
        return answer

    def start(self, session: SessionId, data, position: int, count: int, *, last: bool = True, stage: int = 0) -> None:
        payload = data if isinstance(data, bytes) else self.tensors.put(data)
        self.engine.run_stage(RunStage(session, stage, position, count, payload, last))

    async def run(self, session: SessionId, data, position: int, count: int, **options) -> StageFinished | StageFailed:
        self.start(session, data, position, count, **options)
        answer = await self.answer()
        assert isinstance(answer, StageFinished | StageFailed)
        return answer

    async def output(self, session: SessionId, data, position: int, count: int, **options) -> np.ndarray | None:
        """The output of a run that must not fail, out of the table."""
        answer = await self.run(session, data, position, count, **options)
        assert isinstance(answer, StageFinished), answer
        if answer.output is None:
            return None
        output = self.tensors.take(answer.output)
        assert output.shape == answer.shape
        return output

    async def rows(self, session: SessionId, blocks: range, position: int, count: int, stage: int = 0) -> bytes:
        """Rows of KV, which must be there, out of the table. ``blocks``: by their number in the model."""
        self.engine.export_kv(ExportKv(session, stage, blocks[0], blocks[-1], position, count))
        answer = await self.answer()
        assert isinstance(answer, KvExported), answer
        assert answer.rows is not None, answer
        rows = bytes(self.tensors.take(answer.rows))
        assert len(rows) == answer.byte_count
        return rows

    def bring(self, session: SessionId, blocks: range, position: int, count: int, rows: bytes, stage: int = 0) -> None:
        """Ask for an import, from a tensor that lies unaligned in what a socket filled."""
        handle = self.tensors.put(memoryview(b"!" + rows)[1:])
        self.engine.import_kv(ImportKv(session, stage, blocks[0], blocks[-1], position, count, handle))

    async def take(self, *rows, **options) -> str:
        """``bring``, and why it did not work."""
        self.bring(*rows, **options)
        answer = await self.answer()
        assert isinstance(answer, KvImported), answer
        return answer.reason

    async def close(self) -> None:
        """Nothing may be left."""
        await self.engine.close()
        await self.blocks.close()
        assert (len(self.tensors), self.engine.kv_bytes, self.blocks.count) == (0, 0, 0)
        threads = [*self.engine._lanes._threads, *self.blocks._loader._threads]
        assert not any(thread.is_alive() for thread in threads)


@dataclass
class Cluster:
    """Stage ``i`` on host ``i``."""

    hosts: Sequence[Host]
    spans: Sequence[StageSpan]

    async def load(self) -> None:
        for host, span in zip(self.hosts, self.spans, strict=True):
            assert isinstance(await host.load(span), BlocksLoaded)

    def open(self, tokens_max: int, left_out: LeftOut | None = None) -> SessionId:
        session = a_session()
        for stage, (host, span) in enumerate(zip(self.hosts, self.spans, strict=True)):
            host.engine.open_stage(session, stage, span, tokens_max, left_out)
        return session

    def end(self, session: SessionId) -> None:
        for stage, host in enumerate(self.hosts):
            host.engine.close_stage(session, stage)

    async def feed(self, session: SessionId, tokens: Sequence[int], position: int, *, last: bool = True):
        """Logits [vocabulary] after ``tokens``, which begin at ``position``; None unless ``last``."""
        data = np.array([tokens], np.int64)
        for stage, host in enumerate(self.hosts):
            data = await host.output(session, data, position, len(tokens), last=last, stage=stage)
        return None if data is None else data.reshape(-1)

    async def hand_over(self, old: SessionId, to: "Cluster", new: SessionId, position: int, count: int) -> None:
        """Rows of a session here to one there, cut to the stages there."""
        for here, (source, mine) in enumerate(zip(self.hosts, self.spans, strict=True)):
            for there, (target, its) in enumerate(zip(to.hosts, to.spans, strict=True)):
                first, last = max(mine.first_block, its.first_block), min(mine.last_block, its.last_block)
                if first <= last:
                    both = range(first, last + 1)
                    rows = await source.rows(old, both, position, count, stage=here)
                    assert await target.take(new, both, position, count, rows, stage=there) == ""

    async def greedy(self, prompt: Sequence[int], count: int, left_out: LeftOut | None = None) -> list[int]:
        """``count`` tokens after ``prompt``."""
        session = self.open(len(prompt) + count, left_out)
        fed, position, answer = list(prompt), 0, []
        while len(answer) < count:
            logits = await self.feed(session, fed, position)
            position += len(fed)
            fed = [int(logits.argmax())]
            answer += fed
        self.end(session)
        return answer


async def cluster(store: Store, name: str, stages: int) -> Cluster:
    """A loaded cluster; close its hosts."""
    made = Cluster([Host(store) for _ in range(stages)], spans(store, name, stages))
    await made.load()
    return made

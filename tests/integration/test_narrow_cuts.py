"""Two real stages with a narrow cut: what crosses it, and that a loss behind it changes no token.

A host is lost in the middle of an answer. Who takes its place has the KV of the first positions, as a standby has, and
gets the rest again from what the stage before it kept. The answer must be that of an undisturbed run, token by token.
"""

from dataclasses import replace

import numpy as np
import pytest

from shoal_models.package import Store
from shoal_protocol.frames import encode_frame
from shoal_protocol.headers import Activation
from shoal_protocol.ids import DeploymentId, Epoch, SessionId
from shoal_protocol.tensors import payload_of
from shoal_protocol.widths import DTYPE_OF, ActivationWidth, row_bytes
from tests.support.engines import Cluster, Host, spans

SMOLLM2 = "smollm2-135m-instruct"
F32, *NARROW = ActivationWidth


async def two_stages(store: Store, name: str, width: ActivationWidth) -> Cluster:
    first, second = spans(store, name, 2)
    made = Cluster([Host(store), Host(store)], [replace(first, gives=width), replace(second, takes=width)])
    await made.load()
    return made


class Answering:
    """A greedy answer over two stages; ``sent`` is what crossed the cut: (position, tokens, bytes) for each run."""

    def __init__(self, cluster: Cluster, prompt: list[int], tokens_max: int) -> None:
        self.cluster = cluster
        self.session = cluster.open(tokens_max)
        self.back, self.behind = cluster.hosts[1], self.session
        self.sent: list[tuple[int, int, bytes]] = []
        self.fed, self.position, self.answer = prompt, 0, []

    async def go(self, count: int) -> list[int]:
        """``count`` tokens more; all of them."""
        for _ in range(count):
            data = np.array([self.fed], np.int64)
            hidden = await self.cluster.hosts[0].output(self.session, data, self.position, len(self.fed))
            self.sent.append((self.position, len(self.fed), payload_of(hidden).tobytes()))
            self.position += len(self.fed)
            self.fed = [await self.behind_it(*self.sent[-1])]
            self.answer += self.fed
        return self.answer

    async def behind_it(self, position: int, count: int, data: bytes) -> int:
        logits = await self.back.output(self.behind, memoryview(b"!" + data)[1:], position, count, stage=1)
        return int(logits.argmax())

    async def lose(self, new: Host, copied: int) -> None:
        """The second stage is gone: ``new`` has the KV of the first ``copied`` runs, and is sent the others again."""
        span = self.cluster.spans[1]
        until = sum(count for _, count, _ in self.sent[:copied])
        new.engine.open_stage(self.session, 1, span, 128)
        if until:
            blocks = range(span.first_block, span.last_block + 1)
            rows = await self.back.rows(self.behind, blocks, 0, until, stage=1)
            assert await new.take(self.session, blocks, 0, until, rows, stage=1) == ""
        self.back.engine.close_stage(self.behind, 1)
        self.back = new
        for run in self.sent[copied:]:
            token = await self.behind_it(*run)
        assert self.sent[copied:] == [] or [token] == self.fed, "the last one draws the same"

    def close(self) -> None:
        self.cluster.hosts[0].engine.close_stage(self.session, 0)
        self.back.engine.close_stage(self.session, 1)


async def struck_and_not(store: Store, name: str, width: ActivationWidth, prompt: list[int], tokens: int):
    """The answers (undisturbed, after a loss with a standby, after one without), and what crossed in the first."""
    cluster, spare = await two_stages(store, name, width), Host(store)
    await spare.load(cluster.spans[1])
    calm, backed, bare = (Answering(cluster, prompt, 128) for _ in range(3))
    expected = await calm.go(tokens)
    for struck, copied in ((backed, tokens // 2 - 2), (bare, 0)):
        await struck.go(tokens // 2)
        await struck.lose(spare, copied)
        await struck.go(tokens - tokens // 2)
        assert struck.sent == calm.sent, "what is sent again is what was sent, and nothing after it differs"
    for each in (calm, backed, bare):
        each.close()
    for host in (*cluster.hosts, spare):
        await host.close()
    return expected, backed.answer, bare.answer, calm.sent


@pytest.mark.parametrize("width", ActivationWidth)
async def test_a_lost_stage_behind_a_narrow_cut_changes_no_token(tiny_store, width):
    prompt = [7, 100, 31, 250, 18, 9, 77]
    expected, backed, bare, sent = await struck_and_not(tiny_store, "tiny", width, prompt, 16)
    assert backed == bare == expected
    assert len(set(expected)) > 4, "an answer that repeats itself proves little"
    assert [len(data) for _, _, data in sent] == [row_bytes(width, 64) * count for _, count, _ in sent]


def framed(width: ActivationWidth, count: int, values: int) -> int:
    """Bytes of a whole frame with ``count`` activations."""
    itemsize = {F32: 4, ActivationWidth.F16: 2}.get(width, 1)
    shape = (1, count, row_bytes(width, values) // itemsize)
    dtype, payload = DTYPE_OF[width], bytes(count * row_bytes(width, values))
    header = Activation(DeploymentId("d"), Epoch(0), SessionId(bytes(16)), 1, 300, count, True, 30_000, dtype, shape, 0)
    return len(encode_frame(header, payload)[0]) + len(payload)


def test_frames_shrink_by_what_the_width_saves(record_property):
    """A token of SmolLM2 and a chunk of its prompt: 576 values each."""
    one = {width.name: framed(width, 1, 576) for width in ActivationWidth}
    chunk = {width.name: framed(width, 64, 576) for width in ActivationWidth}
    record_property("frame_bytes", {"one": one, "chunk": chunk})
    overhead = one["F32"] - 2304
    assert overhead < 80
    assert one == {"F32": 2304 + overhead, "F16": 1152 + overhead, "I8": 580 + overhead, "I8X32": 648 + overhead}
    assert chunk["I8X32"] < 0.29 * chunk["F32"]


@pytest.mark.long
@pytest.mark.model
@pytest.mark.parametrize("width", NARROW)
async def test_the_real_model_goes_on_behind_a_narrow_cut(smollm2_store, width, record_property):
    prompt = list(range(1000, 1024))
    expected, backed, bare, sent = await struck_and_not(smollm2_store, SMOLLM2, width, prompt, 24)
    record_property("bytes_across", sum(len(data) for _, _, data in sent))
    assert backed == bare == expected
    assert sum(len(data) for _, _, data in sent) == 47 * row_bytes(width, 576)

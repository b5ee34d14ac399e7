"""What a node serves: pieces of what it has, in turn by peer, at a rate, never more than it can."""

import asyncio
from collections import Counter

import pytest

from shoal_agent.shell.content_orders import BUSY
from shoal_agent.shell.content_server import ContentServer
from shoal_agent.shell.rate import Rate
from shoal_models.package import Store
from shoal_models.pieces import PIECE_BYTES
from shoal_protocol.content import ContentKind, ContentRequested
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.limits import CONTENT_QUEUE_MAX
from tests.support.depots import NAME, wide_store

ANNA, BERT = NodeId("a" * 32), NodeId("b" * 32)
WAIT_S = 10.0


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return wide_store(tmp_path_factory.mktemp("wide"))


class Desk:
    """A server, and what it said."""

    def __init__(self, store: Store, bytes_per_s: int = 0) -> None:
        self.store = store
        self.manifest = store.load(NAME)
        self.said: list[tuple[NodeId, int, int, str, bytes | None]] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.changed = asyncio.Event()
        self.server = ContentServer(store, self.send, Rate(bytes_per_s), self.offload, self.count)
        self.calls = 0

    async def offload(self, work):
        return await asyncio.to_thread(work)

    def send(self, peer, header, payload) -> None:
        self.said.append((peer, header.call, header.total_bytes, header.error, payload))
        self.changed.set()

    def count(self, name, label, amount) -> None:
        self.counts[name, label] += amount

    def ask(self, peer=ANNA, content=ContentKind.BLOB, digest=None, offset=0, byte_count=PIECE_BYTES) -> None:
        self.calls += 1
        wanted = self.manifest.blocks[1].shards[0].id if digest is None else digest
        self.server.asked(peer, ContentRequested(self.calls, content, wanted, offset, byte_count))

    async def answers(self, count: int):
        async with asyncio.timeout(WAIT_S):
            while len(self.said) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.said


@pytest.fixture
async def desk(store):
    made = Desk(store)
    running = asyncio.create_task(made.server.run())
    yield made
    assert not running.done(), "a server lives through everything a peer asks"
    running.cancel()


async def test_a_piece_of_a_blob(desk):
    ref = desk.manifest.blocks[1].shards[0]
    desk.ask(offset=PIECE_BYTES)
    ((peer, call, total, error, payload),) = await desk.answers(1)
    assert (peer, call, total, error) == (ANNA, 1, ref.bytes, "")
    assert payload == desk.store.blob_path(ref.id).read_bytes()[PIECE_BYTES : 2 * PIECE_BYTES]
    assert desk.counts == {("content_bytes", "out"): PIECE_BYTES}


async def test_the_last_piece_is_as_long_as_it_is(desk):
    ref = desk.manifest.blocks[1].shards[0]
    desk.ask(offset=ref.bytes - 10)
    assert len((await desk.answers(1))[0][4]) == 10


async def test_a_manifest_by_its_model_s_digest(desk):
    desk.ask(content=ContentKind.MANIFEST, digest=desk.manifest.digest)
    _, _, total, error, payload = (await desk.answers(1))[0]
    assert (total, error, payload) == (len(desk.manifest.encode()), "", desk.manifest.encode())


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"digest": Digest(b"?" * 32)}, "not here"),
        ({"content": ContentKind.MANIFEST, "digest": Digest(b"?" * 32)}, "no package"),
        ({"offset": 10**9}, "ends at"),
        ({"offset": 2**62}, "ends at"),
        ({"byte_count": PIECE_BYTES + 1}, "at most"),
        ({"byte_count": 0}, "ends at"),
    ],
)
async def test_what_cannot_be_served_is_refused_in_words(desk, question, words):
    desk.ask(**question)
    _, _, total, error, payload = (await desk.answers(1))[0]
    assert (total, payload) == (0, None)
    assert words in error
    assert error != BUSY


async def test_peers_are_served_in_turn(desk):
    for peer in (ANNA, ANNA, ANNA, BERT):
        desk.ask(peer)
    assert [peer for peer, *_ in await desk.answers(4)] == [ANNA, BERT, ANNA, ANNA]


async def test_who_asks_for_too_much_is_told_to_come_later(desk):
    for _ in range(CONTENT_QUEUE_MAX + 2):
        desk.ask()
    assert [(call, error) for _, call, _, error, _ in desk.said] == [
        (CONTENT_QUEUE_MAX + 1, BUSY),
        (CONTENT_QUEUE_MAX + 2, BUSY),
    ]
    await desk.answers(CONTENT_QUEUE_MAX + 2)


async def test_a_request_that_would_wait_too_long_is_refused_at_once(store):
    desk = Desk(store, bytes_per_s=PIECE_BYTES)
    for _ in range(8):
        desk.ask()
    assert [error for *_, error, _ in desk.said] == [BUSY, BUSY]


async def test_nothing_is_read_for_who_is_gone(desk):
    for peer in (ANNA, ANNA, BERT):
        desk.ask(peer)
    desk.server.lost(ANNA)
    await desk.answers(1)
    assert [peer for peer, *_ in desk.said] == [BERT]

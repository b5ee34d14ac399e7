"""Handing out pieces among peers that are good, bad, busy, poor or dead; no sockets."""

import asyncio
from collections import Counter

import pytest

from shoal_agent.shell import content_pull
from shoal_agent.shell.content_orders import Delivery, Order, OrderFailed, PeerBusy, PeerLacks
from shoal_agent.shell.content_pull import Means, Pull
from shoal_agent.shell.rate import Rate
from shoal_models.errors import FetchFailed
from shoal_models.package import Store
from shoal_models.partial import PartialBlob
from shoal_models.pieces import PIECE_BYTES
from shoal_protocol.ids import NodeId
from shoal_protocol.limits import CONTENT_BUSY_MAX, CONTENT_ORDERS_MAX, CONTENT_PEERS_MAX, CONTENT_STRIKES_MAX
from tests.support.depots import NAME, wide_store

PEERS = [NodeId(letter * 32) for letter in "abcdefgh"]
WAIT_S = 15.0


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    return wide_store(tmp_path_factory.mktemp("wide"))


class Peers:
    """Every peer has everything, unless its ``manner`` says otherwise; and how often is counted."""

    def __init__(self, store: Store, target: Store) -> None:
        self.store = store
        self.target = target
        self.manners = {}
        self.begun = asyncio.Event()
        self.asked: Counter[NodeId] = Counter()
        self.now: Counter[NodeId] = Counter()
        self.most: Counter[NodeId] = Counter()
        self.most_peers = 0
        self.accused: list[NodeId] = []
        self.booked: list[int] = []
        self.counts: Counter[tuple[str, str]] = Counter()

    async def place(self, peer: NodeId, order: Order) -> Delivery:
        self.begun.set()
        self.asked[peer] += 1
        self.now[peer] += 1
        self.most[peer] = max(self.most[peer], self.now[peer])
        self.most_peers = max(self.most_peers, sum(bool(count) for count in self.now.values()))
        try:
            await asyncio.sleep(0.001)
            data = self.store.blob_path(order.digest).read_bytes()[order.offset : order.offset + order.byte_count]
            data = self.manners.get(peer, lambda _order, data: data)(order, data)
            return Delivery(memoryview(data), 0)
        finally:
            self.now[peer] -= 1

    async def offload(self, work):
        return await asyncio.to_thread(work)

    def count(self, name, label, amount) -> None:
        self.counts[name, label] += amount

    @property
    def refs(self):
        return self.store.load(NAME).blobs

    async def pull(self, *sources: NodeId) -> None:
        means = Means(self.target, self, Rate(0), self.offload, self.count, self.accused.append, self.booked.append)
        async with asyncio.timeout(WAIT_S):
            await Pull(means, self.store.load(NAME), self.refs, sources).run()
        assert not self.target.lacking(self.refs)


@pytest.fixture
def peers(whole, tmp_path):
    return Peers(whole, Store(tmp_path))


def fails(fault: OrderFailed, *, times: int = 10**9):
    left = [times]

    def manner(_order, data):
        left[0] -= 1
        if left[0] >= 0:
            raise fault
        return data

    return manner


async def test_work_is_spread_and_bounded(peers):
    await peers.pull(*PEERS)
    assert peers.most_peers == CONTENT_PEERS_MAX
    assert max(peers.most.values()) == CONTENT_ORDERS_MAX
    assert set(peers.asked) == set(PEERS[:CONTENT_PEERS_MAX]), "the best sources first"
    assert peers.counts["content_bytes", "in"] == peers.store.load(NAME).package_bytes


async def test_one_source_is_enough(peers):
    await peers.pull(PEERS[0], PEERS[0])
    assert set(peers.asked) == {PEERS[0]}


async def test_a_liar_is_accused_once_and_asked_no_more(peers):
    peers.manners[PEERS[0]] = lambda _order, data: bytes(len(data))
    await peers.pull(*PEERS[:2])
    assert peers.accused in ([PEERS[0]], [PEERS[0]] * CONTENT_ORDERS_MAX)
    assert peers.asked[PEERS[0]] <= CONTENT_ORDERS_MAX


async def test_sources_behind_the_first_take_over(peers):
    for peer in PEERS[:CONTENT_PEERS_MAX]:
        peers.manners[peer] = fails(OrderFailed("gone"))
    await peers.pull(*PEERS)
    for peer in PEERS[:CONTENT_PEERS_MAX]:
        assert peers.asked[peer] <= CONTENT_STRIKES_MAX + CONTENT_ORDERS_MAX - 1


async def test_sources_behind_those_that_lack_it_take_over(peers):
    for peer in PEERS[:CONTENT_PEERS_MAX]:
        peers.manners[peer] = fails(PeerLacks("not here"))
    await peers.pull(*PEERS[: CONTENT_PEERS_MAX + 1])
    assert peers.asked[PEERS[CONTENT_PEERS_MAX]] > 0


async def test_each_peer_gives_what_it_has(peers):
    shards = [block.shards[0].id for block in peers.store.load(NAME).blocks[1:3]]

    def only(wanted):
        def manner(order, data):
            if order.byte_count == PIECE_BYTES and (order.digest == shards[0]) is not wanted:
                raise PeerLacks("not here")
            return data

        return manner

    peers.manners = {PEERS[0]: only(True), PEERS[1]: only(False)}
    await peers.pull(*PEERS[:2])


async def test_a_stumble_is_forgiven(peers):
    peers.manners[PEERS[0]] = fails(OrderFailed("late"), times=CONTENT_STRIKES_MAX - 1)
    await peers.pull(PEERS[0])


async def test_a_busy_peer_is_asked_again_after_a_pause(peers, monkeypatch):
    monkeypatch.setattr(content_pull, "PAUSE_S", 0.01)
    peers.manners[PEERS[0]] = fails(PeerBusy("busy"), times=4)
    await peers.pull(PEERS[0])


async def test_a_peer_that_is_always_busy_is_given_up(peers, monkeypatch):
    monkeypatch.setattr(content_pull, "PAUSE_S", 1e-7)
    peers.manners[PEERS[0]] = fails(PeerBusy("busy"))
    with pytest.raises(FetchFailed, match="is busy"):
        await peers.pull(PEERS[0])
    assert peers.asked[PEERS[0]] <= CONTENT_BUSY_MAX + CONTENT_ORDERS_MAX


async def test_when_nobody_is_left_it_says_what_each_did(peers):
    peers.manners = {
        PEERS[0]: fails(OrderFailed("reset by peer")),
        PEERS[1]: fails(PeerLacks("not here")),
        PEERS[2]: lambda _order, data: b"x" * len(data),
    }
    with pytest.raises(FetchFailed) as failure:
        await peers.pull(*PEERS[:3])
    for peer, words in zip(PEERS, ("reset by peer", "has not got all", "not what the manifest says"), strict=False):
        assert f"{peer[:8]}: " in str(failure.value)
        assert words in str(failure.value)


async def test_without_sources(peers):
    with pytest.raises(FetchFailed, match="no peer is known"):
        await peers.pull()


async def test_what_arrived_before_a_failure_is_not_fetched_again(peers):
    calls = []

    def tires(_order, data):
        calls.append(len(data))
        if len(calls) > 10:
            raise OrderFailed("tired")
        return data

    peers.manners[PEERS[0]] = tires
    with pytest.raises(FetchFailed):
        await peers.pull(PEERS[0])
    begun = peers.counts["content_bytes", "in"]
    await_refs = [ref for ref in peers.refs if peers.target.lacking((ref,))]
    means = Means(peers.target, peers, Rate(0), peers.offload, peers.count, peers.accused.append, peers.booked.append)
    await Pull(means, peers.store.load(NAME), await_refs, [PEERS[1]]).run()
    assert peers.counts["content_bytes", "in"] == peers.store.load(NAME).package_bytes
    assert begun > 0


async def test_what_another_process_fills_is_waited_for(peers, monkeypatch):
    monkeypatch.setattr(content_pull, "HELD_S", 0.01)
    manifest = peers.store.load(NAME)
    ref = manifest.blocks[1].shards[0]
    held = PartialBlob.open(peers.target.partial_path(ref.id), ref, manifest.piece_digests(ref))
    pull = asyncio.create_task(peers.pull(PEERS[0]))
    await asyncio.sleep(0.03)
    data = peers.store.blob_path(ref.id).read_bytes()
    for index in sorted(held.missing):
        held.put(index, data[index * PIECE_BYTES : (index + 1) * PIECE_BYTES])
    held.finish(peers.target.blob_path(ref.id))
    held.close()
    await pull
    assert peers.counts["content_bytes", "in"] == manifest.package_bytes - ref.bytes


async def test_what_is_whole_by_the_time_it_is_opened_is_not_fetched_again(peers):
    manifest = peers.store.load(NAME)
    ref = manifest.blocks[1].shards[0]
    means = Means(peers.target, peers, Rate(0), peers.offload, peers.count, peers.accused.append, peers.booked.append)
    late = Pull(means, manifest, [ref], [PEERS[0]])
    await Pull(means, manifest, [ref], [PEERS[0]]).run()
    await late.run()
    assert peers.counts["content_bytes", "in"] == ref.bytes
    assert not peers.target.partial_path(ref.id).exists()


async def test_a_pull_that_is_cancelled_leaves_nothing_running(peers):
    pull = asyncio.create_task(peers.pull(PEERS[0]))
    async with asyncio.timeout(WAIT_S):
        await peers.begun.wait()
    pull.cancel()
    await asyncio.wait([pull])
    assert pull.cancelled()
    assert not sum(peers.now.values())
    assert len(asyncio.all_tasks()) == 1

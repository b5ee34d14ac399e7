"""Orders end once: with the piece, a refusal, a broken link, or by time."""

import asyncio
from collections import Counter

import pytest

from shoal_agent.shell.content_orders import BUSY, Order, OrderFailed, Orders, PeerBusy, PeerLacks
from shoal_protocol.content import ContentKind, ContentRequested, ContentServed
from shoal_protocol.ids import Digest, NodeId

ANNA, BERT = NodeId("a" * 32), NodeId("b" * 32)
ORDER = Order(ContentKind.BLOB, Digest(b"d" * 32), 512, 1024)
SOON_S = 0.05


class Desk:
    """Orders, what they sent and what they counted."""

    def __init__(self, answer_s_max: float = 5.0) -> None:
        self.sent: list[tuple[NodeId, ContentRequested]] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.orders = Orders(self.send, self.count, answer_s_max)

    def send(self, peer, header, payload) -> None:
        assert payload is None
        self.sent.append((peer, header))

    def count(self, name, label, amount) -> None:
        self.counts[name, label] += amount

    async def place(self, peer=ANNA) -> "asyncio.Task":
        task = asyncio.create_task(self.orders.place(peer, ORDER))
        await asyncio.sleep(0)
        return task

    @property
    def call(self) -> int:
        return self.sent[-1][1].call


@pytest.fixture
async def desk():
    return Desk()


async def test_what_is_asked_for_and_what_comes(desk):
    task = await desk.place()
    assert desk.sent == [(ANNA, ContentRequested(1, ContentKind.BLOB, ORDER.digest, 512, 1024))]
    desk.orders.served(ANNA, ContentServed(1, 9999, ""), memoryview(b"piece"))
    delivery = await task
    assert (bytes(delivery.data), delivery.total_bytes) == (b"piece", 9999)


@pytest.mark.parametrize(
    ("header", "payload", "kind"),
    [
        (ContentServed(1, 0, BUSY), None, PeerBusy),
        (ContentServed(1, 0, "not here"), None, PeerLacks),
        (ContentServed(1, 5, ""), None, PeerLacks),
        (ContentServed(1, 5, "and yet"), memoryview(b"piece"), PeerLacks),
        (ContentServed(1, 5, ""), memoryview(bytes(1025)), OrderFailed),
    ],
    ids=["busy", "lacks", "empty", "error with a payload", "too much"],
)
async def test_refusals(desk, header, payload, kind):
    task = await desk.place()
    desk.orders.served(ANNA, header, payload)
    with pytest.raises(OrderFailed) as refusal:
        await task
    assert type(refusal.value) is kind


async def test_time_ends_an_order_and_a_late_piece_is_counted():
    desk = Desk(SOON_S)
    with pytest.raises(OrderFailed, match="no answer"):
        await desk.orders.place(ANNA, ORDER)
    desk.orders.served(ANNA, ContentServed(desk.call, 5, ""), memoryview(b"piece"))
    assert desk.counts == {("content_pieces_rejected", "unasked"): 1}


async def test_nobody_answers_for_another_and_nobody_twice(desk):
    task = await desk.place()
    desk.orders.served(BERT, ContentServed(1, 5, ""), memoryview(b"wrong"))
    desk.orders.served(ANNA, ContentServed(1, 5, ""), memoryview(b"right"))
    desk.orders.served(ANNA, ContentServed(1, 5, ""), memoryview(b"again"))
    assert bytes((await task).data) == b"right"
    assert desk.counts == {("content_pieces_rejected", "unasked"): 2}


async def test_a_lost_peer_fails_its_orders_and_no_others(desk):
    tasks = [await desk.place(peer) for peer in (ANNA, BERT, ANNA)]
    desk.orders.lost(ANNA, "reset")
    for task in (tasks[0], tasks[2]):
        with pytest.raises(OrderFailed, match="reset"):
            await task
    assert not tasks[1].done()
    tasks[1].cancel()


async def test_nothing_is_left_behind(desk):
    for answer in (ContentServed(1, 5, ""), ContentServed(2, 0, "no")):
        task = await desk.place()
        desk.orders.served(ANNA, answer, memoryview(b"p") if not answer.error else None)
        await asyncio.wait([task])
        assert (task.exception() is None) == (answer.error == "")
    task = await desk.place()
    task.cancel()
    await asyncio.wait([task])
    assert not desk.orders._open

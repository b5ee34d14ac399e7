"""Pieces on order: one question to one peer, and what becomes of it.

Every order ends, once: with the piece, with the peer's refusal, when the link to it breaks, or by time. What arrives
that was never ordered is counted and dropped.
"""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from shoal_protocol.content import ContentHeader, ContentKind, ContentRequested, ContentServed
from shoal_protocol.ids import Digest, NodeId
from shoal_protocol.limits import CONTENT_ANSWER_S_MAX

BUSY: Final = "busy"
"""The one refusal that means: ask again later. Anything else means: I have not got that."""

SendContent = Callable[[NodeId, ContentHeader, bytes | None], None]
R = TypeVar("R")
CountContent = Callable[[str, str, int], None]
"""Family, label, amount."""


class Offload(Protocol):
    """Runs work in a thread."""

    async def __call__(self, work: Callable[[], R]) -> R: ...


class OrderFailed(Exception):  # noqa: N818 - an outcome, not an error of ours
    """The peer did not answer: it is gone, or too slow."""


class PeerBusy(OrderFailed):
    """It would answer later."""


class PeerLacks(OrderFailed):
    """It has not got that."""


@dataclass(frozen=True, slots=True)
class Order:
    """``byte_count`` bytes from ``offset`` of one content."""

    content: ContentKind
    digest: Digest
    offset: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A piece, not verified; ``total_bytes`` of the whole, as the peer says."""

    data: memoryview
    total_bytes: int


class Orders:
    """All orders of one node."""

    def __init__(self, send: SendContent, count: CountContent, answer_s_max: float = CONTENT_ANSWER_S_MAX) -> None:
        self._send = send
        self._count = count
        self._answer_s_max = answer_s_max
        self._calls = itertools.count(1)
        self._open: dict[tuple[NodeId, int], asyncio.Future[Delivery]] = {}

    async def place(self, peer: NodeId, order: Order) -> Delivery:
        """The piece; OrderFailed, PeerBusy, PeerLacks."""
        call = next(self._calls)
        answer: asyncio.Future[Delivery] = asyncio.get_running_loop().create_future()
        self._open[peer, call] = answer
        self._send(peer, ContentRequested(call, order.content, order.digest, order.offset, order.byte_count), None)
        try:
            async with asyncio.timeout(self._answer_s_max):
                delivery = await answer
        except TimeoutError:
            raise OrderFailed(f"no answer within {self._answer_s_max:g} s") from None
        finally:
            del self._open[peer, call]
        if delivery.data.nbytes > order.byte_count:
            raise OrderFailed("more than was asked for")
        return delivery

    def served(self, peer: NodeId, header: ContentServed, payload: memoryview | None) -> None:
        """A peer answers."""
        answer = self._open.get((peer, header.call))
        if answer is None or answer.done():
            # Late, after its time was up; or never ordered.
            self._count("content_pieces_rejected", "unasked", 1)
        elif header.error == BUSY:
            answer.set_exception(PeerBusy(BUSY))
        elif header.error or payload is None:
            answer.set_exception(PeerLacks(header.error or "an empty answer"))
        else:
            answer.set_result(Delivery(payload, header.total_bytes))

    def lost(self, peer: NodeId, reason: str) -> None:
        """A link to ``peer`` broke: what was ordered may never come."""
        for (whom, _), answer in list(self._open.items()):
            if whom == peer and not answer.done():
                answer.set_exception(OrderFailed(reason))

"""Pieces of shards and rows of KV beside tokens, on a real link to a peer that takes its time: tokens go first."""

import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import PeerLost
from shoal_protocol.content import ContentServed
from shoal_protocol.frames import is_metered
from shoal_protocol.headers import Activation, CloseReason, CloseSession, Credit, Hello, KvRows, Probe
from shoal_protocol.ids import DeploymentId, Epoch, NodeId, SessionId
from shoal_protocol.limits import BULK_FRAMES_MAX, CONTENT_CHUNK_BYTES, CREDIT_BYTES
from shoal_protocol.tensors import Dtype
from tests.support.links import answering, person, station, tls_of

SESSION = SessionId(b"s" * 16)
CLOSE = CloseSession(SESSION, CloseReason.FINISHED)


def activation(width: int) -> Activation:
    return Activation(DeploymentId("llm"), Epoch(0), SESSION, 1, 0, 1, True, 1000, Dtype.F32, (1, 1, width))


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return [person(tmp_path_factory.mktemp("people"), number) for number in (1, 2)]


@pytest.fixture
def anna(people):
    return people[0]


@pytest.fixture
def bert(people):
    return people[1]


PIECE = bytes(CONTENT_CHUNK_BYTES)


async def test_a_token_does_not_wait_for_the_pieces_before_it(anna, bert):
    async with answering(tls_of(bert, anna).server) as (endpoint, next_call), station(anna, bert) as here:
        here.addresses[bert.node] = endpoint
        for number in range(8):
            here.plane.send_content(bert.node, ContentServed(number, 9, ""), PIECE)
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        stranger = await next_call()
        stranger.hello(bert.node, credit_bytes=CREDIT_BYTES)
        await stranger.hear(ContentServed, 8)
        kinds = [type(frame.header) for frame in stranger.frames if not isinstance(frame.header, Hello)]
        assert kinds.index(CloseSession) == 0, "what is not bulk goes first"
        assert kinds.count(ContentServed) == 8


async def test_pieces_leave_half_of_the_credit_to_others(anna, bert):
    async with answering(tls_of(bert, anna).server) as (endpoint, next_call), station(anna, bert) as here:
        here.addresses[bert.node] = endpoint
        for number in range(8):
            here.plane.send_content(bert.node, ContentServed(number, 9, ""), PIECE)
        stranger = await next_call()
        stranger.hello(bert.node, credit_bytes=5 * len(PIECE))
        await stranger.hear(ContentServed, 2)
        await stranger.hear(Probe)
        here.plane.send(SendFrame(bert.node, activation(len(PIECE) // 4), PIECE))
        await stranger.hear(Activation)
        arrived = [frame for frame in stranger.frames if isinstance(frame.header, ContentServed)]
        assert len(arrived) == 2, "the third would have taken more than half"
        stranger.say(Credit(sum(frame.wire_bytes for frame in stranger.frames if frame.payload is not None)))
        await stranger.hear(ContentServed, 4)


async def test_a_piece_that_is_larger_than_half_the_credit_goes_alone(anna, bert):
    async with answering(tls_of(bert, anna).server) as (endpoint, next_call), station(anna, bert) as here:
        here.addresses[bert.node] = endpoint
        for number in range(2):
            here.plane.send_content(bert.node, ContentServed(number, 9, ""), PIECE)
        stranger = await next_call()
        stranger.hello(bert.node, credit_bytes=len(PIECE) + 100)
        await stranger.hear(ContentServed, 1)
        await stranger.hear(Probe)
        stranger.say(Credit(sum(frame.wire_bytes for frame in stranger.frames if frame.payload is not None)))
        await stranger.hear(ContentServed, 2)


async def test_pieces_that_nobody_takes_are_dropped_and_the_link_lives(anna, bert):
    async with answering(tls_of(bert, anna).server) as (endpoint, next_call), station(anna, bert) as here:
        here.addresses[bert.node] = endpoint
        for number in range(BULK_FRAMES_MAX + 5):
            here.plane.send_content(bert.node, ContentServed(number, 9, ""), b"piece")
        stranger = await next_call()
        stranger.hello(bert.node)
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        await stranger.hear(CloseSession)
        served = [header.call for header in await stranger.hear(ContentServed, BULK_FRAMES_MAX)]
        assert served == list(range(BULK_FRAMES_MAX))
        assert not here.of(PeerLost)


def rows(number: int) -> KvRows:
    session = SessionId(number.to_bytes(16, "big"))
    return KvRows(DeploymentId("llm"), Epoch(0), session, 1, 4, 7, 0, 8, 512, 1000, NodeId("a" * 32))


async def test_rows_of_kv_all_arrive_and_tokens_pass_those_that_wait(anna, bert):
    count = BULK_FRAMES_MAX + 5
    async with answering(tls_of(bert, anna).server) as (endpoint, next_call), station(anna, bert) as here:
        here.addresses[bert.node] = endpoint
        for number in range(count):
            here.plane.send(SendFrame(bert.node, rows(number), here.tensors.put(memoryview(PIECE))))
        assert len(here.tensors) == 0
        here.plane.send_content(bert.node, ContentServed(7, 9, ""), PIECE)
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        stranger = await next_call()
        stranger.hello(bert.node, credit_bytes=5 * len(PIECE))
        await stranger.hear(KvRows, 2)
        here.plane.send(SendFrame(bert.node, CLOSE, None))
        await stranger.hear(CloseSession, 2)
        returned = 0
        for arrived in range(2, count):
            taken = sum(frame.wire_bytes for frame in stranger.frames if is_metered(frame.header))
            stranger.say(Credit(taken - returned))
            returned = taken
            await stranger.hear(KvRows, arrived + 1)
        frames = [frame.header for frame in stranger.frames if not isinstance(frame.header, Hello | Probe)]
        assert frames == [CLOSE, rows(0), rows(1), CLOSE, *map(rows, range(2, count))]

import asyncio

from shoal_agent.shell.content_sources import MODELS_MAX, Sources
from shoal_protocol.ids import Digest, NodeId

ONE, OTHER = Digest(b"1" * 32), Digest(b"2" * 32)
PEERS = (NodeId("a" * 32), NodeId("b" * 32))
LONG_S, SHORT_S = 60.0, 0.02


async def test_who_names_sources_does_not_wait():
    assert await Sources(LONG_S).of(ONE, PEERS) == PEERS
    assert await Sources(0.0).of(ONE, ()) == ()


async def test_who_names_none_hears_of_those_of_its_model():
    sources = Sources(LONG_S)
    waiting = [asyncio.create_task(sources.of(model, ())) for model in (ONE, ONE, OTHER)]
    await asyncio.sleep(0)
    sources.told(ONE, ())
    sources.told(ONE, PEERS)
    sources.told(ONE, PEERS[:1])
    assert await asyncio.gather(*waiting[:2]) == [PEERS, PEERS]
    assert not waiting[2].done()
    waiting[2].cancel()
    await asyncio.gather(waiting[2], return_exceptions=True)
    assert not sources._waiting


async def test_what_was_said_before_counts_too_and_only_so_much_is_remembered():
    sources = Sources(SHORT_S)
    sources.told(ONE, PEERS[:1])
    sources.told(ONE, PEERS)
    assert await sources.of(ONE, ()) == PEERS
    for number in range(MODELS_MAX):
        sources.told(Digest(number.to_bytes(32, "big")), PEERS)
    assert await sources.of(ONE, ()) == ()


async def test_patience_ends():
    sources = Sources(SHORT_S)
    assert await sources.of(ONE, ()) == ()
    assert not sources._waiting

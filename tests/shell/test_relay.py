"""Data planes without a direct way, and brokers in memory that do their worst."""

import asyncio
from random import Random

import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.events import FrameReceived, PeerConnected, PeerLost, PeerMisbehaved, PeerRelayed
from shoal_agent.core.facts import LinkFault
from shoal_agent.shell.faults import Fault
from shoal_agent.shell.link_ends import Pace
from shoal_agent.shell.relay import FULL, UNKNOWN
from shoal_protocol.headers import Ping, PingAnswered
from shoal_protocol.limits import RELAY_MESSAGE_BYTES_MAX, RELAY_OPENINGS_MAX, RELAYS_MAX
from shoal_protocol.relay import Ack, CircuitStatement, RelayKind, encode_ack, ephemeral_of, sign_circuit
from shoal_protocol.topics import RelayTopic, build
from tests.support.links import Person, person, roster_of
from tests.support.relays import (
    DELAY_S,
    PATIENT,
    WAIT_S,
    Letter,
    PostOffice,
    activation,
    arrived,
    pair,
    positions,
    reach,
    remote,
    send,
)

QUICK = Pace(quiet_s=0.3, silence_s=1.5, tick_s=0.05)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> list[Person]:
    return [person(tmp_path_factory.mktemp("people"), number) for number in (1, 2, 3)]


def kinds(letters: list[Letter]) -> list[RelayKind]:
    return [RelayKind(letter.message[0]) for letter in letters]


# --- it works ---------------------------------------------------------------------------------------------------------


async def test_who_has_no_direct_way_is_reached_through_a_broker(people):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        await b.station.until(PeerConnected)
        for position in range(20):
            send(a, people[1], position, 576)
        assert await arrived(b, 20) == list(range(20))
        assert {event.peer for event in b.station.of(FrameReceived)} == {people[0].node}
        assert (a.relay.open_count, b.relay.open_count) == (1, 1)
        assert a.meter.counted["relay_bytes", "out"] == sum(
            len(letter.message) for letter in office.letters if letter.source == people[0].node
        )
        assert a.station.plane.link_count == 1
    assert kinds(office.letters)[-1] is RelayKind.CLOSE
    assert a.relay.open_count == b.relay.open_count == 0
    assert a.postman.hasty[-1] is b.postman.hasty[-1] is False, "lulls are in order again"


async def test_a_broker_sees_sizes_and_times_only(people):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        a.station.plane.send(SendFrame(people[1].node, activation(7, 256), a.station.tensors.put(b"secret!!" * 128)))
        await arrived(b, 1, whole=False)
    told = b"".join(letter.message for letter in office.letters)
    assert b"secret" not in told
    assert b"llm" not in told
    assert {len(letter.message) for letter in office.letters if letter.message[0] == RelayKind.ACK} == {25 + 16 + 16}


async def test_large_frames_are_cut_and_put_together(people):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        widths = [64, 1_000_000, 64, 300_000, 64]
        for position, width in enumerate(widths):
            send(a, people[1], position, width)
        assert await arrived(b, 5) == list(range(5))
    largest = max(len(letter.message) for letter in office.letters)
    assert RELAY_MESSAGE_BYTES_MAX // 2 < largest <= RELAY_MESSAGE_BYTES_MAX
    assert len(b.station.tensors) == 5
    assert len(a.station.tensors) == 0


async def test_both_ways_are_two_circuits(people):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        b.station.events.clear()
        await reach(b, people[0])
        b.station.plane.send(SendFrame(people[0].node, PingAnswered(0), None))
        await a.station.until(FrameReceived)
        assert (a.relay.open_count, b.relay.open_count) == (2, 2)


async def test_nobody_knocks_while_there_is_a_direct_way(people):
    office = PostOffice()
    anna, bert, _ = people
    async with remote(office, anna, bert) as a, remote(office, bert, anna) as b:
        a.station.addresses[bert.node] = b.station.endpoint
        send(a, bert, 0)
        assert await arrived(b, 1) == [0]
    assert not office.letters


# --- brokers do their worst -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_loss_repetition_and_disorder_are_made_good(people, seed):
    rng = Random(seed)

    def fate(_: Letter) -> tuple[float, ...]:
        copies = 0 if rng.random() < 0.15 else 1 + (rng.random() < 0.3)
        return tuple(rng.random() * 0.03 for _ in range(copies))

    office = PostOffice()
    async with pair(office, people) as (a, b):
        office.fate = fate
        for position in range(40):
            send(a, people[1], position, rng.choice((64, 576, 100_000)))
        assert await arrived(b, 40) == list(range(40))
        assert not a.station.of(PeerLost)
        assert not b.station.of(PeerMisbehaved)


async def test_what_a_dead_broker_took_with_it_goes_by_the_other(people):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        send(a, people[1], 0)
        await arrived(b, 1)
        used = office.letters[-1].broker
        office.fate = lambda letter: () if letter.broker == used else (DELAY_S,)
        for position in range(1, 10):
            send(a, people[1], position, 20_000)
        assert await arrived(b, 10) == list(range(10))
        office.down.add(used)
        send(a, people[1], 10)
        assert (await arrived(b, 11))[-1] == 10
        assert not a.station.of(PeerLost)


async def test_a_moment_without_any_broker_loses_nothing(people):
    office = PostOffice(brokers=("only",))
    async with pair(office, people) as (a, b):
        office.down.add("only")
        for position in range(30):
            send(a, people[1], position, 30_000)
        await asyncio.sleep(0.5)  # the absence itself
        assert positions(b) == []
        office.down.clear()
        assert await arrived(b, 30) == list(range(30))
        assert not a.station.of(PeerLost)


async def test_without_brokers_for_long_the_link_is_lost_as_silent_and_comes_back(people):
    office = PostOffice()
    async with pair(office, people, QUICK) as (a, b):
        office.down.update(office.brokers)
        send(a, people[1], 0)
        (lost,) = await a.station.until(PeerLost)
        assert (lost.peer, lost.fault) == (people[1].node, LinkFault.SILENT)
        assert a.station.of(PeerRelayed) == [PeerRelayed(people[1].node, relayed=False)]
        await b.station.until(PeerLost)
        office.down.clear()
        b.station.events.clear()
        a.station.events.clear()
        send(a, people[1], 1)
        await a.station.until(PeerConnected)
        send(a, people[1], 2)
        assert await arrived(b, 1) == [2]


async def test_what_was_forged_or_changed_is_refused_and_counted_and_harms_nobody(people):
    rng = Random(5)

    def worsened(letter: Letter) -> bytes:
        message = bytearray(letter.message)
        message[rng.randrange(len(message))] ^= 1 << rng.randrange(8)
        return bytes(message)

    office = PostOffice()
    async with pair(office, people) as (a, b):
        for position in range(20):
            send(a, people[1], position)
        await arrived(b, 20)
        said = list(office.letters)
        for letter in said:
            for message in (worsened(letter), letter.message[:-1], letter.message + b"x", b"", rng.randbytes(60)):
                office.deliver(Letter(letter.broker, letter.topic, message))
        refused = [n for each in (a, b) for (name, _), n in each.meter.counted.items() if name == "relay_refused"]
        assert sum(refused) >= 5 * len(said)
        assert b.meter.counted["relay_refused", "signature"] > 0
        send(a, people[1], 20)
        assert await arrived(b, 21) == list(range(21))
        assert not b.station.of(PeerMisbehaved)
        assert not a.station.of(PeerLost)


async def test_what_is_played_back_changes_nothing(people):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        await b.station.until(PeerConnected)
        for position in range(10):
            send(a, people[1], position)
        await arrived(b, 10)
        for letter in list(office.letters) * 3:
            office.deliver(letter)
        send(a, people[1], 10)
        assert await arrived(b, 11) == list(range(11))
        assert (a.relay.open_count, b.relay.open_count) == (1, 1)
        assert len(b.station.of(PeerConnected)) == 1
        assert not b.station.of(PeerLost)


async def test_a_whole_old_conversation_opens_nothing(people):
    """The answerer's key is another one now, so what was sealed for the old one is noise."""
    office = PostOffice()
    async with pair(office, people) as (a, b):
        send(a, people[1], 0)
        await arrived(b, 1)
        old = [letter for letter in office.letters if letter.source == people[0].node]
    async with remote(office, people[1], people[0], pace=PATIENT, life=2) as b:
        for letter in old:
            office.deliver(letter)
        assert b.meter.counted["relay_refused", "signature"] > 0
        assert b.relay.open_count == 0
        assert not b.station.events


async def test_nobody_speaks_on_the_topic_of_another(people):
    office = PostOffice()
    anna, bert, cleo = people
    async with pair(office, people) as (a, b):
        send(a, bert, 0)
        await arrived(b, 1)
        foreign = build(RelayTopic(roster_of(anna, bert).cluster, bert.node, cleo.node))
        others = build(RelayTopic(roster_of(anna, bert).cluster, anna.node, bert.node))
        before = b.meter.counted["relay_refused", UNKNOWN]
        for letter in list(office.letters):
            if letter.source == anna.node:
                for topic in (foreign, others, "shoal/1/x"):
                    b.relay.arrived(letter.broker, topic, letter.message)
        assert b.meter.counted["relay_refused", UNKNOWN] > before
        assert b.meter.counted["relay_refused", "malformed"] > 0
        assert b.relay.open_count == 1
        strange = CircuitStatement(
            roster_of(anna, bert).cluster, cleo.node, bert.node, bytes(16), ephemeral_of(bytes(32)), None
        )
        b.relay.arrived("one", foreign, sign_circuit(cleo.sealer, strange))
        assert b.meter.counted["relay_refused", "sender"] == 1, "not in the roster"


async def test_callers_that_prove_nothing_take_few_places(people):
    office = PostOffice()
    anna, bert, _ = people
    cluster = roster_of(anna, bert).cluster
    topic = build(RelayTopic(cluster, bert.node, anna.node))
    async with pair(office, people) as (a, b):
        for index in range(3 * RELAYS_MAX):
            knock = CircuitStatement(
                cluster, anna.node, bert.node, index.to_bytes(16), ephemeral_of(bytes([7] * 32)), None
            )
            b.relay.arrived("one", topic, sign_circuit(anna.sealer, knock))
        assert len(b.relay._callers) == RELAY_OPENINGS_MAX
        assert b.meter.counted["relay_refused", FULL] == 0, "of one peer the oldest gives way"
        small = CircuitStatement(cluster, anna.node, bert.node, bytes(16), bytes(32), None)
        b.relay.arrived("one", topic, sign_circuit(anna.sealer, small))
        assert b.meter.counted["relay_refused", "signature"] == 1, "a key whose secret anybody knows"
        send(a, bert, 0)
        assert await arrived(b, 1) == [0]


@pytest.mark.parametrize(
    ("kind", "body"),
    [(RelayKind.ACK, encode_ack(Ack(1000, 0))), (RelayKind.ACK, b"short"), (RelayKind.DATA, b"far ahead")],
)
async def test_a_member_that_breaks_the_rules_loses_its_link(people, kind, body):
    office = PostOffice()
    async with pair(office, people) as (a, b):
        await b.station.until(PeerConnected)
        (circuit,) = a.relay._circuits.values()
        circuit._say(circuit._box.seal(kind, 999, body))
        (fault,) = await b.station.until(PeerMisbehaved)
        assert (fault.peer, fault.reason) == (people[0].node, Fault.CIRCUIT)
        await b.station.until(PeerLost)
        await a.station.until(PeerLost)


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_who_goes_says_so(people):
    office = PostOffice()
    anna, bert, _ = people
    async with remote(office, anna, bert, pace=PATIENT) as a:
        async with remote(office, bert, anna, pace=PATIENT):
            await reach(a, bert)
        (lost,) = await a.station.until(PeerLost)
        assert (lost.fault, "peer says" in lost.reason) == (LinkFault.BROKEN, True)


async def test_who_is_dead_is_called_in_vain_and_quietly(people):
    office = PostOffice()
    anna, bert, _ = people
    async with remote(office, anna, bert, pace=PATIENT) as a:
        for nonce in range(2):
            a.station.plane.send(SendFrame(bert.node, Ping(nonce), None))
            await a.station.until(PeerLost, nonce + 1)
        async with asyncio.timeout(WAIT_S):
            while a.station.plane.link_count:  # noqa: ASYNC110 - the end of a knock posts no event
                await asyncio.sleep(0.05)
        assert set(map(type, a.station.events)) == {PeerLost}
        assert len(a.station.events) == 2
        assert set(kinds(office.letters)) == {RelayKind.OPEN}
        assert {letter.broker for letter in office.letters} == {"one", "two"}
        assert len(office.letters) < 20
        assert a.postman.hasty[-1] is False


async def test_a_new_life_of_the_peer_ends_the_links_of_the_old_one_in_both_directions(people):
    office = PostOffice()
    anna, bert, _ = people
    async with remote(office, bert, anna, pace=PATIENT) as b:
        async with remote(office, anna, bert, pace=PATIENT) as a:
            await reach(a, bert)
            await reach(b, anna)
            b.station.events.clear()
            del office.boxes[anna.node]
            office.fate = lambda letter: () if letter.message[0] == RelayKind.CLOSE else (DELAY_S,)
        assert not b.station.events, "nobody told it"
        async with remote(office, anna, bert, pace=PATIENT, life=2) as a:
            await reach(a, bert)
            await b.station.until(PeerConnected)
            told = [type(event) for event in b.station.events if not isinstance(event, FrameReceived)]
            assert told == [PeerLost, PeerRelayed, PeerLost, PeerConnected]

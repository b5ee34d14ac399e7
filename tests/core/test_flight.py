from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

from shoal_agent.core.events import FrameReceived, KvExported, KvImported, PeerLost, TimePassed
from shoal_agent.core.facts import TensorHandle
from shoal_agent.core.flight import MARK_BYTES, Departure, Step, UnreadableFlight, mark_of, read, write
from shoal_protocol.headers import CloseReason, CloseSession
from shoal_protocol.ids import Instant, SessionId, node_id_of
from tests.support.flights import recorded_life

PEER = node_id_of(b"k" * 32)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("flight") / "flight"
    recorded_life(file)
    return file


def pieces(data: bytes, size: int):
    return (data[at : at + size] for at in range(0, len(data), size))


def test_every_value_of_a_life_comes_back_as_it_was_written(life):
    values = list(read(iter([life.read_bytes()])))
    assert isinstance(values[0], Departure)
    assert all(isinstance(step, Step) for step in values[1:])
    assert len({type(step.event) for step in values[1:]}) > 8, "a life of many kinds of events"
    assert b"".join(map(write, values)) == life.read_bytes()


def test_reading_does_not_depend_on_how_the_bytes_are_cut(life):
    whole = list(read(iter([life.read_bytes()])))
    assert list(read(pieces(life.read_bytes(), 777))) == whole


def test_kinds_keep_their_types():
    frame = FrameReceived(PEER, CloseSession(SessionId(b"s" * 16), CloseReason.CANCELLED), TensorHandle(3))
    for event in (TimePassed(), PeerLost(PEER, "gone"), frame):
        step = Step(Instant(1.5), event, (b"x" * 64,), mark_of([]))
        raw = msgpack.unpackb(write(step))
        assert raw[:2] == [1, "Step"]
        assert len(step.mark) == MARK_BYTES


def test_copies_of_kv_are_recorded(life):
    departure = next(read(iter([life.read_bytes()])))
    session = SessionId(b"s" * 16)
    events = (
        KvExported(session, 64, 2, 4, 8, 16, TensorHandle(7), 4096),
        KvExported(session, 64, 2, 4, 8, 16, None, 0, "closed"),
        KvImported(session, 64, 2, 4, 8, 16),
    )
    steps = [Step(Instant(1.5), event, (), mark_of([])) for event in events]
    assert list(read(iter(map(write, [departure, *steps])))) == [departure, *steps]


def test_a_last_value_that_is_cut_off_is_no_fault(life):
    data = life.read_bytes()
    whole = list(read(iter([data])))
    assert list(read(iter([data[:-3]]))) == whole[:-1]


def test_what_is_no_recording_is_said_to_be_none(life):
    departure = next(read(iter([life.read_bytes()])))
    assert isinstance(departure, Departure)
    step = Step(Instant(0.0), TimePassed(), (), b"")
    for data, why in (
        (b"", "empty"),
        (write(step), "where a departure belongs"),
        (write(departure) + write(departure), "where a step belongs"),
        (write(replace(departure, version=99)), "version 99"),
        (msgpack.packb([1, "Popen", "ls"]), "no value of ours"),
        (msgpack.packb([1, "Step"]), "no value of ours"),
        (msgpack.packb([7]), "no value of ours"),
        (msgpack.packb("hello"), "str where"),
    ):
        with pytest.raises(UnreadableFlight, match=why):
            list(read(iter([data])))

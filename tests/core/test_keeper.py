"""Journals are kept in bounds, for one zone, and given to nobody else."""

import pytest

from shoal_agent.core import keeper as module
from shoal_agent.core.effects import Count, Note, SendFrame
from shoal_agent.core.keeper import Keeper
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.tables import Tables
from shoal_agent.core.zones import Zones
from shoal_protocol.headers import CloseReason, CloseSession
from shoal_protocol.ids import Epoch, Instant, NodeId, SessionId
from shoal_protocol.journal import JournalServed, JournalWritten, unbind_pages
from shoal_protocol.limits import ORPHAN_S_MAX, REQUEST_DEADLINE_S_MAX

HERE, WRITER, READER, STRANGER = (NodeId(name * 32) for name in "abcd")
SESSION = SessionId(bytes(16))
BEGAN = Instant(100.0)
HOME = {HERE: "home", WRITER: "home", READER: "home", STRANGER: "away"}


class Desk:
    """A keeper, and what it says."""

    def __init__(self):
        self.tables = Tables(Zones(HOME))
        self.keeper = Keeper(HERE, self.tables)
        self.out = Outbox(HERE)
        self.now = BEGAN

    def write(self, page=0, data=b"page", *, peer=WRITER, session=SESSION, deadline_ms=60_000):
        header = JournalWritten(session, page, deadline_ms)
        self.keeper.written(peer, header, data, self.now, self.out)
        self.keeper.check()

    def read(self, peer=READER, session=SESSION):
        self.keeper.asked(peer, session, self.now, self.out)
        (*_, sent) = [effect for effect in self.out.effects if isinstance(effect, SendFrame)]
        assert sent.peer == peer
        assert isinstance(sent.header, JournalServed)
        return sent.header, None if sent.payload is None else unbind_pages(sent.payload)

    def counted(self, name):
        return [e.label for e in self.out.effects if isinstance(e, Count) and e.name == name]

    def refusals(self):
        return self.counted("journals_refused")

    def dropped(self):
        return self.counted("journals_dropped")

    def complaints(self):
        return [dict(e.fields) for e in self.out.effects if isinstance(e, Note)]

    def ring(self, at):
        self.now = Instant(at)
        for alarm in self.tables.timers.due(self.now):
            self.keeper.expired(alarm.session)
        self.keeper.check()


@pytest.fixture
def desk():
    return Desk()


NOTHING = (JournalServed(SESSION, None, 0), None)


def test_what_was_written_is_given_in_order_with_what_is_left_of_its_time(desk):
    desk.write()
    desk.write(1, b"more")
    desk.now = Instant(BEGAN + 10)
    assert desk.read() == (JournalServed(SESSION, WRITER, 50_000), (b"page", b"more"))
    assert desk.read(WRITER)[1] == (b"page", b"more")


def test_nothing_is_given_of_what_was_never_written(desk):
    assert desk.read() == NOTHING


def test_a_first_page_begins_anew_whoever_writes_it(desk):
    desk.write()
    desk.write(1)
    desk.write(0, b"new", peer=READER)
    assert desk.read() == (JournalServed(SESSION, READER, 60_000), (b"new",))


@pytest.mark.parametrize(("page", "peer"), [(2, WRITER), (1, READER), (1, HERE)])
def test_a_page_out_of_turn_is_dropped(desk, page, peer):
    desk.write()
    desk.write(page, peer=peer)
    assert desk.refusals() == ["ORDER"]
    assert desk.read()[1] == (b"page",)


def test_a_page_without_a_beginning_is_dropped(desk):
    desk.write(3)
    assert desk.read() == NOTHING


def test_another_zone_writes_nothing_and_reads_nothing(desk):
    desk.write(peer=STRANGER)
    assert desk.read() == NOTHING
    desk.write()
    assert desk.read(STRANGER) == NOTHING
    assert desk.refusals() == ["ZONE", "ZONE"]
    assert desk.read()[1] == (b"page",)


@pytest.mark.parametrize("reason", [CloseReason.CANCELLED, CloseReason.DEADLINE, CloseReason.FAILED])
def test_what_is_given_up_is_forgotten(desk, reason):
    desk.write()
    desk.keeper.closed(WRITER, CloseSession(SESSION, reason))
    assert desk.read() == NOTHING
    assert not desk.tables.timers.deadline()


@pytest.mark.parametrize(
    ("peer", "header"),
    [
        (WRITER, CloseSession(SESSION, CloseReason.FINISHED)),
        (WRITER, CloseSession(SESSION, CloseReason.CANCELLED, Epoch(0))),
        (READER, CloseSession(SESSION, CloseReason.CANCELLED)),
    ],
    ids=["it came to its end", "it moved to another epoch", "it is another one's"],
)
def test_what_is_not_given_up_is_kept(desk, peer, header):
    desk.write()
    desk.keeper.closed(peer, header)
    assert desk.read()[1] == (b"page",)


def test_a_journal_ends_with_its_session(desk):
    desk.write(deadline_ms=5_000)
    desk.ring(BEGAN + 4.9)
    assert len(desk.keeper) == 1
    desk.ring(BEGAN + 5)
    assert len(desk.keeper) == 0


def test_no_session_lasts_longer_than_any_may(desk):
    desk.write(deadline_ms=2**40)
    desk.ring(BEGAN + REQUEST_DEADLINE_S_MAX)
    assert len(desk.keeper) == 0


def test_a_journal_whose_writer_is_lost_is_kept_as_long_as_the_kv(desk):
    desk.write()
    desk.keeper.lost(READER, desk.now)
    desk.keeper.lost(WRITER, desk.now)
    desk.keeper.lost(WRITER, Instant(desk.now + 10))
    desk.ring(BEGAN + ORPHAN_S_MAX - 0.1)
    assert desk.read()[1] == (b"page",)
    desk.ring(BEGAN + ORPHAN_S_MAX)
    assert desk.read() == NOTHING


def test_beyond_its_bounds_the_oldest_goes(desk, monkeypatch):
    monkeypatch.setattr(module, "JOURNALS_MAX", 2)
    names = [SessionId(bytes([number]) * 16) for number in range(3)]
    for name in names:
        desk.write(session=name)
    assert [desk.read(session=name)[1] for name in names] == [None, (b"page",), (b"page",)]
    monkeypatch.setattr(module, "JOURNALS_BYTES_MAX", 10)
    desk.write(1, b"x" * 5, session=names[2])
    assert [desk.read(session=name)[0].writer for name in names] == [None, None, WRITER]
    assert desk.dropped() == ["ROOM", "ROOM"]


def test_a_journal_that_is_too_long_is_not_kept(desk, monkeypatch):
    monkeypatch.setattr(module, "JOURNAL_BYTES_MAX", 6)
    desk.write()
    desk.write(1)
    assert desk.read() == NOTHING
    assert desk.dropped() == ["SIZE"]


def test_a_full_keeper_says_so_once_in_a_while(desk, monkeypatch):
    monkeypatch.setattr(module, "JOURNALS_MAX", 1)
    for number in range(5):
        desk.write(session=SessionId(bytes([number]) * 16))
    assert desk.dropped() == ["ROOM"] * 4
    assert desk.complaints() == [{"kept": 1, "bytes": 4}]
    desk.now = Instant(BEGAN + module.COMPLAIN_S)
    desk.write()
    assert len(desk.complaints()) == 2

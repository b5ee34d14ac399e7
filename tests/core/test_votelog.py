from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.ballots import NO_ROUND, Memory, Proposal, Vote
from shoal_agent.core.votelog import Diary, read, write
from shoal_protocol.errors import MalformedMessage, RemoteProtocolError
from shoal_protocol.ids import Epoch, digest_of
from shoal_protocol.messages import VoteKind
from tests.support.deeds import KEYS, NAMES, ballot, chain
from tests.support.delegate import DEPLOYMENT

RAWS = chain(2)
VALUE = digest_of(RAWS[1])
EMPTY = Diary(DEPLOYMENT, Epoch(1))
FULL = Diary(
    DEPLOYMENT,
    Epoch(1),
    Epoch(1),
    True,
    Memory(
        3,
        VALUE,
        1,
        VALUE,
        2,
        tuple(NAMES[:2]),
        (
            Proposal(0, VALUE, NO_ROUND),
            Vote(VoteKind.PREVOTE, 0, None),
            Proposal(3, VALUE, 2),
            Vote(VoteKind.PRECOMMIT, 3, VALUE),
        ),
    ),
    (RAWS[1],),
    tuple(ballot(key, RAWS[1], 2, VoteKind.PREVOTE) for key in KEYS[:2]),
)


@pytest.mark.parametrize("diary", [EMPTY, FULL], ids=["empty", "full"])
def test_what_was_written_is_read(diary):
    assert read(write(diary)) == diary


rounds = st.integers(0, 60_000)
values = st.sampled_from([digest_of(raw) for raw in RAWS])
statements = st.one_of(
    st.builds(Proposal, rounds, values, st.one_of(st.just(NO_ROUND), rounds)),
    st.builds(Vote, st.sampled_from(VoteKind), rounds, st.one_of(st.none(), values)),
)


@given(rounds, st.one_of(st.none(), st.tuples(values, rounds)), st.lists(statements, max_size=20))
def test_any_memory_survives(round_, lock, cast):
    value, at = lock or (None, NO_ROUND)
    memory = Memory(round_, value, at, value, at, cast=tuple(cast))
    diary = replace(EMPTY, memory=memory, plans=tuple(RAWS))
    assert read(write(diary)) == diary


def test_whatever_is_cut_off_or_added_is_refused():
    data = write(FULL)
    for end in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            read(data[:end])
    with pytest.raises(RemoteProtocolError):
        read(data + b"\0")


@given(st.integers(0, len(write(FULL)) - 1), st.integers(1, 255))
def test_a_damaged_diary_is_refused(at, flip):
    data = bytearray(write(FULL))
    data[at] ^= flip
    with pytest.raises(RemoteProtocolError):
        read(bytes(data))


@pytest.mark.parametrize(
    "diary",
    [
        replace(FULL, plans=()),
        replace(FULL, memory=replace(FULL.memory, locked_round=NO_ROUND)),
        replace(FULL, memory=replace(FULL.memory, valid=None)),
    ],
    ids=["the plan that holds it", "the round of its lock", "the plan of its proof"],
)
def test_a_diary_that_lacks_something_is_refused(diary):
    with pytest.raises(MalformedMessage):
        read(write(diary))


def test_a_diary_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr("shoal_agent.core.votelog.VERSION", 2)
    data = write(EMPTY)
    monkeypatch.undo()
    with pytest.raises(MalformedMessage, match="version 2"):
        read(data)

"""What stands on the pages of a journal, and the entry that comes of it."""

from array import array
from dataclasses import replace

import pytest

from shoal_agent.core.effects import Count, SendFrame
from shoal_agent.core.facts import Claim, GenerationRequest, TextPrompt
from shoal_agent.core.ledger import Step
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.revival import LEAP, Found, Seek, Seeks, revived
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId, SessionId
from shoal_protocol.journal import JournalRequested, JournalServed, Page, bind_pages, seal_page
from tests.support.protocol import PLAN
from tests.support.toy import GREEDY

HERE, ONE, OTHER = (NodeId(name * 32) for name in "abc")
SESSION = SessionId(bytes(16))
CLAIM = Claim(bytes(32), bytes(32), 0)
REQUEST = GenerationRequest(SESSION, DeploymentId("toy"), TextPrompt("x"), GREEDY, 9, (), 30.0, CLAIM)
NOW = Instant(5.0)


def ids(*tokens):
    return array("q", tokens).tobytes()


PAGES = (
    Page(bytes(32), Epoch(0), 0, 2, 11, ((0, 256), (2, 1)), 0, False, ids(1, 2, 3)),
    Page(bytes(32), Epoch(1), 4, 2, 11, ((0, 256), (2, 1)), 3, False, ids(4, 5)),
)


def served(pages=PAGES, *, key=CLAIM.key, writer=ONE, payload=None):
    seeks, out = Seeks(), Outbox(HERE)
    seeks.begin(Seek(REQUEST, {ONE: None}, anew=False), out)
    told = bind_pages([seal_page(key, page) for page in pages]) if payload is None else payload
    return seeks.served(ONE, JournalServed(SESSION, writer, 8_000), told, NOW, out), out


def refusals(out):
    return [e.label for e in out.effects if isinstance(e, Count) and e.name == "journals_refused"]


def test_pages_follow_each_other_and_the_last_one_counts():
    (seek, found), _ = served()
    assert seek.request == REQUEST
    assert found == Found(ONE, PAGES[1], (1, 2, 3, 4, 5), Instant(13.0))


FIRST = PAGES[0]
NONSENSE = {
    "a gap": (FIRST, replace(PAGES[1], position=4)),
    "no beginning": (PAGES[1],),
    "nothing": (),
    "half a token": (replace(FIRST, token_ids=ids(1, 2) + b"x"),),
    "no prompt": (replace(FIRST, token_ids=ids(1)),),
    "too many": (replace(FIRST, tokens_max=2),),
    "no token": (replace(FIRST, token_ids=ids(1, -2, 3)),),
    "no runs": (replace(FIRST, runs=()),),
}


@pytest.mark.parametrize("pages", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_nothing(pages):
    (_, found), out = served(pages)
    assert found is None
    assert refusals(out) == ["MALFORMED"]


def test_another_clients_journal_does_not_open():
    (_, found), out = served(key=bytes([1]) * 32)
    assert found is None
    assert refusals(out) == ["SIGNATURE"]


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x91\x91\xc4\x01x"])
def test_what_is_no_journal_is_nothing(payload):
    (_, found), out = served(payload=payload)
    assert found is None
    assert len(refusals(out)) == 1


def test_the_first_journal_that_opens_is_good_enough_and_the_last_refusal_ends_it():
    seeks, out = Seeks(), Outbox(HERE)
    seeks.begin(Seek(REQUEST, {ONE: None, OTHER: None}, anew=False), out)
    assert [(e.peer, e.header) for e in out.effects if isinstance(e, SendFrame)] == [
        (ONE, JournalRequested(SESSION)),
        (OTHER, JournalRequested(SESSION)),
    ]
    nothing = JournalServed(SESSION, None, 0)
    assert seeks.served(HERE, nothing, None, NOW, out) is None, "it was not asked"
    assert seeks.served(ONE, nothing, None, NOW, out) is None
    assert seeks.served(ONE, nothing, None, NOW, out) is None, "it has answered"
    answer = seeks.served(OTHER, nothing, None, NOW, out)
    assert answer is not None
    assert answer[1] is None
    assert len(seeks) == 0


def test_who_is_lost_answers_nothing():
    seeks, out = Seeks(), Outbox(HERE)
    seeks.begin(Seek(REQUEST, {ONE: None, OTHER: None}, anew=False), out)
    assert seeks.lost(ONE) == []
    (seek,) = seeks.lost(OTHER)
    assert seek.request == REQUEST
    assert seeks.all() == ()


def entry_of(request=REQUEST, **page):
    return revived(request, Found(ONE, replace(PAGES[1], **page), (1, 2, 3, 4, 5), Instant(13.0)), PLAN, NOW)


def test_the_entry_stands_where_the_other_one_stood():
    entry = entry_of()
    entry.check()
    assert (entry.tokens, entry.prompt_tokens, entry.tokens_max) == ([1, 2, 3, 4, 5], 2, 11)
    assert [token.token for token in entry.unshown] == [3, 4, 5]
    assert (entry.step, entry.attempt, entry.deadline) == (Step.WAITING, 4 + LEAP, Instant(13.0))
    assert entry.runs.segments == PAGES[1].runs
    assert not entry.ending


@pytest.mark.parametrize("page", [{"ended": True}, {"tokens_max": 5}])
def test_what_had_ended_is_not_gone_on_with(page):
    assert entry_of(**page).ending


@pytest.mark.parametrize(("seen", "kept"), [(0, 2), (2, 4), (9, 5)])
def test_tokens_whose_likelihoods_are_wanted_are_drawn_again(seen, kept):
    request = replace(REQUEST, sampling=replace(GREEDY, top_logprobs=1), claim=replace(CLAIM, seen=seen))
    entry = entry_of(request, ended=True)
    assert len(entry.tokens) == kept
    assert entry.ending == (kept == 5)

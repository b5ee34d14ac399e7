import pytest

from shoal_agent.core.facts import CallId, GenerationRequest, TokenPrompt
from shoal_agent.core.ledger import Entry, Ledger, Step
from shoal_agent.core.plan import GENESIS_PARENT
from shoal_protocol.headers import Token
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId, SessionId
from shoal_protocol.messages import Plan, PlanStage
from tests.support.toy import GREEDY, MODEL

TOY = DeploymentId("toy")
PLAN = Plan(TOY, Epoch(0), GENESIS_PARENT, MODEL, 512, (PlanStage(NodeId("a" * 32), 0, 7),))


def entry(number: int = 0, step: Step = Step.STREAMING, prompt: int = 3, tokens_max: int = 5) -> Entry:
    session = SessionId(number.to_bytes(16))
    request = GenerationRequest(session, TOY, TokenPrompt((1,) * prompt), GREEDY, tokens_max - prompt, (), 30.0)
    made = Entry(request, PLAN, Instant(30.0), step)
    made.tokens = [1] * prompt
    made.prompt_tokens = prompt
    made.tokens_max = tokens_max
    return made


def drawn(made: Entry, token: int = 9) -> None:
    made.tokens.append(token)
    made.unshown.append(Token(TOY, Epoch(0), made.session, len(made.tokens) - 1, token, False, 0.0, ()))


def test_an_entry_counts_what_was_drawn_and_knows_when_it_is_full():
    made = entry()
    assert (made.generated, made.full()) == (0, False)
    drawn(made)
    assert (made.generated, made.full()) == (1, False)
    drawn(made)
    assert (made.generated, made.full()) == (2, True)
    made.check()


def test_a_request_is_found_until_it_is_removed():
    ledger = Ledger()
    one, two = entry(1), entry(2)
    ledger.add(one)
    ledger.add(two)
    assert ledger.get(one.session) is one
    assert ledger.entries() == (one, two)
    assert ledger.remove(one.session) is one
    assert ledger.get(one.session) is None
    assert len(ledger) == 1
    with pytest.raises(AssertionError, match="at random"):
        ledger.add(two)


def test_an_answer_finds_the_request_that_waits_for_it_once():
    ledger = Ledger()
    made = entry()
    ledger.add(made)
    ledger.await_call(made, CallId(7))
    assert ledger.owns(CallId(7))
    assert not ledger.owns(CallId(8))
    ledger.check()
    assert ledger.answered(CallId(7)) is made
    assert made.call is None
    assert ledger.answered(CallId(7)) is None
    ledger.check()


def test_a_request_waits_for_one_call_at_a_time():
    ledger = Ledger()
    made = entry()
    ledger.add(made)
    ledger.await_call(made, CallId(7))
    with pytest.raises(AssertionError, match="one call"):
        ledger.await_call(made, CallId(8))


def test_the_answer_to_a_request_that_is_over_meets_nothing():
    ledger = Ledger()
    made = entry()
    ledger.add(made)
    ledger.await_call(made, CallId(7))
    ledger.remove(made.session)
    assert not ledger.owns(CallId(7))
    assert ledger.answered(CallId(7)) is None
    ledger.check()


def shown_too_much(made: Entry) -> None:
    made.shown = 1


def too_long(made: Entry) -> None:
    made.tokens = [1] * 6


def unopened(made: Entry) -> None:
    made.unopened = {1}


def unshown_twice(made: Entry) -> None:
    drawn(made)
    made.shown = 1


def another_call(made: Entry) -> None:
    made.call = CallId(99)


@pytest.mark.parametrize("break_it", [shown_too_much, too_long, unopened, unshown_twice, another_call])
def test_books_that_do_not_balance_are_noticed(break_it):
    ledger = Ledger()
    made = entry()
    ledger.add(made)
    ledger.check()
    break_it(made)
    with pytest.raises((AssertionError, KeyError)):
        ledger.check()

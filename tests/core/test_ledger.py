from dataclasses import replace

import pytest

from shoal_agent.core.facts import CallId, GenerationRequest, TokenPrompt
from shoal_agent.core.ledger import NEVER, SHUN_DOUBLINGS_MAX, SHUN_S, STALL_S, STALL_TOKENS, Entry, Ledger, Step
from shoal_agent.core.plan import GENESIS_PARENT
from shoal_agent.core.resume import Reach
from shoal_protocol.headers import Token
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId, SessionId
from shoal_protocol.messages import Plan, PlanStage
from tests.support.toy import GREEDY, MODEL

TOY = DeploymentId("toy")
HOST, OTHER = NodeId("a" * 32), NodeId("b" * 32)
PLAN = Plan(TOY, Epoch(0), GENESIS_PARENT, MODEL, 512, (PlanStage(HOST, 0, 7),))


def entry(number: int = 0, prompt: int = 3, tokens_max: int = 5) -> Entry:
    session = SessionId(number.to_bytes(16))
    request = GenerationRequest(session, TOY, TokenPrompt((1,) * prompt), GREEDY, tokens_max - prompt, (), 30.0)
    made = Entry(request, PLAN, Instant(30.0), Step.ENCODING)
    made.begin((1,) * prompt)
    made.attempt, made.route, made.reaches = 0, (HOST,), {0: Reach(0, 0)}
    made.step, made.accepted, made.fed = Step.STREAMING, True, prompt
    return made


def following(made: Entry, **changes: object) -> Token:
    token = Token(TOY, Epoch(0), made.session, len(made.tokens), 9, False, 0.0, ())
    return replace(token, **changes)


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
    made.reaches = {}


def pushed_too_much(made: Entry) -> None:
    made.pushed = 1


def fed_too_much(made: Entry) -> None:
    made.fed = 4


def promised_nothing(made: Entry) -> None:
    made.accepted = False


def unshown_twice(made: Entry) -> None:
    drawn(made)
    made.shown = 1


def another_call(made: Entry) -> None:
    made.call = CallId(99)


@pytest.mark.parametrize(
    "break_it",
    [
        shown_too_much,
        too_long,
        unopened,
        unshown_twice,
        another_call,
        pushed_too_much,
        fed_too_much,
        promised_nothing,
    ],
)
def test_books_that_do_not_balance_are_noticed(break_it):
    ledger = Ledger()
    made = entry()
    ledger.add(made)
    ledger.check()
    break_it(made)
    with pytest.raises((AssertionError, KeyError)):
        ledger.check()


# --- the next token ---------------------------------------------------------------------------------------------------


def test_the_next_token_is_expected_from_the_last_node_of_the_route_and_once():
    made = entry()
    token = following(made)
    assert made.expects(HOST, token)
    drawn(made)
    assert not made.expects(HOST, token), "it was drawn"
    assert not made.expects(HOST, following(made)), "nobody was asked for it"
    made.fed = 4
    assert made.expects(HOST, following(made))


@pytest.mark.parametrize(
    "changes",
    [{"position": 2}, {"position": 4}, {"attempt": 1}, {"epoch": Epoch(1)}, {"deployment": DeploymentId("no")}],
    ids=str,
)
def test_no_other_token_is_expected(changes):
    made = entry()
    assert not made.expects(HOST, following(made, **changes))
    assert not made.expects(OTHER, following(made))


@pytest.mark.parametrize("step", [Step.OPENING, Step.WAITING])
def test_no_token_is_expected_while_the_stages_stand_still(step):
    made = entry()
    made.step = step
    assert not made.expects(HOST, following(made))


def test_no_token_is_expected_after_the_last_one():
    made = entry()
    made.ending = True
    assert not made.expects(HOST, following(made))


@pytest.mark.parametrize(("stage", "attempt", "peer"), [(0, 1, HOST), (1, 0, HOST), (-1, 0, HOST), (0, 0, OTHER)])
def test_only_the_node_of_a_stage_speaks_for_it_and_under_the_attempt_that_is_under_way(stage, attempt, peer):
    made = entry()
    assert made.speaks(HOST, 0, 0)
    assert not made.speaks(peer, stage, attempt)


# --- patience ---------------------------------------------------------------------------------------------------------


def test_who_fails_again_and_again_is_shunned_for_longer_and_longer():
    made, now, spans = entry(), Instant(0.0), []
    for _ in range(SHUN_DOUBLINGS_MAX + 3):
        made.shun(HOST, now)
        assert made.shuns(HOST, now)
        until = made.shunned[HOST].until
        assert not made.shuns(HOST, until)
        spans.append(until - now)
        now = until
    assert spans[:3] == [SHUN_S, 2 * SHUN_S, 4 * SHUN_S]
    assert spans[-1] == spans[-2] == SHUN_S * 2**SHUN_DOUBLINGS_MAX
    assert not made.shuns(OTHER, now)


def test_a_token_is_missed_after_the_time_of_several():
    made = entry()
    assert made.span_s == STALL_S
    for second in range(1, 60):
        made.heard(Instant(float(second)))
    assert made.span_s == pytest.approx(STALL_TOKENS * 1.0)
    made.patience_s = 100.0
    assert made.span_s == 100.0
    made.kicks = 2
    assert made.span_s == 400.0


def test_a_request_that_nothing_happened_to_has_lost_nothing():
    assert entry().lost_at == NEVER

from dataclasses import replace

import pytest

from shoal_agent.core import services
from shoal_agent.core.effects import Accept, CallService, Emit, Finish, OpenStage, SendFrame
from shoal_agent.core.endings import RETRY_AFTER_S
from shoal_agent.core.events import CancelRequested, ServicesAvailable
from shoal_agent.core.facts import ChatPrompt, FinishReason, RejectCode, TextPrompt, Usage
from shoal_agent.core.ingress import PROMPT_TOKENS_MAX
from shoal_protocol.headers import (
    Activation,
    RefusalCode,
    ServiceFault,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import DeploymentId, Epoch, SessionId
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS, REQUESTS_MAX
from tests.support.cell import Cell
from tests.support.toy import GREEDY, NAMES, VOCABULARY, prompt_that_answers, toy_tokens
from tests.support.world import TOY, World, world_of

CHAT = ChatPrompt(services.pack(services.RenderRequest((services.ChatMessage("user", "hello"),), True)))
BODY = tuple(b"hello")


@pytest.fixture
def world():
    made = world_of(2, 2)
    yield made
    made.check_idle()


def text_of(cell: Cell, session: SessionId) -> str:
    said = [answer.piece.text for answer in cell.answers[session] if isinstance(answer, Emit)]
    ending = cell.ending(session)
    return "".join(said) + (ending.tail if isinstance(ending, Finish) else "")


# --- the answer of the split is the answer of the whole ---------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 8])
def test_any_split_and_any_ingress_answer_as_the_unsplit_model(stages):
    world = world_of(stages)
    prompts = [(1,), (7, 9, 200), tuple(range(PREFILL_CHUNK_TOKENS)), tuple(n % 256 for n in range(300))]
    for number, prompt in enumerate(prompts):
        ingress = world.names[number % len(world.names)]
        session = world.ask(ingress, prompt)
        assert world.answer(ingress, session) == toy_tokens(prompt, 8, 8)
        assert world.cells[ingress].answers[session][0] == Accept(session, len(prompt))
    world.check_idle()


def test_sessions_at_once_from_every_ingress_do_not_mix():
    world = world_of(3, 2)
    asked = [(name, (number, name_number)) for name_number, name in enumerate(world.names) for number in range(6)]
    sessions = [(name, prompt, world.ask(name, prompt, tokens_max=20)) for name, prompt in asked]
    for name, prompt, session in sessions:
        assert world.answer(name, session) == toy_tokens(prompt, 8, 20)
    world.check_idle()


@pytest.mark.parametrize("prompt", [CHAT, TextPrompt("hello"), BODY], ids=["chat", "text", "tokens"])
def test_a_node_without_services_uses_those_of_others(prompt):
    world = World(3)
    bare, *hosts = world.names
    world.start(without_services=(bare,))
    world.deploy(hosts)
    session = world.ask(bare, prompt)
    assert world.answer(bare, session) == toy_tokens(BODY, 8, 8)
    assert not world.cells[bare].asked(CallService)
    flushed = [frame for frame in world.cells[bare].asked(SendFrame) if getattr(frame.header, "method", "") == "flush"]
    assert len(flushed) == 1
    world.check_idle()


def test_a_host_without_services_of_its_own_is_an_ingress_like_any_other():
    """Only the last stage must sample."""
    world = World(3)
    world.start(without_services=tuple(world.names[:2]))
    world.deploy()
    session = world.ask(world.names[0], CHAT)
    assert world.answer(world.names[0], session) == toy_tokens(BODY, 8, 8)
    world.check_idle()


def test_the_next_step_is_asked_before_the_text(world):
    ingress = world.cells[world.names[3]]
    world.answer(ingress.name, world.ask(ingress.name))
    order = [
        "step" if isinstance(effect, SendFrame) else "text"
        for _, name, effect in world.log
        if name == ingress.name
        and (
            (isinstance(effect, SendFrame) and isinstance(effect.header, Activation))
            or (isinstance(effect, CallService) and effect.method == "push")
        )
    ]
    assert order[:4] == ["step", "step", "text", "step"]


# --- how an answer ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 5])
def test_the_end_of_turn_ends_it_and_is_not_counted(world, length):
    prompt = prompt_that_answers(length)
    session = world.ask(world.names[2], prompt, tokens_max=100)
    ending = world.ended(world.names[2], session)
    assert world.cells[world.names[2]].tokens(session) == toy_tokens(prompt, 8, 100)
    assert (ending.reason, ending.usage) == (FinishReason.STOP, Usage(2, length))


@pytest.mark.parametrize("length", [1, 2])
def test_the_length_ends_it(world, length):
    ending = world.ended(world.names[2], session := world.ask(world.names[2], tokens_max=length))
    assert (ending.reason, ending.usage) == (FinishReason.LENGTH, Usage(3, length))
    assert world.cells[world.names[2]].tokens(session) == toy_tokens((1, 2, 3), 8, length)


def test_an_answer_that_ends_just_where_its_length_does_is_as_long_as_it_may_be(world):
    ending = world.ended(world.names[2], world.ask(world.names[2], prompt_that_answers(3), tokens_max=3))
    assert (ending.reason, ending.usage.completion_tokens) == (FinishReason.LENGTH, 3)


@pytest.mark.parametrize(
    ("prompt", "tokens_max", "answered"),
    [(31, None, 1), (20, None, 12), (31, 1, 1), (20, 12, 12), (32, None, None), (32, 1, None), (20, 13, None)],
)
def test_the_context_bounds_prompt_and_answer_together(prompt, tokens_max, answered):
    world = world_of(2, context=32)
    tokens = (1,) * prompt
    ending = world.ended(world.names[2], world.ask(world.names[2], tokens, tokens_max=tokens_max))
    if answered is None:
        assert (ending.code, ending.retry_after_s) == (RejectCode.CONTEXT_EXCEEDED, None)
    else:
        assert (ending.reason, ending.usage) == (FinishReason.LENGTH, Usage(prompt, answered))
    world.check_idle()


@pytest.mark.parametrize(("extra", "accepted"), [(0, True), (1, False)])
def test_a_prompt_is_at_most_what_the_first_stage_keeps_waiting(extra, accepted):
    world = world_of(1, blocks=1, context=PROMPT_TOKENS_MAX + 10)
    prompt = (1,) * (PROMPT_TOKENS_MAX + extra)
    session = world.ask(world.names[1], prompt, tokens_max=1)
    if accepted:
        assert world.answer(world.names[1], session) == toy_tokens(prompt, 1, 1)
    else:
        assert world.ended(world.names[1], session).code is RejectCode.CONTEXT_EXCEEDED
    world.check_idle()


def test_a_stop_string_ends_it_and_is_not_shown(world):
    tokens = toy_tokens((1, 2, 3), 8, 8)
    whole = "".join(map(chr, tokens))
    ingress = world.cells[world.names[2]]
    session = world.ask(ingress.name, stop=(whole[3:5], "never"), tokens_max=100)
    ending = world.ended(ingress.name, session)
    assert text_of(ingress, session) == whole[:3]
    assert (ending.reason, ending.usage) == (FinishReason.STOP, Usage(3, 5))


def test_what_might_have_become_a_stop_string_is_shown_in_the_end(world):
    whole = "".join(map(chr, toy_tokens((1, 2, 3), 8, 8)))
    ingress = world.cells[world.names[2]]
    session = world.ask(ingress.name, stop=(whole[6:] + "!",))
    ending = world.ended(ingress.name, session)
    assert text_of(ingress, session) == whole
    assert ending.tail == whole[6:]


def test_log_probabilities_come_with_the_bytes_of_every_rival(world):
    ingress = world.cells[world.names[2]]
    session = world.ask(ingress.name, sampling=replace(GREEDY, top_logprobs=2), tokens_max=1)
    world.answer(ingress.name, session)
    (emitted,) = [answer for answer in ingress.answers[session] if isinstance(answer, Emit)]
    token = emitted.piece.token
    assert emitted.piece.logprob.top == ((token, chr(token).encode(), -1.0), (token + 1, chr(token + 1).encode(), -2.0))
    assert emitted.piece.logprob.logprob == -1.0


def test_rivals_without_their_bytes_end_the_stream_and_no_other(world):
    ingress = world.cells[world.names[2]]
    other = world.ask(ingress.name, (4, 5))
    honest = ingress.services.serve

    def serve(service: str, method: str, request: bytes, hidden: int | None) -> services.ServiceMessage:
        answer = honest(service, method, request, hidden)
        return replace(answer, top_bytes=()) if isinstance(answer, services.PushAnswer) else answer

    ingress.services.serve = serve
    ending = world.ended(ingress.name, world.ask(ingress.name, sampling=replace(GREEDY, top_logprobs=2)))
    assert (ending.reason, ending.usage.completion_tokens) == (FinishReason.FAILED, 0)
    assert ingress.counts["service_answers_rejected", "malformed"] == 1
    assert world.answer(ingress.name, other) == toy_tokens((4, 5), 8, 8)


# --- not begun --------------------------------------------------------------------------------------------------------


def test_a_deployment_nobody_knows():
    world = World(1)
    world.start()
    refusal = world.ended(world.names[0], world.ask(world.names[0]))
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.UNKNOWN_MODEL, None)


def test_a_deployment_is_not_served_before_all_its_hosts_are_ready():
    world = World(2)
    world.start()
    world.cells[world.names[1]].load_s = 5.0
    world.announce(world.plan(world.names))
    world.run(1.0)
    refusal = world.ended(world.names[0], world.ask(world.names[0]))
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.NOT_READY, RETRY_AFTER_S)
    world.run_until(world.serving)
    assert world.answer(world.names[0], world.ask(world.names[0])) == toy_tokens((1, 2, 3), 8, 8)


@pytest.mark.parametrize("prompt", [(), (VOCABULARY,), TextPrompt("")], ids=["no tokens", "no such token", "no text"])
def test_a_bad_prompt_is_the_clients(world, prompt):
    refusal = world.ended(world.names[0], world.ask(world.names[0], prompt))
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.BAD_PROMPT, None)


@pytest.mark.parametrize("bare", [False, True], ids=["services here", "services abroad"])
@pytest.mark.parametrize("method", ["render", "encode"])
@pytest.mark.parametrize(
    ("fault", "code", "retry_after_s"),
    [
        (ServiceFault.REFUSED, RejectCode.BAD_PROMPT, None),
        (ServiceFault.BUSY, RejectCode.OVERLOADED, RETRY_AFTER_S),
        (ServiceFault.FAILED, RejectCode.INTERNAL, None),
    ],
)
def test_only_what_a_service_refuses_is_the_clients_fault(fault, code, retry_after_s, method, bare):
    world = World(3)
    ingress, *hosts = world.names
    world.start(without_services=(ingress,) if bare else ())
    world.deploy(hosts)
    for cell in world.cells.values():
        cell.faults[method] = fault
    rejection = world.ended(ingress, world.ask(ingress, CHAT))
    assert (rejection.code, rejection.retry_after_s) == (code, retry_after_s)
    assert rejection.detail == f"{method}: {fault.name}"
    world.check_idle()


@pytest.mark.parametrize(("asked", "busy"), [(2, 2), (2, 1), (0, 0)], ids=["detokenizer", "sampler", "both"])
def test_a_service_that_has_no_room_for_the_session_may_have_it_later(world, asked, busy):
    world.cells[world.names[busy]].faults["open"] = ServiceFault.BUSY
    rejection = world.ended(world.names[asked], world.ask(world.names[asked]))
    assert (rejection.code, rejection.retry_after_s) == (RejectCode.OVERLOADED, RETRY_AFTER_S)
    assert rejection.detail.endswith("open: BUSY")


def test_without_a_tokenizer_anywhere_nothing_begins():
    world = World(2)
    world.start(without_services=tuple(world.names))
    world.deploy()
    refusal = world.ended(world.names[0], world.ask(world.names[0]))
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.NOT_READY, RETRY_AFTER_S)


def test_without_a_detokenizer_anywhere_no_stage_is_opened():
    world = World(2)
    world.start(without_services=tuple(world.names))
    world.cells[world.names[1]].post(ServicesAvailable(tuple(name for name in NAMES if "detokenizer" not in name)))
    world.run(1)
    world.deploy()
    refusal = world.ended(world.names[0], world.ask(world.names[0]))
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.NOT_READY, RETRY_AFTER_S)
    assert not [cell for cell in world.cells.values() if cell.asked(OpenStage)]
    world.check_idle()


def test_kv_that_is_promised_is_not_promised_again_and_comes_back():
    world = world_of(2, kv_bytes_max=4 * 64 * 25, context=25)
    one, two = world.names[1:]
    running = [world.ask(name, tokens_max=8) for name in (one, two)]
    world.run(0.01)
    refusal = world.ended(two, world.ask(two, tokens_max=8))
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.OVERLOADED, RETRY_AFTER_S)
    for name, session in zip((one, two), running, strict=True):
        assert world.answer(name, session) == toy_tokens((1, 2, 3), 8, 8)
    assert world.answer(two, world.ask(two, tokens_max=8)) == toy_tokens((1, 2, 3), 8, 8)
    world.check_idle()


def test_a_host_with_as_many_sessions_as_it_keeps_is_overloaded(monkeypatch):
    monkeypatch.setattr("shoal_agent.core.admission.SESSIONS_MAX", 1)
    world = world_of(2)
    kept = world.ask(world.names[2])
    world.run(0.01)
    refusal = world.ended(world.names[2], world.ask(world.names[2]))
    assert (refusal.code, refusal.retry_after_s) == (RejectCode.OVERLOADED, RETRY_AFTER_S)
    assert world.answer(world.names[2], kept) == toy_tokens((1, 2, 3), 8, 8)
    world.check_idle()


def test_an_ingress_has_a_bound_of_its_own(world):
    ingress = world.cells[world.names[2]]
    ingress.slow = {"check"}
    sessions = [world.ask(ingress.name) for _ in range(REQUESTS_MAX + 1)]
    assert ingress.ending(sessions[-1]).code is RejectCode.OVERLOADED
    ingress.post(CancelRequested(sessions[0]))
    assert ingress.ending(world.ask(ingress.name)) is None
    for session in sessions[1:]:
        ingress.post(CancelRequested(session))


# --- what others say --------------------------------------------------------------------------------------------------


def streaming(world: World, tokens_max: int = 20) -> tuple[Cell, SessionId]:
    ingress = world.cells[world.names[3]]
    session = world.ask(ingress.name, tokens_max=tokens_max)
    world.run_until(lambda: len(ingress.tokens(session)) == 3)
    return ingress, session


def position(ingress: Cell, session: SessionId) -> int:
    return len(ingress.node._ingress._ledger.get(session).tokens)


FALSE_TOKENS = {
    "from a node that is not the last stage": (0, {}),
    "from a stranger": (2, {}),
    "again": (1, {"position": -1}),
    "ahead": (1, {"position": 1}),
    "of another epoch": (1, {"epoch": Epoch(1)}),
    "of another deployment": (1, {"deployment": DeploymentId("no")}),
    "of another session": (1, {"session": SessionId(bytes(16))}),
}


@pytest.mark.parametrize(("sender", "changes"), FALSE_TOKENS.values(), ids=FALSE_TOKENS)
@pytest.mark.parametrize("end", [False, True])
def test_a_false_token_is_dropped_and_counted(world, sender, changes, end):
    ingress, session = streaming(world)
    token = Token(TOY, Epoch(0), session, position(ingress, session), 99, end, 0.0, ())
    if "position" in changes:
        changes = {"position": token.position + changes["position"]}
    world.inject(world.names[sender], ingress.name, replace(token, **changes))
    assert ingress.counts["frames_dropped", "token"] == 1
    assert world.answer(ingress.name, session) == toy_tokens((1, 2, 3), 8, 20)


@pytest.mark.parametrize(("sender", "stage"), [(2, 0), (1, 0), (0, 1), (0, 63)])
def test_only_a_stage_may_refuse_for_itself(world, sender, stage):
    ingress, session = streaming(world)
    refusal = SessionRefused(session, stage, RefusalCode.STAGE_FAILED, "no")
    world.inject(world.names[sender], ingress.name, refusal)
    assert ingress.counts["frames_dropped", "session_refused"] == 1
    assert world.answer(ingress.name, session) == toy_tokens((1, 2, 3), 8, 20)


def test_a_stage_may_be_opened_by_its_own_host_only(world):
    ingress = world.cells[world.names[3]]
    world.hold("open")
    session = world.ask(ingress.name)
    world.run(0.1)
    for sender, stage in ((0, 1), (2, 1), (1, 63)):
        world.inject(world.names[sender], ingress.name, SessionOpened(session, stage))
    assert ingress.counts["frames_dropped", "session_opened"] == 3
    assert ingress.answers[session] == []
    for cell in world.cells.values():
        cell.release()
    assert world.answer(ingress.name, session) == toy_tokens((1, 2, 3), 8, 8)


def test_a_request_that_would_be_late_beside_the_others_is_refused_with_when_to_ask_again(world):
    """Each of two stages takes 0.4 ms for a token, so that 100 tokens beside four others take 0.2 s."""
    ingress = world.cells[world.names[3]]
    begun = [world.ask(ingress.name, tokens_max=100) for _ in range(4)]
    world.run(0.1)
    assert all(ingress.ending(session) is None for session in begun)
    late = world.ask(ingress.name, tokens_max=100, deadline_s=0.17)
    ending = world.ended(ingress.name, late)
    assert ending.code is RejectCode.OVERLOADED
    assert ending.retry_after_s == pytest.approx(0.04)
    short = world.ask(ingress.name, tokens_max=20, deadline_s=0.17)
    world.run(0.05)
    assert isinstance(ingress.answers[short][0], Accept)
    for session in begun:
        world.answer(ingress.name, session)


def test_who_is_alone_is_not_told_that_others_are_in_the_way(world):
    ingress = world.cells[world.names[3]]
    alone = world.ask(ingress.name, tokens_max=400, deadline_s=0.05)
    assert world.ended(ingress.name, alone).reason is FinishReason.DEADLINE

"""Every oracle must be able to fire: each is shown a lie."""

import pytest

from shoal_agent.core.effects import Accept, Count, Emit, Finish, Reject, RunStage
from shoal_agent.core.events import EnvelopeReceived, FrameReceived, TimePassed
from shoal_agent.core.facts import (
    ChatPrompt,
    FinishReason,
    GenerationRequest,
    Piece,
    RejectCode,
    TensorHandle,
    TextPrompt,
    Usage,
)
from shoal_agent.core.plan import slot_of
from shoal_agent.core.services import ChatMessage, RenderRequest, pack
from shoal_agent.sim.machine import Seen
from shoal_agent.sim.oracles import LIVENESS, SAFETY, decides, prompt_tokens, views_converge
from shoal_agent.sim.settings import TOY
from shoal_agent.sim.toy import GREEDY, toy_tokens
from shoal_protocol.headers import Activation
from shoal_protocol.ids import Epoch, SessionId
from shoal_protocol.messages import Heartbeat
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.tensors import Dtype
from tests.support.sim import judged, request

SESSION = request().session
ACCEPT = Accept(SESSION, 3)
EXPECTED = toy_tokens((1, 2, 3), 8, 8)
REJECT = Reject(SESSION, RejectCode.OVERLOADED, "", None)


def emit(token):
    return Emit(SESSION, Piece(token, "", None))


def finish(reason=FinishReason.LENGTH):
    return Finish(SESSION, reason, "", Usage(3, 8), "")


@pytest.fixture(scope="module")
def world_of_oracles():
    return judged()


@pytest.fixture
def scene(world_of_oracles):
    world, judge = world_of_oracles
    judge.violations.clear()
    judge.requests.book.clear()
    return world, judge, world.machines[world.names[0]]


def told(scene, *effects):
    """The oracles that fire when a client who asked is told ``effects``."""
    _, judge, machine = scene
    judge.asked(machine, request())
    judge.handled(Seen(1.0, machine, TimePassed(), list(effects)))
    return {violation.oracle for violation in judge.violations}


@pytest.mark.parametrize(
    "effects",
    [
        [ACCEPT, *map(emit, EXPECTED), finish()],
        [ACCEPT, *map(emit, EXPECTED[:2]), finish(FinishReason.FAILED)],
        [REJECT],
        [finish(FinishReason.CANCELLED)],
    ],
    ids=["whole", "failed", "rejected", "cancelled"],
)
def test_an_honest_answer_is_fine(scene, effects):
    assert told(scene, *effects) == set()
    assert scene[1].requests.open() == []


@pytest.mark.parametrize(
    "effects",
    [
        [ACCEPT, ACCEPT],
        [emit(EXPECTED[0])],
        [ACCEPT, REJECT],
        [REJECT, REJECT],
        [ACCEPT, finish(FinishReason.FAILED), emit(EXPECTED[0])],
        [Accept(SessionId(b"?" * 16), 1)],
    ],
    ids=["accepted twice", "not accepted", "rejected late", "two endings", "after the end", "nobody asked"],
)
def test_a_wrong_order_fires(scene, effects):
    assert "requests" in told(scene, *effects)


@pytest.mark.parametrize(
    "effects",
    [
        [ACCEPT, emit(EXPECTED[0]), emit(EXPECTED[0])],
        [ACCEPT, emit(EXPECTED[1])],
        [ACCEPT, *map(emit, EXPECTED), emit(1)],
        [ACCEPT, *map(emit, EXPECTED[:-1]), finish()],
    ],
    ids=["twice", "skipped", "too many", "too few"],
)
def test_wrong_tokens_fire(scene, effects):
    assert told(scene, *effects) == {"tokens"}


def test_a_request_without_an_ending_is_open_while_its_life_lasts(scene):
    world, judge, machine = scene
    told(scene, ACCEPT)
    assert judge.requests.open() == [SESSION]
    assert LIVENESS["drains"](world, judge) == "1 requests have no ending"
    judge.asked(machine, request())
    judge.requests.book[SESSION].boots += 1
    assert judge.requests.open() == []


@pytest.mark.parametrize(
    ("came", "run", "fires"), [(0, 0, set()), (1, 0, {"epoch-fence"}), (1, 1, {"epoch-fence"}), (0, 1, {"epoch-fence"})]
)
def test_a_run_under_an_epoch_not_held_or_not_asked_for_fires(scene, came, run, fires):
    _, judge, machine = scene
    header = Activation(TOY, Epoch(came), SESSION, 0, 0, 1, True, 100, Dtype.I64, (1, 1))
    tensor = TensorHandle(7)
    run = RunStage(SESSION, slot_of(Epoch(run), 0), 0, 1, tensor, True)
    judge.handled(Seen(1.0, machine, FrameReceived(machine.name, header, tensor), []))
    judge.handled(Seen(1.0, machine, TimePassed(), [run]))
    assert {violation.oracle for violation in judge.violations} == fires


def envelope(scene, *, known=True):
    world, judge, _ = scene
    said = world.said(world.machines[world.names[1]].setup.sealer, Heartbeat(1, 1), 77_000 + known, 0)
    if known:
        judge.published(world.names[1], said, 1.0)
    return EnvelopeReceived("broker-0", said.topic, said.wire)


def test_an_envelope_accepted_once_is_fine_and_twice_fires(scene):
    _, judge, machine = scene
    event = envelope(scene)
    judge.handled(Seen(1.0, machine, event, []))
    judge.handled(Seen(1.0, machine, event, [Count("messages_duplicate", "broker-0")]))
    assert judge.violations == []
    judge.handled(Seen(1.0, machine, event, []))
    assert [violation.oracle for violation in judge.violations] == ["accepted"]


def test_an_envelope_nobody_said_fires(scene):
    _, judge, machine = scene
    event = envelope(scene, known=False)
    judge.handled(Seen(1.0, machine, event, [Count("messages_rejected", "signature")]))
    assert judge.violations == []
    judge.handled(Seen(1.0, machine, event, []))
    assert [violation.oracle for violation in judge.violations] == ["accepted"]


def test_members_speak_for_themselves(scene):
    world, judge, _ = scene
    said = world.said(world.machines[world.names[1]].setup.sealer, Heartbeat(1, 1), 1, 0)
    with pytest.raises(AssertionError):
        judge.published(world.names[0], said, 1.0)
    assert Ed25519Sealer(bytes(32)).public_key


def test_a_calm_world_is_well():
    world, judge = judged()
    assert {name: oracle(world, judge) for name, oracle in LIVENESS.items()} == dict.fromkeys(LIVENESS)
    assert judge.violations == []


def test_a_host_that_fell_silent_is_to_be_replaced_and_missed_when_it_is_back():
    world, judge = judged()
    world.crash(world.names[0])
    assert views_converge(world, judge) is None
    assert "which are dead" in (decides(world, judge) or "")
    world.boot(world.names[0])
    assert "does not" in (views_converge(world, judge) or "") or "not ready" in (views_converge(world, judge) or "")


def test_a_stage_that_nobody_stands_by_for_is_missed_and_one_that_is_not_open_yet():
    world, judge = judged(3, 2)
    world.run(2.0)
    assert LIVENESS["backed"](world, judge) is None
    spare = world.names[2]
    world.crash(spare)
    assert LIVENESS["backed"](world, judge) == "nobody stands by for blocks 0-3 in epoch 0"
    world.boot(spare)
    assert LIVENESS["backed"](world, judge) == f"{spare[:8]} does not stand by for blocks 0-3"
    world.run(15.0)
    assert LIVENESS["backed"](world, judge) is None


def test_where_nobody_else_is_left_nobody_is_missed():
    world, judge = judged(2, 1)
    world.crash(world.names[1])
    assert LIVENESS["backed"](world, judge) is None


def test_what_is_left_over_is_told():
    world, judge = judged()
    world.machines[world.names[1]].device.put(b"x")
    assert "1 tensors" in (LIVENESS["balances"](world, judge) or "")


def test_names_are_unique():
    assert len({*SAFETY, *LIVENESS}) == len(SAFETY) + len(LIVENESS)


def test_prompts_are_tokens_in_the_end():
    body = pack(RenderRequest((ChatMessage("user", "a"), ChatMessage("user", "b")), add_generation_prompt=True))
    for prompt in (TextPrompt("ab"), ChatPrompt(body)):
        assert prompt_tokens(GenerationRequest(SESSION, TOY, prompt, GREEDY, 1, (), 1.0)) == (97, 98)
    assert prompt_tokens(request(prompt=(5,))) == (5,)

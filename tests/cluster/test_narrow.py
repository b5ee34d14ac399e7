"""Plans that narrow activations: judged by a voter, run by a stage, served, struck and repaired by whole clusters."""

from dataclasses import replace

import pytest

from shoal_agent.core.causes import trigger_of
from shoal_agent.core.effects import SendFrame
from shoal_agent.core.facts import Standing, Width
from shoal_agent.core.outlook import Outlooks
from shoal_agent.core.plan import voters_for
from shoal_agent.core.validity import Sight, Validity
from shoal_protocol.headers import Activation, RefusalCode
from shoal_protocol.messages import DeploymentPhase, Terms
from shoal_protocol.tensors import Dtype
from shoal_protocol.widths import DTYPE_OF, ActivationWidth
from tests.support.opinion import MEMORY, NOW, Opinion
from tests.support.stand import OPEN, RESUME, STEP, Stand
from tests.support.toy import toy_tokens
from tests.support.world import World

WIDTHS = (Width("f32"), Width("f16", 500, 0, 0, 100), Width("i8", 250, 4, 0, 400))
I8 = ActivationWidth.I8
PROMPT = next(text for n in range(99) if len(toy_tokens(text := (n, 5), 8, 100)) == 100)


def narrow_world(certified=WIDTHS, *, loss=500, standbys=()):
    world = World(5)
    world.facts = replace(world.facts, widths=certified)
    world.link_s = (0.0005, 0.0005)
    world.start()
    hosts = world.names[:2]
    plan = world.plan(hosts, standbys=tuple((world.names[index],) for index in standbys))
    stages = (plan.stages[0], replace(plan.stages[1], width=I8))
    terms = Terms(stages_min=2, standbys=plan.terms.standbys, loss_micronats=loss)
    voters = voters_for(plan.deployment, hosts, world.names, 0)
    world.announce(replace(plan, stages=stages, terms=terms, voters=voters))
    return world


def newest(world):
    living = [cell for cell in world.cells.values() if not cell.dead]
    return [cell.node.snapshot(world.now).deployments[-1] for cell in living]


def test_its_hosts_send_it_as_it_says_and_answers_are_the_same():
    world = narrow_world()
    world.run_until(world.serving)
    asker = world.names[-1]
    assert world.answer(asker, world.ask(asker, PROMPT, tokens_max=20)) == toy_tokens(PROMPT, 8, 20)
    sent = [effect.header for _, _, effect in world.log if isinstance(effect, SendFrame)]
    into = {header.stage: header.dtype for header in sent if isinstance(header, Activation)}
    assert into == {0: Dtype.I64, 1: Dtype.I8}


@pytest.mark.parametrize("victim", [0, 1])
def test_a_session_goes_on_with_a_standby_as_if_nothing_had_been(victim):
    world = narrow_world(standbys=(2, 3))
    world.run_until(world.serving)
    for cell in world.cells.values():
        cell.block_s = 0.001
    asker = world.cells[world.names[-1]]
    session = world.ask(asker.name, PROMPT, tokens_max=100)
    world.run_until(lambda: len(asker.tokens(session)) >= 30)
    world.kill(world.names[victim])
    assert world.answer(asker.name, session) == toy_tokens(PROMPT, 8, 100)


def test_a_repair_stays_within_the_budget():
    world = narrow_world()
    world.run_until(world.serving)
    world.run(5)
    world.kill(world.names[1])
    world.run_until(lambda: all(view.epoch >= 1 and view.serving for view in newest(world)), 8.0)
    assert {view.stages[1].stage.width for view in newest(world)} == {I8}, (
        "who takes its place takes its input as it was"
    )
    asker = world.names[-1]
    assert world.answer(asker, world.ask(asker, PROMPT, tokens_max=20)) == toy_tokens(PROMPT, 8, 20)


@pytest.mark.parametrize(
    ("certified", "loss", "why"),
    [
        (WIDTHS[:2], 500, "I8 into stage 1: no certificate of it here"),
        ((), 500, "I8 into stage 1: no certificate of it here"),
        (WIDTHS, 399, "narrow activations cost 400 micronats, the terms allow 399"),
    ],
)
def test_a_host_refuses_what_its_manifest_does_not_certify(certified, loss, why):
    world = narrow_world(certified, loss=loss)
    world.run(2.0)
    assert not world.serving()
    for name in world.names[:2]:
        (view,) = world.cells[name].node.snapshot(world.now).deployments
        told = {host.stage.node: host for host in view.stages}[name]
        assert told.phase is DeploymentPhase.FAILED
        assert why in told.detail


# --- one voter --------------------------------------------------------------------------------------------------------


def judge(me, plan, *, known=True):
    trigger = trigger_of(me.tables, me.here, me.head, {}, NOW)
    outlook = Outlooks(me.here, me.tables, me.roster).of(me.head.plan, me.facts, {}, NOW) if known else None
    validity = Validity(me.here, me.tables, me.voice, MEMORY)
    return validity.judge(plan, Sight(me.head, trigger, outlook, 3_600_000), NOW)


def repair(me):
    return me.after((0, 0, 3), (2, 4, 7))


def narrow(me, width=ActivationWidth.F16):
    plan = repair(me)
    return replace(plan, stages=(plan.stages[0], replace(plan.stages[1], width=width)))


def bereft_of(certified, *, loss):
    me = Opinion(terms=Terms(stages_min=2, standbys=0, loss_micronats=loss))
    me.tables.models[me.facts.model] = replace(me.facts, widths=certified)
    me.record(me.names[1], standing=Standing.DEAD)
    return me


HALF = (Width("f32"), Width("f16", 500, 0, 0, 100))


def test_a_narrow_width_that_my_manifest_certifies_is_as_good_as_any():
    me = bereft_of(HALF, loss=100)
    assert judge(me, narrow(me)) == (True, "")
    assert judge(me, repair(me)) == (True, "")


def test_a_width_without_a_certificate_here_is_refused_whoever_has_one():
    me = bereft_of(HALF, loss=100)
    assert judge(me, narrow(me, ActivationWidth.I8)) == (False, "width: I8 into stage 1: no certificate of it here")
    old = bereft_of((), loss=100)
    assert judge(old, narrow(old)) == (False, "width: F16 into stage 1: no certificate of it here")


def test_losses_beyond_the_terms_are_refused():
    me = bereft_of(HALF, loss=99)
    assert judge(me, narrow(me)) == (False, "width: narrow activations cost 100 micronats, the terms allow 99")


def test_who_has_no_manifest_cannot_tell_and_needs_none_for_full_width():
    me = bereft_of(HALF, loss=100)
    plan, other = narrow(me), repair(me)
    del me.tables.models[me.facts.model]
    assert judge(me, plan, known=False) == (None, "model-missing: this node cannot judge narrow activations yet")
    assert judge(me, other, known=False) == (True, "")


# --- one stage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "dtype", "shape"),
    [
        (ActivationWidth.F16, Dtype.F16, (1, 3, 4)),
        (ActivationWidth.I8, Dtype.I8, (1, 3, 8)),
        (ActivationWidth.I8X32, Dtype.I8, (1, 3, 8)),
    ],
)
def test_a_narrow_output_is_kept_and_sent_again_as_it_was_sent_first(width, dtype, shape):
    stand = Stand(width=width)
    stand.open_both()
    stand.feed()
    stand.world.run(0.1)
    stand.say(replace(OPEN, attempt=1))
    stand.world.run(0.02)
    stand.say(replace(RESUME, attempt=1, position=3, replay_from=0))
    sent = [effect for effect in stand.cell().asked(SendFrame) if isinstance(effect.header, Activation)]
    assert [(effect.header.dtype, effect.header.shape) for effect in sent] == [(dtype, shape)] * 2
    assert sent[0].payload == sent[1].payload
    assert stand.cell().node._host._holdings.retention.byte_count == 3 * 8, "as many bytes as travel"
    stand.close()


@pytest.mark.parametrize("width", ActivationWidth)
def test_a_stage_takes_the_width_of_its_plan_and_no_other(width):
    stand = Stand(width=width)
    stand.open_both()
    for dtype in Dtype:
        if dtype is not DTYPE_OF[width]:
            stand.say(replace(STEP, stage=1, dtype=dtype, shape=(1, 3)), bytes(24), to=stand.last, by=stand.first)
            break
    assert stand.refusal().code is RefusalCode.OUT_OF_ORDER
    assert f"stage 1 takes {DTYPE_OF[width].name}" in stand.refusal().detail
    stand.close()

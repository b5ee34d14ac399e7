"""Whole clusters whose plan narrows activations: served, struck, repaired, and refused where nobody certified it."""

from dataclasses import replace

import pytest

from shoal_agent.core.effects import SendFrame
from shoal_agent.core.facts import Width
from shoal_agent.core.plan import voters_for
from shoal_protocol.headers import Activation
from shoal_protocol.messages import DeploymentPhase, Terms
from shoal_protocol.tensors import Dtype
from shoal_protocol.widths import ActivationWidth
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

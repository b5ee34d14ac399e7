"""Operators who recover a deployment together; only the broker is a function call."""

import asyncio
from dataclasses import replace

import pytest

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import BrokerConnected, EnvelopeReceived
from shoal_agent.core.gate import Gate
from shoal_agent.errors import ConfigError, DeniedError, FailedError, NoPlanError
from shoal_agent.shell import desk as desk_module
from shoal_agent.shell import survey as survey_module
from shoal_agent.shell.clock import Clock, unix_s
from shoal_agent.shell.desk import Desk, Operator
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.recovery import Recovering, RecoverWish, read_order, write_order
from shoal_agent.shell.survey import Survey
from shoal_protocol.codec import decode_plan, encode_plan
from shoal_protocol.envelope import open_envelope
from shoal_protocol.ids import ClusterId, DeploymentId, Digest, Epoch, Incarnation, digest_of, node_id_of
from shoal_protocol.limits import EPOCH_LEAP
from shoal_protocol.messages import (
    Cause,
    Certified,
    Heartbeat,
    Plan,
    PlanAnnounced,
    PlanStage,
    RecoveryOrdered,
    Terms,
)
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.votes import open_recovery
from tests.support.hosts import Host

CLUSTER = ClusterId("c" * 32)
TINY = DeploymentId("tiny")
OPERATORS = [Ed25519Sealer(bytes([20 + index]) * 32) for index in range(3)]


class Scene:
    """Operators at their desks; a plan of which one host died for good; two that live."""

    def __init__(self, store, folder):
        self.store, self.file = store, folder / "tiny.order"
        self.facts = facts_of(store.load("tiny"))
        keys = [Ed25519Sealer(bytes([index]) * 32) for index in (1, 2, 3)]
        roles = [(key, Role.AGENT) for key in keys] + [(key, Role.OPERATOR) for key in OPERATORS]
        members = tuple(Member(node_id_of(k.public_key), k.public_key, (role,), "lab", b"") for k, role in roles)
        root = Ed25519Sealer(b"r" * 32)
        roster = Roster(CLUSTER, 1, unix_s() + 3600, (root.public_key,), 1, members)
        self.roster = TrustedRoster.open(sign_roster(roster, [root]), [root.public_key], 1, unix_s())
        self.dead, *self.hosts = [Host(key, self.roster) for key in keys]
        self.published: list[Broadcast] = []
        last = len(self.facts.blocks) - 1
        self.genesis = Plan(
            TINY,
            Epoch(0),
            Digest(bytes(32)),
            self.facts.model,
            64,
            (PlanStage(self.dead.node, 0, 0), PlanStage(self.hosts[0].node, 1, last)),
            Terms(operators_min=2),
            tuple(host.node for host in (self.dead, *self.hosts)),
        )

    def desk(self, key, known=True):
        node = node_id_of(key.public_key)
        self.operator = Operator(node, Incarnation(7), key, self.roster)
        clock = Clock()
        desk = Desk(Gate(CLUSTER, node, self.roster), clock, Survey(clock.now()))
        desk.post(BrokerConnected("broker"))
        if known:
            self.hear(desk, Operator(node, Incarnation(1), key, self.roster).seal(PlanAnnounced(self.raw)))
        for host in self.hosts:
            self.hear(desk, host.record([self.facts.model]))
            self.hear(desk, host.say(Heartbeat(1, 1)))
        return desk

    @property
    def raw(self):
        return encode_plan(self.genesis)

    def hear(self, desk, broadcast):
        desk.post(EnvelopeReceived("broker", broadcast.topic, broadcast.wire))

    async def run(self, key, desk=None, **wish):
        desk = desk or self.desk(key)

        def publish(broadcast):
            self.published.append(broadcast)
            for host in self.hosts:
                for said in host.answer(broadcast.wire):
                    self.hear(desk, said)

        wish = RecoverWish(TINY, self.file, **wish)
        part = Recovering(self.operator, wish, self.store, desk, publish, lambda _line: None)
        return await asyncio.wait_for(part.run(), 20)


@pytest.fixture
def scene(monkeypatch, tiny_store, tmp_path):
    monkeypatch.setattr(survey_module, "QUIET_S", 0.0)
    for name, seconds in (("CONNECT_S", 0.2), ("LISTEN_S", 0.2), ("ANNOUNCE_S", 0.1), ("TICK_S", 0.02)):
        monkeypatch.setattr(desk_module, name, seconds)
    monkeypatch.setattr("shoal_agent.shell.recovery.ANNOUNCE_S", 0.1)
    return Scene(tiny_store, tmp_path)


async def test_the_first_operator_makes_an_order_and_the_last_one_announces_it(scene):
    first = await scene.run(OPERATORS[0])
    assert (first.missing, first.active, scene.published) == (1, False, [])
    plan = first.plan
    assert (plan.epoch, plan.parent, plan.cause) == (EPOCH_LEAP, digest_of(scene.raw), Cause.RECOVERY)
    assert (plan.model, plan.terms, plan.context_tokens_max) == (scene.facts.model, scene.genesis.terms, 64)
    assert {stage.node for stage in plan.stages} <= {host.node for host in scene.hosts}
    assert all(len(stage.standbys) == 1 for stage in plan.stages), "as the terms ask for"
    assert scene.dead.node not in plan.voters

    second = await scene.run(OPERATORS[1])
    assert (second.plan, second.missing, second.active) == (plan, 0, True)
    assert second.signed == tuple(node_id_of(key.public_key) for key in OPERATORS[:2])
    message = open_envelope(scene.published[0].wire, scene.roster, CLUSTER).message
    assert open_recovery(message, scene.raw, scene.roster, CLUSTER) == plan


async def test_signing_twice_adds_nothing_and_announcing_twice_is_no_error(scene):
    assert (await scene.run(OPERATORS[0])).missing == 1
    assert (await scene.run(OPERATORS[0])).missing == 1
    assert (await scene.run(OPERATORS[1])).active
    desk = scene.desk(OPERATORS[1])
    scene.hear(desk, scene.published[-1])
    assert (await scene.run(OPERATORS[1], desk)).active


async def test_one_operator_is_enough_where_the_terms_say_so(scene):
    scene.genesis = replace(scene.genesis, terms=Terms(operators_min=1))
    assert (await scene.run(OPERATORS[2])).active


async def test_a_dry_run_shows_the_order_and_writes_nothing(scene):
    result = await scene.run(OPERATORS[0], dry_run=True)
    assert result.missing == 1
    assert not scene.file.exists()


async def test_only_named_nodes_are_used_if_any_are_named(scene):
    node = scene.hosts[1].node
    result = await scene.run(OPERATORS[0], nodes=(node[:10],))
    assert {stage.node for stage in result.plan.stages} == {node}
    scene.file.unlink()
    with pytest.raises(NoPlanError, match="was not heard"):
        await scene.run(OPERATORS[0], nodes=(scene.dead.node[:10],))


@pytest.mark.parametrize(("asked", "got"), [(1, 1), (2, 2), (3, 2)])
async def test_as_many_stages_as_the_terms_ask_for_or_as_there_are_nodes(scene, asked, got):
    scene.genesis = replace(scene.genesis, terms=Terms(operators_min=2, stages_min=asked))
    assert len((await scene.run(OPERATORS[0])).plan.stages) == got


async def test_without_a_plan_in_force_there_is_nothing_to_recover(scene):
    with pytest.raises(FailedError, match="no plan of tiny is in force; deployments that are: none"):
        await scene.run(OPERATORS[0], scene.desk(OPERATORS[0], known=False))


async def test_an_order_that_was_overtaken_is_out_of_date(scene):
    await scene.run(OPERATORS[0])
    later = replace(scene.genesis, epoch=Epoch(EPOCH_LEAP + 5), cause=Cause.GAIN)
    desk = scene.desk(OPERATORS[1])
    scene.hear(desk, scene.hosts[0].say(Certified(encode_plan(later), 0, ())))
    with pytest.raises(FailedError, match="recovers nothing at epoch"):
        await scene.run(OPERATORS[1], desk)


async def test_an_order_that_was_changed_or_signed_by_others_is_refused(scene):
    await scene.run(OPERATORS[0])
    order = read_order(scene.file, TINY)
    plan = encode_plan(replace(decode_plan(order.plan), score_us=1))
    write_order(scene.file, RecoveryOrdered(plan, order.approvals))
    with pytest.raises(DeniedError, match="did not sign this plan"):
        await scene.run(OPERATORS[1])
    stranger = replace(order.approvals[0], node=scene.hosts[0].node)
    write_order(scene.file, RecoveryOrdered(order.plan, (stranger,)))
    with pytest.raises(DeniedError, match="is no operator"):
        await scene.run(OPERATORS[1])


async def test_a_package_the_operator_has_not_got_cannot_be_planned(scene):
    scene.genesis = replace(scene.genesis, model=Digest(b"x" * 32))
    with pytest.raises(ConfigError, match="no package with digest"):
        await scene.run(OPERATORS[0])


def test_a_file_that_is_no_order_is_named(tmp_path):
    file = tmp_path / "x.order"
    assert read_order(file, TINY) is None
    file.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="is no order"):
        read_order(file, TINY)
    with pytest.raises(ConfigError, match="Is a directory"):
        read_order(tmp_path, TINY)
    with pytest.raises(ConfigError):
        write_order(tmp_path / "absent" / "x.order", RecoveryOrdered(b"", ()))


async def test_an_order_of_another_deployment_is_not_signed(scene):
    await scene.run(OPERATORS[0])
    with pytest.raises(ConfigError, match="recovers tiny, not other"):
        read_order(scene.file, DeploymentId("other"))

"""The operator against hosts that speak the real envelopes on the real topics; only the broker is a function call."""

import asyncio
from dataclasses import replace

import pytest

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import BrokerConnected, BrokerLost, EnvelopeReceived, TimePassed
from shoal_agent.core.facts import BlockFacts, ModelFacts, Width
from shoal_agent.core.gate import Gate
from shoal_agent.errors import ConfigError, ExitCode, FailedError, NoPlanError, TimedOutError, UnavailableError
from shoal_agent.shell import desk as desk_module
from shoal_agent.shell import survey as survey_module
from shoal_agent.shell.clock import Clock, unix_s
from shoal_agent.shell.desk import Desk, Operator
from shoal_agent.shell.operator import DeployWish, Founding, resolve_nodes
from shoal_agent.shell.survey import Package, Survey
from shoal_protocol.envelope import open_envelope
from shoal_protocol.ids import ClusterId, Digest, Incarnation, digest_of, node_id_of
from shoal_protocol.messages import (
    DeploymentPhase,
    Heartbeat,
    NodePhase,
    Objective,
    PlanAnnounced,
    Terms,
)
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.trust import GuardedBlocks
from shoal_protocol.widths import ActivationWidth
from tests.support.hosts import Host

CLUSTER = ClusterId("c" * 32)
MODEL = Digest(b"m" * 32)
BLOCK = BlockFacts(1_000_000, 100, 300, 8000, 2304)
FACTS = ModelFacts(MODEL, "tiny", (BLOCK,) * 6, 10**9, 4096)
PACKAGE = Package(MODEL, 10**12)
ROOT, OPERATOR = Ed25519Sealer(b"r" * 32), Ed25519Sealer(b"o" * 32)
LOADING = (DeploymentPhase.LOADING, DeploymentPhase.READY, DeploymentPhase.ACTIVE)


class Scene:
    """An operator, its desk and three hosts."""

    def __init__(self):
        sealers = [Ed25519Sealer(bytes([i]) * 32) for i in (1, 2, 3)]
        members = [Member(node_id_of(s.public_key), s.public_key, (Role.AGENT,), "lab", b"") for s in sealers]
        node = node_id_of(OPERATOR.public_key)
        members.append(Member(node, OPERATOR.public_key, (Role.OPERATOR,), "lab", b""))
        roster = Roster(CLUSTER, 1, unix_s() + 3600, (ROOT.public_key,), 1, tuple(members))
        self.roster = TrustedRoster.open(sign_roster(roster, [ROOT]), [ROOT.public_key], 1, unix_s())
        self.hosts = [Host(sealer, self.roster) for sealer in sealers]
        self.operator = Operator(node, Incarnation(7), OPERATOR, self.roster)
        clock = Clock()
        self.desk = Desk(Gate(CLUSTER, node, self.roster), clock, Survey(clock.now()))
        self.published: list[Broadcast] = []
        self.told: list[str] = []

    def arrive(self, *hosts):
        """The broker answers, and hands out who is there."""
        self.desk.post(BrokerConnected("broker"))
        for host in hosts or self.hosts:
            self.introduce(host)

    def introduce(self, host, models=(MODEL,), phase=NodePhase.READY):
        self.hear(host.record(models, phase))
        self.hear(host.say(Heartbeat(1, 1)))

    def hear(self, broadcast):
        self.desk.post(EnvelopeReceived("broker", broadcast.topic, broadcast.wire))

    def publish(self, broadcast):
        self.published.append(broadcast)
        for host in self.hosts:
            for said in host.answer(broadcast.wire):
                self.hear(said)

    async def found(self, facts=FACTS, **wish):
        founding = Founding(
            self.operator, DeployWish("tiny", **wish), facts, PACKAGE, self.desk, self.publish, self.told.append
        )
        return await asyncio.wait_for(founding.run(), 20)


@pytest.fixture
def scene(monkeypatch):
    monkeypatch.setattr(survey_module, "QUIET_S", 0.0)
    for name, seconds in (("CONNECT_S", 0.2), ("LISTEN_S", 0.2), ("ANNOUNCE_S", 0.05), ("TICK_S", 0.02)):
        monkeypatch.setattr(desk_module, name, seconds)
    return Scene()


async def test_from_listening_to_active(scene):
    scene.arrive()
    result = await scene.found(stages=3)
    assert result.active
    assert [(stage.first_block, stage.last_block) for stage in result.plan.stages] == [
        (s.first_block, s.last_block) for s in result.split.stages
    ]
    assert {stage.node for stage in result.plan.stages} == {host.node for host in scene.hosts}
    assert (result.plan.deployment, result.plan.epoch, result.plan.model) == ("tiny", 0, MODEL)
    assert result.plan.context_tokens_max == 2048
    assert all(host.plans == [result.plan] for host in scene.hosts)


async def test_the_announcement_is_retained_and_lasts(scene):
    scene.arrive()
    result = await scene.found(stages=2, deployment="other", context_tokens=512)
    (said,) = scene.published
    assert said.topic == f"shoal/1/{CLUSTER}/d/other/cert"
    assert said.retain
    assert said.at_least_once
    assert said.expiry_s == 3650 * 24 * 3600
    envelope = open_envelope(said.wire, scene.roster, CLUSTER)
    assert (envelope.sender, envelope.incarnation) == (scene.operator.node, 7)
    assert isinstance(envelope.message, PlanAnnounced)
    assert result.digest == digest_of(envelope.message.plan)
    assert result.plan.context_tokens_max == 512


async def test_an_announcement_that_was_lost_is_repeated_under_a_new_sequence(scene):
    scene.hosts[1].deaf = 2
    scene.arrive()
    assert (await scene.found(stages=3)).active
    opened = [open_envelope(said.wire, scene.roster, CLUSTER) for said in scene.published]
    assert [envelope.sequence for envelope in opened] == [1, 2, 3]
    assert len({envelope.message.plan for envelope in opened}) == 1


async def test_a_dry_run_says_nothing(scene):
    scene.arrive()
    result = await scene.found(stages=2, dry_run=True, objective=Objective.THROUGHPUT)
    assert not result.active
    assert len(result.plan.stages) == 2
    assert scene.published == []


@pytest.mark.parametrize(("loss", "width"), [(0, "F32"), (99, "F32"), (100, "F16"), (199, "F16")])
async def test_cuts_are_as_narrow_as_the_budget_allows(scene, loss, width):
    scene.arrive()
    certified = replace(FACTS, widths=(Width("f32"), Width("f16", 500, 0, 0, 100)))
    plan = (await scene.found(certified, stages=2, dry_run=True, loss_micronats=loss)).plan
    assert plan.terms.loss_micronats == loss
    assert [stage.width for stage in plan.stages] == [ActivationWidth.F32, ActivationWidth[width]]


@pytest.mark.parametrize(
    ("private", "guarded"),
    [
        (0, ()),
        (2, (GuardedBlocks(0, 1, ("lab",)), GuardedBlocks(5, 5, ("lab",)))),
        (5, (GuardedBlocks(0, 5, ("lab",)),)),
        (6, (GuardedBlocks(0, 5, ("lab",)),)),
    ],
)
async def test_ends_may_be_private(scene, private, guarded):
    scene.arrive()
    plan = (await scene.found(stages=2, dry_run=True, private=private, trusted=("lab",))).plan
    assert plan.terms.guarded == guarded


async def test_private_blocks_have_somewhere_to_be(scene):
    scene.arrive()
    with pytest.raises(NoPlanError, match="block 0 may be in zone moon only"):
        await scene.found(stages=2, dry_run=True, private=1, trusted=("moon",))
    with pytest.raises(ConfigError, match="needs zones to trust"):
        await scene.found(stages=2, dry_run=True, private=1)
    with pytest.raises(ConfigError, match="the model has 6 blocks"):
        await scene.found(stages=2, dry_run=True, private=7, trusted=("lab",))


async def test_the_plan_carries_the_terms_and_who_decides_the_next(scene):
    scene.arrive()
    wish = {"objective": Objective.THROUGHPUT, "sessions": 3, "zones": ("lab",), "gain_permille": 150, "standbys": 2}
    plan = (await scene.found(stages=2, dry_run=True, **wish)).plan
    assert plan.terms == Terms(Objective.THROUGHPUT, 2, 2, 3, zones=("lab",), gain_permille=150, standbys=2)
    assert sorted(plan.voters) == sorted(host.node for host in scene.hosts)
    assert {stage.node for stage in plan.stages} == set(plan.voters[:2])


async def test_every_stage_has_a_standby_or_the_reason_says_why_not(scene):
    scene.arrive()
    plan = (await scene.found(stages=2, dry_run=True)).plan
    (spare,) = {host.node for host in scene.hosts} - {stage.node for stage in plan.stages}
    assert [stage.standbys for stage in plan.stages] == [(spare,), (spare,)]
    assert plan.reason == ""
    plan = (await scene.found(stages=2, standbys=3, dry_run=True)).plan
    assert [len(stage.standbys) for stage in plan.stages] == [2, 2]
    assert plan.reason.endswith("have only 2 standbys: there are no more nodes, and so for 1 more stage")
    plan = (await scene.found(stages=2, standbys=0, dry_run=True)).plan
    assert ([stage.standbys for stage in plan.stages], plan.reason) == ([(), ()], "")


async def test_voters_that_may_lie_take_more_nodes_than_there_are(scene):
    scene.arrive()
    with pytest.raises(NoPlanError, match="4 voters are needed where 1 may lie, 3 agents are there"):
        await scene.found(stages=2, faulty=1)


async def test_nodes_of_another_zone_do_not_host(scene):
    scene.arrive()
    with pytest.raises(NoPlanError, match="is in zone lab"):
        await scene.found(stages=1, zones=("vault",))


async def test_without_a_broker_it_says_which_were_tried(scene):
    scene.desk.post(BrokerLost("mqtt://127.0.0.1:1", "connection refused"))
    with pytest.raises(UnavailableError, match=r"mqtt://127\.0\.0\.1:1: connection refused"):
        await scene.found()


async def test_too_few_nodes_are_named_with_reasons(scene):
    one, two, three = scene.hosts
    scene.arrive(one)
    scene.introduce(two, models=())
    scene.introduce(three, phase=NodePhase.DRAINING)
    with pytest.raises(NoPlanError) as caught:
        await scene.found(stages=2)
    text = caught.value.message
    assert caught.value.exit_code is ExitCode.NO_PLAN
    assert "2 stages need as many nodes and blocks: 1 usable nodes" in text
    assert f"{one.node}: offers 1000000000 bytes" in text
    assert f"{two.node}: has not got the package, nor room for it" in text
    assert f"{three.node}: is draining" in text


async def test_a_model_too_large_is_refused_with_numbers(scene):
    for host in scene.hosts:
        host.memory_bytes = 2_000_000
    scene.arrive()
    with pytest.raises(NoPlanError, match="3 nodes offer 6000000"):
        await scene.found()
    assert scene.published == []


async def test_only_the_named_nodes_are_used(scene):
    scene.arrive()
    wanted = {host.node for host in scene.hosts[:2]}
    result = await scene.found(stages=2, nodes=tuple(node[:6] for node in wanted))
    assert {stage.node for stage in result.plan.stages} == wanted


async def test_a_named_node_that_is_silent_is_missed_by_name(scene):
    scene.arrive(scene.hosts[0])
    with pytest.raises(NoPlanError, match=f"{scene.hosts[1].node}: was not heard"):
        await scene.found(stages=2, nodes=tuple(host.node for host in scene.hosts[:2]))


async def test_a_host_that_fails_is_quoted(scene):
    scene.hosts[2].phases = (DeploymentPhase.LOADING, DeploymentPhase.FAILED)
    scene.hosts[2].detail = "block 4: blob was changed"
    scene.arrive()
    with pytest.raises(FailedError, match=f"{scene.hosts[2].node}: failed block 4: blob was changed"):
        await scene.found(stages=3)


async def test_a_failure_ends_it_though_another_host_is_silent(scene):
    scene.hosts[0].deaf = 1000
    scene.hosts[1].phases = (DeploymentPhase.FAILED,)
    scene.arrive()
    with pytest.raises(FailedError, match=f"{scene.hosts[0].node}: did not answer"):
        await scene.found(stages=3)
    assert len(scene.published) == 1


async def test_a_host_that_never_ends_loading_times_out(scene):
    scene.hosts[0].phases = (DeploymentPhase.LOADING,)
    scene.hosts[1].deaf = 1000
    scene.arrive()
    with pytest.raises(TimedOutError) as caught:
        await scene.found(stages=3, timeout_s=0.3)
    assert f"{scene.hosts[0].node}: loading" in caught.value.message
    assert f"{scene.hosts[1].node}: did not answer" in caught.value.message
    assert f"{scene.hosts[2].node}: active" in caught.value.message


async def test_the_same_deployment_with_another_plan_is_refused(scene):
    scene.arrive()
    first = await scene.found(stages=2)
    again = Scene()
    again.hosts, again.roster, again.operator = scene.hosts, scene.roster, scene.operator
    again.arrive()
    again.hear(scene.published[0])
    with pytest.raises(FailedError, match="tiny is deployed already, epoch 0"):
        await again.found(stages=3)
    assert (await again.found(stages=2)).digest == first.digest, "the same plan again is no other plan"


async def test_what_is_not_for_it_or_forged_changes_nothing(scene):
    scene.arrive()
    scene.hear(Host(Ed25519Sealer(b"x" * 32), scene.roster).say(Heartbeat(1, 1)))
    scene.desk.post(TimePassed())
    scene.desk.post(EnvelopeReceived("broker", "nonsense", b"\xff" * 50))
    assert len(scene.desk.survey.heard()) == 3
    assert scene.desk.troubles == {"messages_rejected (sender)": 1, "messages_rejected (malformed)": 1}


@pytest.mark.parametrize("names", [["zzzz"], [""]])
def test_a_name_fits_exactly_one_member(scene, names):
    with pytest.raises(ConfigError, match="members of the roster, not one"):
        resolve_nodes(scene.roster, names)


def test_a_name_that_is_no_topic_is_refused(scene):
    with pytest.raises(ConfigError, match="not a deployment id"):
        Founding(scene.operator, DeployWish("tiny", deployment="A/B"), FACTS, PACKAGE, scene.desk, print, print)

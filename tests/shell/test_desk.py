"""What an operator hears and how long it waits; what it says is in test_operator.py and test_recovery.py."""

import asyncio

import pytest

from shoal_agent.config import load_operator_config
from shoal_agent.core.events import BrokerConnected, BrokerLost, EnvelopeReceived
from shoal_agent.core.gate import Gate
from shoal_agent.errors import DeniedError, UnavailableError
from shoal_agent.shell import desk as module
from shoal_agent.shell.clock import Clock
from shoal_agent.shell.desk import Desk, Operator, open_desk
from shoal_agent.shell.survey import Survey
from shoal_protocol.codec import decode_plan
from shoal_protocol.ids import Epoch, Incarnation, digest_of
from shoal_protocol.messages import DeploymentPhase, Heartbeat, PhaseReported
from shoal_protocol.topics import topic_for
from tests.support.deeds import KEYS, NAMES, ROSTER, announced, certificate, chain, recovery, sealed
from tests.support.delegate import CLUSTER, DEPLOYMENT, OPERATORS
from tests.support.fleet import configure, found
from tests.support.protocol import node_of

RAWS = chain(3)


@pytest.fixture
def desk(monkeypatch):
    monkeypatch.setattr(module, "CONNECT_S", 0.1)
    monkeypatch.setattr(module, "TICK_S", 0.02)
    clock = Clock()
    return Desk(Gate(CLUSTER, node_of(OPERATORS[0]), ROSTER), clock, Survey(clock.now()))


def hear(desk, message, key, number=1):
    topic = topic_for(CLUSTER, node_of(key), message)
    desk.post(EnvelopeReceived("broker", topic, sealed(message, key, number)))


def test_the_newest_plan_is_in_force_whoever_brought_it_and_in_whatever_order(desk):
    hear(desk, certificate(RAWS[2]), KEYS[3])
    hear(desk, announced(RAWS[0])[0], OPERATORS[0])
    assert (desk.plans[DEPLOYMENT].plan, desk.plans[DEPLOYMENT].raw) == (decode_plan(RAWS[2]), RAWS[2])
    order = recovery(RAWS[2])
    hear(desk, order, OPERATORS[1])
    assert desk.plans[DEPLOYMENT].raw == order.plan


def test_what_is_not_accepted_is_counted_and_told_at_the_end(desk):
    message = certificate(RAWS[1])
    topic = topic_for(CLUSTER, NAMES[0], message)
    desk.post(EnvelopeReceived("broker", topic, sealed(message, KEYS[0])[:-1]))
    assert desk.troubles == {"messages_rejected (malformed)": 1}
    assert desk.plans == {}


async def test_whoever_waits_is_woken_by_what_is_heard(desk):
    waiting = asyncio.create_task(desk.wait(lambda: bool(desk.phases), desk.clock.now() + 5))
    await asyncio.sleep(0)
    hear(desk, Heartbeat(1, 1), KEYS[0])
    assert not waiting.done()
    hear(desk, PhaseReported(DEPLOYMENT, Epoch(0), digest_of(RAWS[0]), DeploymentPhase.ACTIVE, ""), KEYS[0])
    assert await waiting
    assert not await desk.wait(lambda: False, desk.clock.now())


def test_an_older_word_that_another_broker_delivers_late_changes_nothing(desk):
    plan, phases = digest_of(RAWS[0]), (DeploymentPhase.READY, DeploymentPhase.ACTIVE)
    ready, active = (PhaseReported(DEPLOYMENT, Epoch(0), plan, phase, "") for phase in phases)
    hear(desk, active, KEYS[0], number=2)
    hear(desk, ready, KEYS[0], number=1)
    assert desk.phases[plan, NAMES[0]].phase is active.phase


async def test_a_broker_that_answers_is_enough_and_none_is_an_error(desk):
    desk.post(BrokerLost("one", "refused"))
    with pytest.raises(UnavailableError, match="one: refused"):
        await desk.connect()
    desk.post(BrokerConnected("two"))
    await desk.connect()


def test_each_sentence_has_a_number_of_its_own_and_is_kept_by_brokers():
    operator = Operator(node_of(OPERATORS[0]), Incarnation(3), OPERATORS[0], ROSTER)
    said = [operator.seal(announced(RAWS[0])[0]) for _ in range(2)]
    assert operator.sequence == 2
    assert said[0].wire != said[1].wire
    assert all(each.retain and each.at_least_once for each in said)


async def test_only_an_operator_has_a_desk(tmp_path, tiny_store):
    fleet = found(tmp_path, 1)
    configure(fleet, ["mqtts://127.0.0.1:1"], tiny_store.root)
    config = load_operator_config(fleet.operator_config, environment={})
    config.operator.key_file.write_bytes((fleet.machines[0].folder / "node.key").read_bytes())
    with pytest.raises(DeniedError, match="not operator"):
        async with open_desk(config):
            pass

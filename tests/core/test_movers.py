"""One node with a slow service, and peers that may be quicker."""

from dataclasses import replace
from random import Random

import pytest

from shoal_agent.core.bench import REFERENCE_WORK
from shoal_agent.core.budgets import Budgets, PowerModel, Terms
from shoal_agent.core.calls import Ask, Calls
from shoal_agent.core.effects import CallService, SendFrame
from shoal_agent.core.events import ServiceFailed, ServiceReturned
from shoal_agent.core.facts import CallId
from shoal_agent.core.movers import ANSWER_S_MIN, ASKS_MAX, PROBE_S_MAX, Movers, is_light
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import CallDue
from shoal_protocol.headers import ServiceCall, ServiceFault, ServiceResult
from shoal_protocol.ids import Incarnation, Instant, NodeId
from shoal_protocol.light import LoadAsked, LoadTold, ServiceLoad
from shoal_protocol.messages import NodeState
from tests.support.protocol import MESSAGES

RECORD = next(message for message in MESSAGES if isinstance(message, NodeState))
SERVICE = "tokenizer:0123456789abcdef"
HERE, *PEERS = (NodeId(letter * 32) for letter in "habcd")
TEXT = b"x" * 20_480
IDLE = ServiceLoad(SERVICE, 1, 0, 1_000_000, 0)
START = 10.0


class Scene:
    def __init__(self, peers: int = 4) -> None:
        self.tables, self.calls = Tables(), Calls(HERE)
        self.tables.services = (SERVICE,)
        self.now = Instant(START)
        for peer in PEERS[:peers]:
            state = replace(RECORD, services=(SERVICE,), links=())
            self.tables.membership.merge(peer, Incarnation(1), state, self.now, fresh=True)
        self.movers = Movers(HERE, self.tables, self.calls, Random(1))

    def do(self, act, *arguments):
        out = Outbox(HERE)
        self.result = act(*arguments, self.now, out)
        self.movers.check()
        return out.effects

    def ring(self) -> list:
        """Whatever is due."""
        out = Outbox(HERE)
        for alarm in self.tables.timers.due(self.now):
            if isinstance(alarm, CallDue):
                self.movers.due(alarm.call, self.now, out)
        self.movers.check()
        return out.effects

    def ask(self, request: bytes = TEXT, shunned=()) -> tuple[CallId, list]:
        out = Outbox(HERE)
        call = self.movers.ask(Ask(SERVICE, "encode", request, 5000), self.now, out, shunned)
        self.movers.check()
        return call, out.effects

    def answer(self, event) -> list:
        return self.do(self.movers.answered, event)

    def slow_down(self, pace_s: float = 0.05) -> None:
        """A call of ten units took that long each."""
        for took_s in (0.0, pace_s * 10):
            call, effects = self.ask(b"x" * 10_240)
            assert runs(effects) == [call]
            self.now = Instant(self.now + took_s)
            self.answer(ServiceReturned(call, b""))
        self.movers.workshop.bench(SERVICE).best_s = 0.001

    def probe(self, effects, load: ServiceLoad | None = IDLE) -> list:
        """Answer all probes among ``effects``."""
        out = []
        for frame in probes(effects):
            out += self.do(self.movers.told, frame.peer, LoadTold(frame.header.call, load))
        return out


def probes(effects):
    return [e for e in effects if isinstance(e, SendFrame) and isinstance(e.header, LoadAsked)]


def sent(effects):
    return [e.peer for e in effects if isinstance(e, SendFrame) and isinstance(e.header, ServiceCall)]


def runs(effects):
    return [effect.call for effect in effects if isinstance(effect, CallService)]


@pytest.fixture
def scene():
    made = Scene()
    made.slow_down()
    return made


def away(scene: Scene) -> tuple[CallId, NodeId]:
    call, effects = scene.ask()
    (where,) = sent(scene.probe(effects))
    return call, where


def test_a_quick_service_is_called_here_and_nobody_is_asked():
    scene = Scene()
    scene.slow_down(0.0005)
    call, effects = scene.ask()
    assert runs(effects) == [call]
    assert not probes(effects)


def test_what_keeps_a_session_stays_where_it_is():
    assert not is_light("sampler:00")
    assert not is_light("detokenizer:00")
    assert is_light("tokenizer:00")
    assert is_light("samplers-of-mine")


def test_two_are_probed_and_the_better_one_is_called(scene):
    call, effects = scene.ask()
    asked = probes(effects)
    assert len(asked) == 2
    busy = replace(IDLE, waiting=500, wait_us=500_000)
    assert scene.do(scene.movers.told, asked[0].peer, LoadTold(asked[0].header.call, busy)) == []
    effects = scene.do(scene.movers.told, asked[1].peer, LoadTold(asked[1].header.call, IDLE))
    assert sent(effects) == [asked[1].peer]
    event = scene.calls.result(asked[1].peer, ServiceResult(call, "", None), b"ids")
    scene.answer(event)
    assert scene.result == ServiceReturned(call, b"ids")
    assert scene.movers.away_count == 0
    assert CallDue(call) not in scene.tables.timers


def test_it_stays_if_the_probes_say_that_nobody_is_better(scene):
    call, effects = scene.ask()
    effects = scene.probe(effects, replace(IDLE, waiting=9000, wait_us=10**7))
    assert runs(effects) == [call]
    assert sent(effects) == []


@pytest.mark.parametrize("answers", [0, 1])
def test_who_does_not_answer_a_probe_in_time_is_not_waited_for(scene, answers):
    call, effects = scene.ask()
    for frame in probes(effects)[:answers]:
        scene.do(scene.movers.told, frame.peer, LoadTold(frame.header.call, IDLE))
    assert scene.tables.timers.deadline() <= scene.now + PROBE_S_MAX
    scene.now = Instant(scene.now + PROBE_S_MAX)
    effects = scene.do(scene.movers.due, call)
    assert len(sent(effects)) == answers
    assert len(runs(effects)) == 1 - answers
    late = probes(effects)
    assert scene.probe(late) == []


def test_no_answer_of_anybody_else_counts(scene):
    _, effects = scene.ask()
    frame = probes(effects)[0]
    (dropped,) = scene.do(scene.movers.told, HERE, LoadTold(frame.header.call, IDLE))
    assert dropped.name == "frames_dropped"
    (dropped,) = scene.do(scene.movers.told, frame.peer, LoadTold(999, IDLE))
    assert dropped.name == "frames_dropped"


def test_a_node_that_told_another_service_or_none_is_not_called(scene):
    for load in (None, replace(IDLE, service="tokenizer:other")):
        call, effects = scene.ask()
        assert runs(scene.probe(effects, load)) == [call]


@pytest.mark.parametrize("fault", [ServiceFault.BUSY, ServiceFault.FAILED])
def test_a_call_that_was_not_done_goes_elsewhere_and_at_last_runs_here(scene, fault):
    call, where = away(scene)
    asked = [where]
    for _ in range(ASKS_MAX + 1):
        effects = scene.answer(ServiceFailed(call, "no room", fault))
        assert scene.result is None, "whoever waits for it hears nothing of that"
        if runs(effects):
            break
        asked += sent(effects)
    assert len(asked) == len(set(asked)) <= ASKS_MAX
    assert runs(effects) == [call]
    scene.answer(ServiceReturned(call, b"ids"))
    assert scene.result == ServiceReturned(call, b"ids")


def test_a_request_that_is_wrong_is_wrong_everywhere(scene):
    call, _ = away(scene)
    refused = ServiceFailed(call, "no such token", ServiceFault.REFUSED)
    assert scene.answer(refused) == []
    assert scene.result == refused


def test_a_call_whose_node_is_lost_goes_elsewhere(scene):
    call, where = away(scene)
    effects = scene.do(scene.movers.lost, where)
    assert sent(effects) + runs(effects)
    assert where not in sent(effects)
    assert scene.movers.away_count == len(sent(effects))
    assert call in {*runs(effects), *(e.header.call for e in effects if isinstance(e, SendFrame))}


def test_a_call_whose_probes_are_all_lost_runs_here(scene):
    call, effects = scene.ask()
    one, other = (frame.peer for frame in probes(effects))
    assert runs(scene.do(scene.movers.lost, one)) == []
    assert runs(scene.do(scene.movers.lost, other)) == [call]


def test_a_node_that_keeps_a_call_too_long_loses_it(scene):
    call, where = away(scene)
    scene.now = Instant(scene.now + ANSWER_S_MIN)
    effects = scene.do(scene.movers.due, call)
    assert where not in sent(effects)
    assert sent(effects) + runs(effects)
    late = scene.calls.result(where, ServiceResult(call, "", None), b"ids")
    assert late is None, "what comes late from there is dropped"


def test_what_nobody_waits_for_is_forgotten(scene):
    call, _ = away(scene)
    scene.movers.forget(call)
    scene.movers.check()
    assert scene.movers.away_count == 0
    call, effects = scene.ask()
    scene.movers.forget(call)
    assert scene.probe(effects) != []
    assert not sent(scene.probe(effects))


def test_own_work_on_its_way_counts_so_the_herd_spreads(scene):
    """Nothing is heard of anybody: twelve long texts do not all go to one node."""
    asked: set[NodeId] = set()
    for _ in range(12):
        _, effects = scene.ask()
        asked |= set(sent(scene.probe(effects)))
    assert len(asked) >= 3


def test_the_shunned_are_not_asked(scene):
    call, effects = scene.ask(shunned=PEERS)
    assert runs(effects) == [call]


def test_a_move_is_told_once_with_its_figures_and_so_is_its_end(scene):
    for _ in range(5):
        scene.answer(ServiceReturned(away(scene)[0], b""))
    (told,) = scene.tables.story.about(SERVICE)
    assert "moves away, first to" in told.text
    assert "50 ms per KiB here" in told.text
    assert "1 there" in told.text
    scene.now = Instant(scene.now + 60.0)
    for _ in range(3):
        scene.ask(b"")
    assert [entry.text.split(":")[0] for entry in scene.tables.story.about(SERVICE)][1:] == ["moves back"]


def test_a_peers_call_runs_here_however_busy_it_is(scene):
    effects = scene.do(scene.movers.serve, PEERS[0], ServiceCall(7, SERVICE, "encode", 1000, 0), TEXT)
    (effect,) = effects
    assert isinstance(effect, CallService)
    assert effect.left_s == 1.0
    scene.answer(ServiceReturned(effect.call, b"ids"))
    assert scene.movers.workshop.bench(SERVICE).outstanding == 0


def test_what_a_class_is_owed_travels_with_its_calls_and_weighs_there(scene):
    out = Outbox(HERE)
    scene.movers.ask(Ask(SERVICE, "encode", TEXT, 5000, 2.5), scene.now, out)
    (frame,) = [e for e in scene.probe(out.effects) if isinstance(e, SendFrame)]
    assert frame.header.owed_milli == 2500
    other = Scene()
    other.slow_down()
    for call in range(9):
        other.do(other.movers.serve, HERE, replace(frame.header, call=call), frame.payload)
    bench = other.movers.workshop.bench(SERVICE)
    bench.step()
    assert bench.light(1, other.now).lateness > 0


def test_who_is_owed_goes_where_it_is_sooner_though_work_waits_there(scene):
    """The peer's pressure keeps a call of no class at home, and one of a class that is behind not."""
    wait_us = int(0.9e6)
    busy = ServiceLoad(SERVICE, 1, int(3 * REFERENCE_WORK), 1_000_000, wait_us)
    stays, effects = scene.ask()
    assert runs(scene.probe(effects, busy)) == [stays]
    scene.answer(ServiceReturned(stays, b""))
    out = Outbox(HERE)
    scene.movers.ask(Ask(SERVICE, "encode", TEXT * 2, 5000, 50.0), scene.now, out)
    assert sent(scene.probe(out.effects, busy))


def owing(seconds: float) -> Budgets:
    """A node with one processor that has used so many seconds of its power budget beforehand."""
    budgets = Budgets(Terms(power_w=4.0, power=PowerModel(4.0, 8.0)))
    budgets.step(seconds=seconds, joules=8.0 * seconds, busy=1.0)
    return budgets


def test_a_node_that_owes_sends_away_what_it_would_do_at_once_and_that_is_predicted():
    scene = Scene()
    scene.slow_down(0.005)
    call, effects = scene.ask(b"x")
    assert runs(effects) == [call], "within 20 ms, and nothing is owed"
    scene.answer(ServiceReturned(call, b""))
    assert scene.movers.best(SERVICE, 1, scene.now).node == HERE
    scene.tables.budgets = owing(60.0)
    assert scene.movers.best(SERVICE, 1, scene.now).node in PEERS
    assert len(sent(scene.probe(scene.ask(b"x")[1]))) == 1


def test_who_is_asked_tells_what_work_costs_and_is_spared_for_it(scene):
    other = Scene()
    other.slow_down()
    (told,) = other.do(other.movers.asked, PEERS[0], LoadAsked(1, SERVICE))
    assert told.header.price_milli == 0
    other.tables.budgets = owing(60.0)
    (told,) = other.do(other.movers.asked, PEERS[0], LoadAsked(1, SERVICE))
    assert told.header.price_milli == 6000, "a minute of the allowance, times a tenth of what is allowed in a second"
    _, effects = scene.ask()
    dear, cheap = (frame for frame in probes(effects))
    slow = replace(IDLE, rate_milli=50_000)
    scene.do(scene.movers.told, dear.peer, LoadTold(dear.header.call, slow, told.header.price_milli))
    effects = scene.do(scene.movers.told, cheap.peer, LoadTold(cheap.header.call, replace(slow, wait_us=300_000)))
    assert sent(effects) == [cheap.peer], "it takes longer there, and costs nothing"
    _, effects = scene.ask()
    assert dear.peer not in [frame.peer for frame in probes(effects)], "and is remembered for a while"


def test_a_peers_call_of_anything_else_is_none_of_the_movers_business(scene):
    for service in ("sampler:00", "tokenizer:unknown"):
        effects = scene.do(scene.movers.serve, PEERS[0], ServiceCall(7, service, "open", 1000, 0), b"")
        assert len(runs(effects)) == 1
    assert len(scene.movers.workshop) == 0


def test_a_probe_is_answered_by_how_it_is(scene):
    (told,) = scene.do(scene.movers.asked, PEERS[0], LoadAsked(5, SERVICE))
    assert told.peer == PEERS[0]
    assert told.header.load.rate_milli == pytest.approx(20_000, rel=0.05)
    (told,) = scene.do(scene.movers.asked, PEERS[0], LoadAsked(6, "tokenizer:unknown"))
    assert told.header == LoadTold(6, None)


@pytest.mark.parametrize("seed", range(10))
def test_whatever_peers_do_every_call_is_answered_once(seed):
    rng, scene = Random(seed), Scene()
    scene.slow_down(rng.choice((0.02, 0.2)))
    waiting, abroad, at_work, open_probes = set(), {}, [], []

    def take(effects):
        for effect in effects:
            if isinstance(effect, CallService):
                at_work.append(effect.call)
                abroad.pop(effect.call, None)
            elif isinstance(effect, SendFrame) and isinstance(effect.header, LoadAsked):
                open_probes.append(effect)
            elif isinstance(effect, SendFrame) and isinstance(effect.header, ServiceCall):
                abroad[effect.header.call] = effect.peer

    def answer(event):
        take(scene.answer(event))
        if scene.result is not None:
            waiting.remove(scene.result.call)

    for _ in range(300):
        scene.now = Instant(scene.now + rng.choice((0.0, 0.01, 0.1)))
        take(scene.ring())
        match rng.randrange(6):
            case 0 | 1:
                call, effects = scene.ask(b"x" * rng.randrange(100_000))
                waiting.add(call)
                take(effects)
            case 2 if open_probes:
                frame = open_probes.pop(rng.randrange(len(open_probes)))
                load = replace(IDLE, waiting=rng.randrange(100), wait_us=rng.randrange(10**6))
                take(scene.do(scene.movers.told, frame.peer, LoadTold(frame.header.call, load)))
            case 3 if at_work:
                answer(ServiceReturned(at_work.pop(0), b""))
            case 4 if abroad:
                call = CallId(rng.choice(sorted(abroad)))
                event = ServiceReturned(call, b"") if rng.random() < 0.5 else ServiceFailed(call, "", ServiceFault.BUSY)
                if isinstance(event, ServiceReturned):
                    del abroad[call]
                answer(event)
            case 5:
                take(scene.do(scene.movers.lost, rng.choice(PEERS)))
    while scene.movers.away_count or at_work:
        scene.now = Instant(scene.now + 30.0)
        take(scene.ring())
        while at_work:
            answer(ServiceReturned(at_work.pop(0), b""))
    assert not waiting

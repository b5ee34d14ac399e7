"""Rule A on one node, slot by slot."""

import pytest

from shoal_agent.core.bench import BOOT, REFERENCE_WORK, RUN
from shoal_agent.core.budgets import Budgets, PowerModel, Terms
from shoal_agent.core.effects import CallService, StartInstance, StopInstance
from shoal_agent.core.facts import CallId
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.queues import SLOT_S
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import Routine
from shoal_agent.core.workshop import HABIT, Workshop
from shoal_protocol.codec import encode_message
from shoal_protocol.ids import Instant, NodeId

SERVICE, OTHER = "tokenizer:00", "embedder:00"
PEER = NodeId("p" * 32)
CORES = 4
IDLE_SLOTS = round(BOOT / RUN)
"""An idle instance has lost the price of a start."""


class Scene:
    def __init__(self) -> None:
        self.tables = Tables()
        self.shop = Workshop(self.tables)
        self.now = Instant(10.0)
        self.calls = 0
        self.line: list[tuple[CallId, str]] = []
        self.digests = []
        self.cores = CORES

    def call(self, service: str = SERVICE, kib: int = 20, owed: float = 0.0) -> None:
        self.calls += 1
        call = CallId(self.calls)
        out = Outbox(PEER)
        self.shop.run(CallService(call, service, "encode", b"x" * (kib * 1024), None), self.now, out, owed)
        self.line.append((call, service))

    def answer(self, count: int = 1) -> None:
        for _ in range(min(count, len(self.line))):
            call, _ = self.line.pop(0)
            assert self.shop.answered(call, self.now, done=True)

    def slot(self) -> list:
        self.now = Instant(self.now + SLOT_S)
        self.tables.timers.due(self.now)
        out = Outbox(PEER)
        digest = self.shop.slot(self.cores, self.now, out)
        self.shop.check()
        if digest is not None:
            assert encode_message(digest)
            self.digests.append(digest)
        return [effect for effect in out.effects if isinstance(effect, StartInstance | StopInstance)]

    def rest(self, slots: int) -> list:
        return [effect for _ in range(slots) for effect in self.slot()]

    @property
    def armed(self) -> bool:
        return Routine.SLOT in self.tables.timers


@pytest.fixture
def scene():
    """A service whose pace is known: 20 KiB in a slot."""
    made = Scene()
    for _ in range(6):
        made.call()
        made.slot()
        made.answer()
    return made


def loaded(scene: Scene, slots: int = 15) -> list:
    """Three come in a slot, one is done."""
    effects = []
    for _ in range(slots):
        for _ in range(3):
            scene.call()
        effects += scene.slot()
        scene.answer()
    return effects


def test_a_service_that_nobody_calls_costs_nothing():
    scene = Scene()
    assert not scene.armed
    assert scene.shop.bench(SERVICE).running == 0


def test_an_answer_at_once_leaves_one_slot_to_pass():
    scene = Scene()
    scene.call()
    scene.answer()
    assert scene.armed
    assert scene.slot() == []
    assert not scene.armed
    assert not scene.digests
    assert not scene.shop.answered(CallId(99), scene.now, done=True)


def test_a_backlog_starts_instances_and_its_end_stops_all_but_one(scene):
    started = loaded(scene)
    assert started
    assert all(isinstance(effect, StartInstance) for effect in started)
    counts = [effect.instances for effect in started]
    assert counts == list(range(2, counts[-1] + 1)), "one at a time"
    assert counts[-1] <= CORES
    scene.answer(1000)
    scene.slot()  # what was answered in this one was earned
    assert scene.rest(IDLE_SLOTS - 2) == [], "not before their rent has come to that of a start"
    stopped = scene.rest(10)
    assert stopped[-1] == StopInstance(SERVICE, 1)
    assert not scene.armed, "then nothing rings any more"


def test_why_is_told_with_figures(scene):
    loaded(scene)
    scene.answer(1000)
    scene.rest(IDLE_SLOTS + 10)
    first, *_, last = scene.tables.story.about(SERVICE)
    assert "starts an instance" in first.text
    assert "Q + W" in first.text
    assert "pace unknown" in first.text or "ms per KiB" in first.text
    assert "stops an instance, 1 now: its rent is that of a start, one idle for 10." in last.text
    assert last.cause is not None


def test_the_others_are_told_while_there_is_work_and_once_more(scene):
    scene.digests.clear()
    scene.shop._told.clear()
    loaded(scene, 3)
    assert [load.service for load in scene.digests[-1].loads] == [SERVICE]
    assert scene.digests[-1].loads[0].waiting > 0
    scene.answer(1000)
    scene.rest(3)
    assert scene.digests[-1].loads == ()
    told = len(scene.digests)
    scene.rest(10)
    assert len(scene.digests) == told


def test_the_others_are_told_what_work_costs_here(scene):
    scene.digests.clear()
    loaded(scene, 3)
    assert scene.digests[-1].price_milli == 0
    scene.tables.budgets = Budgets(Terms(power_w=5.0, power=PowerModel(4.0, 12.0)))
    scene.tables.budgets.step(seconds=10.0, joules=120.0, busy=1.0)
    loaded(scene, 3)
    assert scene.digests[-1].price_milli == round(1000 * scene.tables.budgets.slot_price(1, SLOT_S)) > 0


def test_services_share_the_cores(scene):
    for _ in range(20):
        for service in (SERVICE, OTHER):
            scene.call(service)
            scene.call(service)
        scene.slot()
        scene.answer()
    running = [scene.shop.bench(service).running for service in (SERVICE, OTHER)]
    assert min(running) >= 1
    assert sum(running) <= CORES


def test_a_service_that_moved_away_stops_altogether_and_starts_again(scene):
    for _ in range(HABIT):
        scene.shop.decided(SERVICE, PEER, scene.now)
    assert scene.rest(IDLE_SLOTS + 5) == [StopInstance(SERVICE, 0)]
    assert scene.shop.bench(SERVICE).running == 0
    assert not scene.armed
    scene.shop.decided(SERVICE, None, scene.now)
    scene.call()
    assert scene.shop.bench(SERVICE).running == 1
    scene.answer()
    for _ in range(HABIT):
        scene.shop.decided(SERVICE, None, scene.now)
    assert scene.rest(IDLE_SLOTS + 5) == []
    assert [entry.text.split(",")[0].split(":")[0] for entry in scene.tables.story.about(SERVICE)] == [
        "moves away",
        "stops an instance",
        "moves back",
    ]


def test_the_last_instance_of_what_moved_away_is_looked_at_again(scene):
    scene.rest(3)
    assert not scene.armed
    for _ in range(HABIT):
        scene.shop.decided(SERVICE, PEER, scene.now)
    assert scene.armed, "else it would run for ever: no call comes that arms the slot"


def test_a_single_trial_is_no_move(scene):
    for _ in range(5):
        scene.shop.decided(SERVICE, PEER, scene.now)
        scene.shop.decided(SERVICE, None, scene.now)
    assert scene.tables.story.about(SERVICE) == ()


def started(scene: Scene) -> int:
    return max((effect.instances for effect in loaded(scene) if isinstance(effect, StartInstance)), default=1)


def test_a_node_over_its_power_budget_starts_fewer_instances(scene):
    assert started(scene) > 2
    frugal = Scene()
    frugal.tables.budgets = Budgets(Terms(power_w=5.0, power=PowerModel(4.0, 12.0)))
    for _ in range(600):
        frugal.tables.budgets.step(seconds=5.0, joules=60.0, busy=1.0)
    for _ in range(6):
        frugal.call()
        frugal.slot()
        frugal.answer()
    assert started(frugal) == 1


def test_a_class_that_is_late_buys_its_services_instances(scene):
    bench = scene.shop.bench(SERVICE)
    loaded(scene)
    calm = bench.light(1, scene.now)
    assert calm.lateness == 0.0
    assert calm.tails[0] == 1.0
    for _ in range(40):
        scene.call(owed=40.0)
        scene.slot()
        scene.answer()
    owed = bench.light(1, scene.now).lateness
    assert owed == pytest.approx(40.0 * 20 / REFERENCE_WORK, rel=0.05), "Z of a call, times calls in a slot"
    for _ in range(40):
        scene.call()
        scene.slot()
        scene.answer()
    assert bench.light(1, scene.now).lateness < 0.05 * owed, "what is paid is forgotten"


def test_a_hot_node_is_given_no_processors_and_starts_nothing(scene):
    scene.cores = 0
    assert started(scene) == 1


PRICE, ALLOWED = 3600.0, 1800.0
"""Of an hour with all processors busy, and for an hour: half of the processors, on average."""


def spent_per_hour(scene: Scene, slots: int, clients: int = 5) -> float:
    """As many clients, each with its next call once it is answered; every instance does a call in a slot."""
    spent = 0.0
    for _ in range(clients - len(scene.line)):
        scene.call()
    for _ in range(slots):
        running = scene.shop.bench(SERVICE).running
        scene.answer(running)
        for _ in range(running):
            scene.call()
        spent += PRICE * running / CORES
        scene.tables.budgets.step(seconds=SLOT_S, joules=None, busy=running / CORES)
        scene.slot()
    return spent / slots


def test_the_budget_of_money_holds_on_average():
    free, paying = Scene(), Scene()
    paying.tables.budgets = Budgets(Terms(price_per_hour=PRICE, money_per_hour=ALLOWED))
    assert spent_per_hour(free, 100) > 0.9 * PRICE, "without a budget all processors are used"
    spent_per_hour(paying, 2000)  # what is owed rises until it weighs as much as the queue
    owed = paying.tables.budgets.money
    # A start has its price, so spending swings about the budget, and once in some minutes around it.
    assert spent_per_hour(paying, 5000) == pytest.approx(ALLOWED, rel=0.1)
    assert paying.tables.budgets.money == pytest.approx(owed, rel=0.5), "a debt that grows on and on holds nothing"

"""Sessions ridden over hosts to which anything happens: the tokens are those of the undisturbed model, all of them.

A seeded world of three stages that back each other, one session, and an ingress that lays a route anew whenever it
likes. Meanwhile frames of any age are said again, links break, hosts lie still, die and come back, and epochs change.
What must hold: every token once and in order; under one attempt a stage computes every position once; nothing is left.
"""

from dataclasses import replace
from random import Random

import pytest

from shoal_agent.core.effects import RunStage, SendFrame
from shoal_agent.core.host import HostHeader
from shoal_agent.core.hosted import Hosted
from shoal_agent.core.plan import slot_of
from shoal_agent.core.runner import Runner
from shoal_protocol.headers import SessionOpened
from shoal_protocol.messages import Plan
from tests.support.stand import Rider, Stand
from tests.support.toy import toy_tokens

LENGTH = 120
STEPS_MAX = 4000
LOSS = 0.1
ACTIONS = (*("lay",) * 3, *("repeat",) * 3, *("late",) * 2, "cut", "kill", "lossy", *("move",) * 2, *("switch",) * 2)


class Ordeal:
    """One session and what it goes through."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.stand = Stand(3, backed=True, seed=seed)
        self.world = self.stand.world
        self.rider = Rider(self.stand, prompt=prompt_for(seed), length=LENGTH)
        for cell in self.world.cells.values():
            cell.run_s = self.rng.choice([0.001, 0.005, 0.01])
        self.sent: list[tuple[str, SendFrame, bytes | None]] = []
        self.carry, self.world.carry = self.world.carry, self.carried
        self.dead: set[str] = set()
        self.plans = [self.stand.plan]
        self.rider.lay()

    def carried(self, source, effect: SendFrame) -> None:
        """A frame leaves: remember it, to say it again."""
        if isinstance(effect.header, HostHeader):
            data = source.sent(replace(effect, keep=True)) if effect.payload is not None else None
            self.sent = [*self.sent[-200:], (source.name, effect, data)]
        self.carry(source, effect)

    def act(self, action: str) -> None:
        rng, hosts = self.rng, self.stand.hosts
        match action:
            case "lay":
                self.lay()
            case "repeat" | "late" if self.sent:
                source, effect, data = rng.choice(self.sent if action == "late" else self.sent[-20:])
                if effect.peer in hosts and effect.peer not in self.dead:
                    self.world.inject(source, effect.peer, effect.header, data)
            case "cut":
                one, other = rng.sample([*hosts, self.stand.by_hand], 2)
                self.world.break_link(one, other)
                self.world.run(0.02)
                self.world.cut.clear()
                self.lay()
            case "lossy":
                self.world.loses = lambda header: rng.random() < LOSS
                self.world.run(0.05)
                self.world.loses = lambda header: False
            case "kill" if not self.dead:
                victim = rng.choice(hosts)
                self.dead.add(victim)
                self.world.kill(victim)
                self.world.run(0.02)
                self.lay()
            case "switch" if len(self.plans) == 1 and not self.dead:
                order = rng.sample([*hosts, self.stand.stranger], rng.choice([2, 3, 4]))
                for cell in self.world.cells.values():
                    cell.run_s, cell.fast_s = 0.2, cell.run_s
                self.plans.append(self.stand.adopt(order, tuple((node,) for node in [*order[1:], order[0]])))
                for cell in self.world.cells.values():
                    cell.run_s = cell.fast_s
            case "move" if len(self.plans) == 2 and self.rider.epoch == 0:
                self.rider.hand_over(self.plans[1], last=rng.random() < 0.7)
                self.world.run(rng.choice([0.0, 0.02, 0.1]))
                self.lay(rng.choice(self.plans))
        self.world.run(rng.choice([0.0, 0.0, 0.001, 0.01, 0.03]))

    def lay(self, wanted: Plan | None = None) -> None:
        """A route of any nodes that live, in the epoch it is in, or the one ``wanted``, or any that has one."""
        own = next(plan for plan in self.plans if plan.epoch == self.rider.epoch)
        for plan in [wanted or own, *self.plans]:
            alive = [[node for node in (stage.node, *stage.standbys) if node not in self.dead] for stage in plan.stages]
            if all(alive):
                self.rider.lay([self.rng.choice(nodes) for nodes in alive], epoch=plan.epoch)
                return

    def run(self) -> list[int]:
        for _ in range(STEPS_MAX):
            if self.rider.done:
                break
            self.act(self.rng.choice(ACTIONS))
            if self.rng.random() < 0.1:
                self.world.run(0.1)
            self.calm()
        self.world.cut.clear()
        return self.rider.finish()

    def calm(self) -> None:
        """Whatever ended the attempt, a real ingress would lay a route after a while."""
        if not self.rider.done and self.rng.random() < 0.1:
            before = len(self.rider.tokens)
            self.world.run(1.0)
            if len(self.rider.tokens) == before:
                self.lay()
                self.world.run(1.0)

    def check_runs(self) -> None:
        """Under one attempt a stage goes from position to position: none twice, none left out."""
        ends: dict[tuple[str, int], int | None] = {}
        attempts: dict[tuple[str, int], int] = {}
        for _, name, effect in self.world.log:
            if isinstance(effect, SendFrame) and isinstance(effect.header, SessionOpened):
                for epoch in (plan.epoch for plan in self.plans):
                    key = (name, slot_of(epoch, effect.header.stage))
                    if attempts.get(key) != effect.header.attempt:
                        attempts[key], ends[key] = effect.header.attempt, None
            elif isinstance(effect, RunStage):
                key = (name, effect.stage)
                assert ends[key] in (None, effect.position), "runs follow each other"
                ends[key] = effect.position + effect.token_count


def prompt_for(seed: int) -> tuple[int, ...]:
    """One whose answer is long enough."""
    found = (tuple(range(first, first + 1 + seed % 40)) for first in range(200))
    return next(prompt for prompt in found if len(toy_tokens(prompt, 8, LENGTH)) == LENGTH)


def wrong(seed: int) -> bool:
    """Whether anything is amiss after all that."""
    try:
        ordeal = Ordeal(seed)
        right = ordeal.run() == toy_tokens(ordeal.rider.prompt, 8, LENGTH)
        ordeal.check_runs()
    except AssertionError:
        return True
    return not right


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_hosts_the_tokens_are_the_same(seed):
    ordeal = Ordeal(seed)
    assert ordeal.run() == toy_tokens(ordeal.rider.prompt, 8, LENGTH)
    ordeal.check_runs()


@pytest.mark.long
def test_whatever_happens_many_times():
    assert [seed for seed in range(100, 600) if wrong(seed)] == []


def test_input_that_is_run_as_it_comes_is_noticed(monkeypatch):
    judge = Runner._judge

    def careless(self, hosted, work, out):
        hosted.position = min(work.activation.position, hosted.finished) if hosted.running is None else hosted.position
        judge(self, hosted, work, out)

    monkeypatch.setattr(Runner, "_judge", careless)
    assert any(wrong(seed) for seed in range(8))


def test_a_stage_that_says_it_has_more_than_it_has_is_noticed(monkeypatch):
    monkeypatch.setattr(Hosted, "depth", lambda self, first, last: max(self.depths))
    assert any(wrong(seed) for seed in range(20))

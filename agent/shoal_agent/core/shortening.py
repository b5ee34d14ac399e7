"""Which way an answer is computed: by the whole model, or without some of its blocks. Chosen once, at its admission.

A package certifies *shortcuts*: runs of blocks that an answer may do without, with what a token loses by that (KL, see
``shoal_models.shortcuts``). A class of requests may tolerate such a loss on average over its tokens. For each request
of it the options are weighed like everything else in the fast loop (``knobs``), in levels:

    V loss  +  sessions work  +  (Z + late) latency  +  E joules  +  A loss

*loss* in what is tolerated a token, *work* of the option over that of the whole model, *joules* as they would be here,
*sessions* those beside this one at the busiest node of its route, *latency* its predicted time over what is left to its
deadline. Z is what the class is owed, *late* 1 if the whole model would come too late, A what the class's answers have
lost beyond their tolerance (``queues``), those under way included by what is expected of them. So nothing is left out
while nothing waits and nobody is late; the more press, the sooner, and the more was lost, the later.

With w the share of the work that is saved and l the loss in what is tolerated, a shortcut wins under load alone when
``sessions * w > (V + A) * l``. V is such that one which saves 5 % and loses four times what is tolerated waits for the
second session beside it.

*The average holds*: what an answer adds to A beyond ``OWED_MAX`` is not chosen. Over T tokens the mean loss is at most
``tolerated * (1 + A * LEVEL_TOKENS / T)`` with A as it is at the end, whatever comes; A passes OWED_MAX only by answers
longer than was expected of them.

*Sessions* are this node's own, which it knows, and others', of which nodes tell every ten seconds. What they tell
counts as others' only beyond the most that this node itself had at once in the meantime: a class must not be shortened
for what its own ingress was busy with a moment ago.

A session keeps its choice for life, because KV of two options does not mix. The whole model is all there is for a class
that tolerates nothing, for a request of no class, and where the package certifies nothing.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from shoal_agent.core.facts import LeftOut, ModelFacts, Shortcut
from shoal_agent.core.knobs import Option, Weights, turn
from shoal_agent.core.ledger import Entry
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.queues import QualityQueue
from shoal_agent.core.rescue import Ahead
from shoal_agent.core.tables import Tables
from shoal_protocol.ids import DeploymentId, Instant

V: Final = 0.02
OWED_MAX: Final = 1.0
LATENCY_MAX: Final = 100.0
"""Deadlines that an answer may take in the sum: beyond, it makes no difference how late it is."""
LEFT_S_MIN: Final = 0.001
WHOLE: Final = "whole"
TELL_S: Final = 30.0
"""A class whose debt is at its limit goes to and fro with every answer: the story keeps other things too."""
TOLD_S: Final = 12.0
"""How old a node's word of its load may be: it is told every ten seconds if nothing else of the node changes."""


class Footprint:
    """The most sessions of one deployment that this node had at once within the last TOLD_S."""

    def __init__(self) -> None:
        self._seen: dict[DeploymentId, deque[tuple[Instant, int]]] = {}

    def seen(self, deployment: DeploymentId, count: int, now: Instant) -> None:
        """So many there are, or were until now."""
        seen = self._seen.setdefault(deployment, deque())
        while seen and seen[-1][1] <= count:
            seen.pop()
        seen.append((now, count))

    def peak(self, deployment: DeploymentId, now: Instant) -> int:
        """The most."""
        seen = self._seen.get(deployment, deque())
        while seen and now - seen[0][0] > TOLD_S:
            seen.popleft()
        return seen[0][1] if seen else 0


class Shortening:
    """The choices for all requests of this node."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._told: dict[str, tuple[LeftOut | None, Instant]] = {}
        self._footprint = Footprint()

    def choose(
        self,
        entry: Entry,
        ahead: Ahead,
        takes_s: Callable[[LeftOut | None], float],
        entries: Iterable[Entry],
        now: Instant,
        out: Outbox,
    ) -> LeftOut | None:
        """What ``entry`` is to do without; ``takes_s``: how long it takes so, ``entries``: all that are under way."""
        kind, facts = entry.request.kind, self._tables.models[ahead.plan.model]
        deployment = ahead.plan.deployment
        sessions = ahead.own + max(0, ahead.told - self._footprint.peak(deployment, now))
        self._footprint.seen(deployment, ahead.own + 1, now)
        debt = self._tables.classes.quality(kind)
        if debt is None or not facts.shortcuts:
            return None
        owed = debt.level + sum(self._expected(debt, other) for other in entries if other.request.kind == kind)
        left_s = max(entry.left_s(now), LEFT_S_MIN)
        options: dict[Option, Shortcut | None] = {self._whole(takes_s, left_s): None}
        for shortcut in facts.shortcuts:
            if owed + debt.adds(loss=shortcut.loss, tokens=ahead.answer) <= OWED_MAX:
                options[self._option(facts, shortcut, debt, takes_s, left_s)] = shortcut
        late = float(takes_s(None) > left_s)
        weights = Weights(
            V,
            pressure=float(sessions),
            urgency=self._tables.classes.owed(kind) + late,
            energy=self._tables.budgets.energy,
            quality=owed,
        )
        chosen = options[turn(tuple(options), weights)]
        left_out = None if chosen is None else chosen.left_out
        entry.answer_tokens = ahead.answer
        out.count("answers", named(left_out))
        why = f"{sessions} sessions beside, A {owed:.3f}"
        self._tell(entry, left_out, f"{deployment}/{ahead.plan.epoch}", why, now)
        return left_out

    def _whole(self, takes_s: Callable[[LeftOut | None], float], left_s: float) -> Option:
        latency = min(takes_s(None) / left_s, LATENCY_MAX)
        return Option(WHOLE, cost=0.0, work=1.0, latency=latency, loss=0.0, joules=self._joules(takes_s(None)))

    def _option(
        self,
        facts: ModelFacts,
        shortcut: Shortcut,
        debt: QualityQueue,
        takes_s: Callable[[LeftOut | None], float],
        left_s: float,
    ) -> Option:
        first, last = shortcut.left_out
        whole_us = sum(block.decode_us for block in facts.blocks)
        work = 1.0 - sum(block.decode_us for block in facts.blocks[first : last + 1]) / whole_us
        loss, done_s = shortcut.loss / debt.tolerated, takes_s(shortcut.left_out)
        latency = min(done_s / left_s, LATENCY_MAX)
        name = named(shortcut.left_out)
        return Option(name, cost=loss, work=work, latency=latency, loss=loss, joules=self._joules(done_s))

    def _joules(self, done_s: float) -> float:
        """What so long an answer adds to E, were it computed here."""
        state = self._tables.state
        return 0.0 if state is None else self._tables.budgets.core_energy(max(1, state.capacity.cores), done_s)

    def _expected(self, debt: QualityQueue, other: Entry) -> float:
        """What an answer under way will add to A."""
        return debt.adds(loss=self._loss(other), tokens=max(other.answer_tokens, other.generated))

    def _loss(self, entry: Entry) -> float:
        facts = self._tables.models.get(entry.plan.model)
        shortcut = None if facts is None or entry.left_out is None else facts.shortcut(entry.left_out)
        return 0.0 if shortcut is None else float(shortcut.loss)

    def ended(self, entry: Entry, others: int, now: Instant) -> None:
        """An answer is over, beside ``others``: what it lost, and what it might have, goes into the account."""
        self._footprint.seen(entry.plan.deployment, others + 1, now)
        debt = self._tables.classes.quality(entry.request.kind)
        if debt is not None and entry.prompt_tokens:
            debt.step(loss=self._loss(entry), tokens=float(entry.generated))

    def _tell(self, entry: Entry, left_out: LeftOut | None, subject: str, why: str, now: Instant) -> None:
        """Tell when the choice for a class is another one than was told last, and not more often than is read."""
        kind = entry.request.kind
        told, again = self._told.get(kind, (None, now))
        if told == left_out or now < again:
            return
        self._told[kind] = left_out, Instant(now + TELL_S)
        what = "the whole model" if left_out is None else f"the model without blocks {named(left_out)}"
        z = self._tables.classes.owed(kind)
        self._tables.story.tell(now, subject, f"answers of class {kind} are by {what} now: {why}, Z {z:.2f}")


def named(left_out: LeftOut | None) -> str:
    """An option in one word."""
    return WHOLE if left_out is None else f"{left_out[0]}-{left_out[1]}"

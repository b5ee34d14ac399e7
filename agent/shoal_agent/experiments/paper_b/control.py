"""A plan that runs, and how another one takes its place: what all methods that have plans share.

    agreed ─► hosts fetch what their disks lack and open what they do not hold ─► ready: new requests take the new plan
                                                                                 the old one drains for DRAIN_S

That is make before break. A host that cannot hold both closes the old blocks first (``decision.switch_mode``), and
until all is ready nothing is served. Standbys load once the plan is in force, beside the requests, and may be used when
they are done. A lost host's stage is run by its standby from the moment the loss is found, with no agreement; a plan
that loses a host before it is ready is given up. Disks keep every block they ever had.

How long loading takes is the core's own prediction (``decision.move_of``), which is a measured rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.decision import FETCH_BYTES_PER_S, OPEN_BYTES_PER_S, Move, move_of, switch_mode
from shoal_agent.core.problem import Split, SplitProblem, SplitStage
from shoal_agent.experiments.paper_b.cluster import BLOCK_BYTES, NODES
from shoal_agent.experiments.paper_b.serving import Leg, Route
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import PlanStage, SwitchMode

DRAIN_S: Final = 2.0
"""Twice the longest a request should take: so long the old blocks stay open."""
INDEX: Final = {node: index for index, node in enumerate(NODES)}


@dataclass(frozen=True, slots=True)
class Running:
    """A plan in force. ``ready`` says from when on each standby of a stage may be used."""

    epoch: int
    stages: tuple[PlanStage, ...]
    since: float
    ready: dict[tuple[int, NodeId], float]


@dataclass(frozen=True, slots=True)
class _Pending:
    stages: tuple[PlanStage, ...]
    agreed: float
    ready: float
    breaks: bool


@dataclass(slots=True)
class Moved:
    """Bytes fetched and plans put in force."""

    fetched_bytes: int = 0
    epochs: int = 0
    broke: int = 0
    """Switches that had to break first."""


class Control:
    """The state of one method's plan; ``standbys``: they are used."""

    def __init__(self, stages: Sequence[PlanStage], *, standbys: bool) -> None:
        self._standbys = standbys
        self._dead: dict[int, None] = {}
        self._disk: dict[NodeId, set[int]] = {}
        self._fetching: dict[int, tuple[float, float]] = {}
        self._pending: _Pending | None = None
        self._ended: dict[int, float] = {}
        """When epochs were superseded."""
        ready = {(index, node): 0.0 for index, stage in enumerate(stages) for node in stage.standbys}
        self.running = Running(0, tuple(stages), 0.0, ready)
        self.moved = Moved()
        for stage in stages:
            for node in (stage.node, *stage.standbys):
                self._disk.setdefault(node, set()).update(range(stage.first_block, stage.last_block + 1))

    # --- serving ----------------------------------------------------------------------------------------------------

    def route(self, now: float) -> Route | None:
        """Primaries, or who stands by for those that are lost."""
        self.settle(now)
        pending = self._pending
        if pending is not None and pending.breaks and now >= pending.agreed:
            return None
        legs: list[Leg] = []
        for index, stage in enumerate(self.running.stages):
            node = self._server(index, stage, now)
            if node is None:
                return None
            legs.append(Leg(node, stage.first_block, stage.last_block))
        return Route(self.running.epoch, tuple(legs))

    def _server(self, index: int, stage: PlanStage, now: float) -> int | None:
        if INDEX[stage.node] not in self._dead:
            return INDEX[stage.node]
        for node in stage.standbys if self._standbys else ():
            if INDEX[node] not in self._dead and self.running.ready.get((index, node), now + 1.0) <= now:
                return INDEX[node]
        return None

    def serves(self, epoch: int, now: float) -> bool:
        """Whether ``epoch`` is in force or drains."""
        self.settle(now)
        return epoch == self.running.epoch or now <= self._ended.get(epoch, 0.0) + DRAIN_S

    def fetching(self, node: int, now: float) -> bool:
        """Whether ``node`` loads blocks."""
        begun, ended = self._fetching.get(node, (0.0, 0.0))
        return begun <= now < ended

    # --- nodes ------------------------------------------------------------------------------------------------------

    def found(self, node: int) -> None:
        """``node`` is lost."""
        self._dead[node] = None
        if self._pending is not None and any(INDEX[stage.node] == node for stage in self._pending.stages):
            self._pending = None

    def heard(self, node: int) -> None:
        """``node`` is back."""
        self._dead.pop(node, None)

    def alive(self, nodes: Sequence[int]) -> tuple[int, ...]:
        """Those of ``nodes`` that are not known to be lost."""
        return tuple(node for node in nodes if node not in self._dead)

    def lost(self) -> tuple[PlanStage, ...]:
        """Stages whose primary is lost."""
        return tuple(stage for stage in self.running.stages if INDEX[stage.node] in self._dead)

    def covered(self) -> bool:
        """Whether each stage of the running plan has a standby that lives."""
        return all(any(INDEX[node] not in self._dead for node in stage.standbys) for stage in self.running.stages)

    def standbys_lost(self) -> int:
        """Standbys of the running plan that are lost."""
        return sum(INDEX[node] in self._dead for stage in self.running.stages for node in stage.standbys)

    # --- changing ---------------------------------------------------------------------------------------------------

    def owned(self) -> tuple[PlanStage, ...]:
        """What is open where somebody lives."""
        parts = [
            PlanStage(node, stage.first_block, stage.last_block)
            for stage in self.running.stages
            for node in (stage.node, *(stage.standbys if self._standbys else ()))
        ]
        return tuple(part for part in parts if INDEX[part.node] not in self._dead)

    def move(self, problem: SplitProblem, split: Split) -> Move:
        """What ``split`` makes its hosts fetch and open."""
        return move_of(problem, split, self.owned(), self._stored(split))

    def breaks(self, problem: SplitProblem, split: Split) -> bool:
        """Whether the hosts of ``split`` cannot hold it beside what they have."""
        return switch_mode(problem, self.running.stages, self.owned(), split) is SwitchMode.BREAK_BEFORE_MAKE

    def _stored(self, split: Split) -> dict[NodeId, bool]:
        stored: dict[NodeId, bool] = {}
        for stage in split.stages:
            has = set(range(stage.first_block, stage.last_block + 1)) <= self._disk.get(stage.node, set())
            stored[stage.node] = has and stored.get(stage.node, True)
        return stored

    @property
    def busy(self) -> bool:
        """Whether a change is under way."""
        return self._pending is not None

    def switch(
        self, problem: SplitProblem, split: Split, stages: Sequence[PlanStage], now: float, delay_s: float
    ) -> None:
        """``stages`` (those of ``split`` with their standbys) are to be in force; agreeing takes ``delay_s``."""
        agreed = now + delay_s
        move = self.move(problem, split)
        breaks = self.breaks(problem, split)
        ready = agreed + move.time_ms / 1000
        self._load(split.stages, agreed)
        self._pending = _Pending(tuple(stages), agreed, ready, breaks)
        self.moved.broke += breaks and move.blocks > 0

    def settle(self, now: float) -> None:
        """Put a plan in force whose time has come."""
        pending = self._pending
        if pending is None or now < pending.ready:
            return
        self._pending = None
        before = self.running
        kept = {
            (stage.first_block, stage.last_block, node): before.ready.get((index, node), pending.ready)
            for index, stage in enumerate(before.stages)
            for node in (stage.node, *stage.standbys)
        }
        ready: dict[tuple[int, NodeId], float] = {}
        for index, stage in enumerate(pending.stages):
            for node in stage.standbys if self._standbys else ():
                known = kept.get((stage.first_block, stage.last_block, node))
                ready[index, node] = self._opened(stage, node, pending.ready) if known is None else known
        if pending.stages != before.stages:
            self._ended[before.epoch] = pending.ready
            self.moved.epochs += 1
            self.running = Running(before.epoch + 1, pending.stages, pending.ready, ready)

    def _opened(self, stage: PlanStage, node: NodeId, now: float) -> float:
        """When ``node`` has loaded the blocks it is to stand by with."""
        part = SplitStage(node, stage.first_block, stage.last_block, 0, 0, 0)
        ended = self._load((part,), now).get(INDEX[node], now)
        return ended + (stage.last_block + 1 - stage.first_block) * BLOCK_BYTES / OPEN_BYTES_PER_S

    def _load(self, parts: Sequence[SplitStage], now: float) -> dict[int, float]:
        """Fetch what disks lack of ``parts``; until when each node does."""
        until: dict[int, float] = {}
        for part in parts:
            disk = self._disk.setdefault(part.node, set())
            missing = sum(block not in disk for block in range(part.first_block, part.last_block + 1))
            if missing:
                disk.update(range(part.first_block, part.last_block + 1))
                size = missing * BLOCK_BYTES
                self.moved.fetched_bytes += size
                begun = until.get(INDEX[part.node], now)
                until[INDEX[part.node]] = begun + size / FETCH_BYTES_PER_S
                self._fetching[INDEX[part.node]] = now, until[INDEX[part.node]]
        return until

"""What a node holds beside its own stages: the blocks of those it stands by for.

    own stages READY, or none ─► for each stage to back: room for it beside all that is held? ─► open it
                                   │ no: stay without, say why, fetch the weights all the same, and look again
                                   │     whenever something was given back
                                   cannot be opened: stay without, and try again, RETRY_S after
    a later epoch needs the room for this node's own stages ─► end the sessions on those of earlier epochs, then
                                   give their blocks back: whatever is the only one of its kind comes first

Being without is no failure of the host: the plan stands, and whoever lays a route sees in ``standing_by`` which stages
could be served here. This module finds out what is due; staging does it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.plan import faults_of_spans, own_stages, span_of, standby_stages
from shoal_agent.core.room import room_beside
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Holding, Tenure, Without
from shoal_agent.core.voice import Voice
from shoal_protocol.ids import DeploymentId, Epoch, Instant
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import DeploymentPhase, SwitchMode

RETRY_S: Final = 30.0
"""Most of what cannot be opened lacks a shard that no peer could send just then."""
TRIES_MAX: Final = 10
"""In one epoch: what failed so often will not do before an operator has looked at it."""
NEVER: Final = Instant(float("inf"))
"""Not in this epoch, unless the package comes anew."""

_OPEN: Final = (DeploymentPhase.READY, DeploymentPhase.ACTIVE)


@dataclass(frozen=True, slots=True)
class SessionsOverdue:
    """Sessions that are still open on these stages of an epoch, on this node, have to end now."""

    deployment: DeploymentId
    epoch: Epoch
    stages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Due:
    """Stages whose blocks should be opened now, and those of which only the weights can be had."""

    opened: tuple[int, ...] = ()
    cached: tuple[int, ...] = ()


class Reserve:
    """What is due on one node."""

    def __init__(self, tables: Tables, voice: Voice, kv_bytes_max: int) -> None:
        self._tables = tables
        self._voice = voice
        self._here = voice.identity.node
        self._kv_bytes_max = kv_bytes_max

    # --- making room ------------------------------------------------------------------------------------------------

    def in_the_way(self, head: Tenure, past: Iterable[Tenure]) -> list[tuple[Tenure, tuple[int, ...]]]:
        """The stages of earlier epochs that this node stands by for, if its own ones of ``head`` need their room."""
        own = own_stages(head.plan, self._here)
        begun = all(stage in head.held for stage in own)
        if begun or head.mine is not DeploymentPhase.LOADING or self._fits(head, own):
            return []
        spares = [(tenure, tuple(sorted(self._spare(tenure)))) for tenure in past]
        return [(tenure, stages) for tenure, stages in spares if stages]

    def _spare(self, tenure: Tenure) -> list[int]:
        own = own_stages(tenure.plan, self._here)
        return [stage for stage, holding in tenure.held.items() if stage not in own and holding is not Holding.CLOSING]

    def _fits(self, head: Tenure, stages: tuple[int, ...]) -> bool:
        return not self._faults(head, stages)

    def _faults(self, head: Tenure, stages: tuple[int, ...]) -> list[str]:
        """Why the last of ``stages`` has no room now, beside the others and all that is held of other epochs."""
        facts = self._tables.models.get(head.plan.model)
        if facts is None:
            return []  # what is not known yet is looked at when it is
        memory = self._voice.sampled.capacity.memory_bytes
        room = room_beside(self._tables, self._here, head.plan, memory, self._kv_bytes_max)
        return faults_of_spans(head.plan, [span_of(head.plan, stage) for stage in stages], facts, room)

    # --- standing by ------------------------------------------------------------------------------------------------

    def due(self, head: Tenure, past: Iterable[Tenure], now: Instant) -> Due:
        """What of ``head`` should be made ready now; why not the rest is noted there, and is new only once."""
        own = own_stages(head.plan, self._here)
        known = head.plan.model in self._tables.models
        if head.mine not in (_OPEN if own else (DeploymentPhase.LOADING, *_OPEN)) or not known:
            return Due()
        if head.plan.mode is SwitchMode.BREAK_BEFORE_MAKE and any(tenure.held for tenure in past):
            return Due()
        begun: list[int] = []
        cached: list[int] = []
        for stage in standby_stages(head.plan, self._here):
            without = head.without.get(stage)
            if stage in head.held or (without is not None and now < without.until):
                continue
            faults = self._faults(head, (*sorted(head.held), *begun, stage))
            tries = 0 if without is None else without.tries
            if faults:
                cached += [stage] * (without is None)
                head.without[stage] = Without(faults[0][:REASON_CHARS_MAX], tries)
            else:
                begun.append(stage)
        return Due(tuple(begun), tuple(cached))

    def settled(self, head: Tenure) -> bool:
        """Whether this node only stands by, and has opened whatever it can for the first time."""
        if head.mine is not DeploymentPhase.LOADING or own_stages(head.plan, self._here):
            return False
        waited = standby_stages(head.plan, self._here)
        return all(head.held.get(stage) is Holding.OPEN or stage in head.without for stage in waited)

    def lacking(self, head: Tenure) -> str:
        """What it does not stand by for, and why; empty if nothing."""
        found = [head.without[stage].why for stage in sorted(head.without) if stage not in head.held]
        return f"less than it should: {'; '.join(found)}"[:REASON_CHARS_MAX] if found else ""

    @staticmethod
    def retries(head: Tenure, now: Instant) -> list[Instant]:
        """When to try again."""
        return [
            each.until for stage, each in head.without.items() if stage not in head.held and now < each.until < NEVER
        ]

    def hopeless(self, head: Tenure, why: str) -> None:
        """The package cannot be had."""
        for stage in standby_stages(head.plan, self._here):
            head.without[stage] = Without(why[:REASON_CHARS_MAX], until=NEVER)

    @staticmethod
    def failed(head: Tenure, stage: int, why: str, now: Instant) -> None:
        """The blocks of ``stage`` could not be opened."""
        known = head.without.get(stage)
        tries = 1 if known is None else known.tries + 1
        until = Instant(now + RETRY_S) if tries < TRIES_MAX else NEVER
        head.without[stage] = Without(why[:REASON_CHARS_MAX], tries, until)

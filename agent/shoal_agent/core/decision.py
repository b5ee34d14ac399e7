"""Is another plan worth the move? Keep, redistribute or re-split, whichever is the cheapest that pays.

Three classes of answers, cheapest first (fewest bytes move):

    KEEP           the plan stands
    REDISTRIBUTE   the same cuts on other nodes
    RESPLIT        other cuts

The incumbent is the plan that runs, or nothing if it cannot run any more. Of redistributions the cheapest is that a
standby becomes the primary: it has the blocks, and the sessions are there already. Each class in turn may displace it::

    gain   = (score of the incumbent - score of the option) / score of the incumbent
    price  = time to move what changes owner / predicted validity
    the option displaces the incumbent if  gain - price >= the gain the operator asks for

While blocks move, the machines that open them are not quite there; the price counts the deployment as lost for all of
that time, which is worse than make-before-break ever is, spread over the time the new plan may be expected to stand.
A host opens one block after the other and hosts work side by side, so the slowest host is the time. Where nothing
runs any more the first class that is possible is the incumbent, whatever it costs. While something runs, an option that
cannot be made before the old plan is broken is none: answers that come sooner do not outweigh seconds without any.
Nor is one that leaves a stage without a standby, if now the loss of any one node is survived.

*Bytes that are owed.* A host whose budget of bytes moved is overdrawn stands at a level B (``queues``: seconds of what
it allows). Each second that it would fetch costs B / V seconds more: drift-plus-penalty, which weighs V times the time
against B times the bytes. So the time above is the slowest host's, plus all B times fetching over V; without a
budget, or while it is kept, nothing changes.

Figures that jump must not make blocks jump: a gain has to be there in every evaluation for ``HOLD_S`` (``Hold``).
Without that, and without a price, a switching queue loses throughput however good each single switch looks (Celik,
Borst, Whiting, Modiano 2016); too much of it is as bad, so both are small against the hour a plan usually stands.

Scores come from ``costs``, measured figures included; everything here is integer arithmetic in permille, rounded
against the move. A decision can be explained by its numbers alone: they are its text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import permutations
from types import MappingProxyType
from typing import Final

from shoal_agent.core.costs import Memory, idle_permille, trusted, usable
from shoal_agent.core.crowding import price
from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.plan import folded, hosts_of
from shoal_agent.core.problem import Candidate, Split, SplitProblem, SplitStage, stages_of
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.limits import STAGING_MS_MAX
from shoal_protocol.messages import PlanStage, SwitchMode

HOLD_S: Final = 60.0
"""How long a gain must be there without a break."""
GAP_S_MAX: Final = 10.0
"""Evaluations further apart are no longer consecutive: the node slept, or was busy with something else."""
FETCH_BYTES_PER_S: Final = 32_000_000
"""What a peer serves by default."""
OPEN_BYTES_PER_S: Final = 100_000_000
"""Read, verify, repack, warm: 4 MB blocks take 5 ms where it was measured; a small board is ten times slower."""
STAGING_MS_MIN: Final = 30_000
"""However little there is to open, a machine may be busy for seconds, and a process may just be starting."""
STAGING_FACTOR: Final = 4
"""Predicted staging times are rough: a deadline leaves so many times the room."""
SPARES_MAX: Final = 8
"""Nodes that are tried in place of lost ones, strongest first."""
MOVES_V: Final = 1
"""V where moves are weighed: a second of a better plan against a second of fetching times a second owed. The fast loop
weighs with the same."""
LOST_MAX: Final = 2
"""Nodes that are replaced one by one; whoever lost more is better off with a new split."""


class Choice(StrEnum):
    """The classes, cheapest first."""

    KEEP = "keep"
    REDISTRIBUTE = "redistribute"
    RESPLIT = "re-split"


@dataclass(frozen=True, slots=True)
class Move:
    """What a plan makes its hosts fetch and open, and how long the slowest of them takes."""

    blocks: int = 0
    fetched_bytes: int = 0
    opened_bytes: int = 0
    time_ms: int = 0
    owed_ms: int = 0
    """What it costs beyond that, because budgets of bytes moved are overdrawn: the sum of all hosts."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to go on."""

    choice: Choice
    split: Split
    move: Move = Move()
    breaks: bool = False
    """Some host cannot hold the new blocks beside the old: nothing is served while they load."""
    bares: bool = False
    """It leaves a stage without a standby, where now the loss of any one node is survived."""
    stages: tuple[PlanStage, ...] = ()
    """Its stages with their standbys, where those were placed together; empty: they are still to be found."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. ``gain_permille`` and ``price_permille`` are the chosen option's over what it displaced, or 0."""

    option: Option
    gain_permille: int
    price_permille: int
    text: str


def move_of(
    problem: SplitProblem,
    split: Split,
    held: Sequence[PlanStage],
    stored: Mapping[NodeId, bool],
    owed_s: Mapping[NodeId, int] = MappingProxyType({}),
) -> Move:
    """What changes owner if ``split`` follows what is ``held``; ``stored``: who has the package on its disk.

    ``owed_s``: whose budget of bytes moved is overdrawn, by how many seconds of what it allows.
    """
    owned = _blocks_by_node(held)
    blocks = fetched = opened = slowest = owed = 0
    for node, wanted in _blocks_by_node(stages_of(split)).items():
        new = [index for index in wanted if index not in owned.get(node, ())]
        size = sum(problem.blocks[index].resident_bytes for index in new)
        fetch = 0 if stored.get(node, False) else size
        blocks, fetched, opened = blocks + len(new), fetched + fetch, opened + size
        slowest = max(slowest, 1000 * fetch // FETCH_BYTES_PER_S + 1000 * size // OPEN_BYTES_PER_S)
        owed += owed_s.get(node, 0) * 1000 * fetch // (FETCH_BYTES_PER_S * MOVES_V)
    return Move(blocks, fetched, opened, slowest, owed)


def _blocks_by_node(stages: Iterable[PlanStage]) -> dict[NodeId, dict[int, None]]:
    """Which blocks each node has of ``stages``, over all of them."""
    found: dict[NodeId, dict[int, None]] = {}
    for stage in stages:
        found.setdefault(stage.node, {}).update(dict.fromkeys(range(stage.first_block, stage.last_block + 1)))
    return found


def switch_mode(
    problem: SplitProblem, before: Sequence[PlanStage], owned: Sequence[PlanStage], split: Split
) -> SwitchMode:
    """Whether every host of ``split`` can hold what it gets beside what it has: ``owned``, without mere standing by."""
    spare = [PlanStage(node, s.first_block, s.last_block) for s in before for node in s.standbys]
    memory = Memory(problem)
    offered = {candidate.node: candidate.memory_bytes for candidate in problem.candidates}
    kept = _blocks_by_node(part for part in owned if part not in spare)
    for node, new in _blocks_by_node(stages_of(split)).items():
        beside = sum(problem.blocks[index].resident_bytes for index in kept.get(node, ()) if index not in new)
        if memory.together(_runs_on(node, split.stages)) + beside > offered[node]:
            return SwitchMode.BREAK_BEFORE_MAKE
    return SwitchMode.MAKE_BEFORE_BREAK


def _runs_on(node: NodeId, stages: Iterable[PlanStage | SplitStage]) -> list[tuple[int, int]]:
    """The runs of blocks that ``node`` has of ``stages``: where each begins, and where it ends."""
    return [(stage.first_block, stage.last_block + 1) for stage in stages if stage.node == node]


def same_cuts(problem: SplitProblem, held: Sequence[PlanStage]) -> SplitProblem:
    """``problem`` with the stages ``held`` as its only blocks: its answer is the best redistribution.

    A U may become another U or a row; a row is not bent for it.
    """
    blocks = tuple(_joined(problem.blocks[stage.first_block : stage.last_block + 1]) for stage in held)
    zones = tuple(_zones_of(problem, stage) for stage in held) if problem.zones else ()
    count, u_shape = len(held), problem.u_shape and folded(held)
    return replace(
        problem, blocks=blocks, zones=zones, stages_min=count, stages_max=count, nodes_min=1, u_shape=u_shape
    )


def _zones_of(problem: SplitProblem, stage: PlanStage) -> tuple[str, ...]:
    """Where all blocks of ``stage`` may be; somewhere they may, for there they are."""
    bounds = [zones for zones in problem.zones[stage.first_block : stage.last_block + 1] if zones]
    return tuple(zone for zone in bounds[0] if all(zone in zones for zones in bounds)) if bounds else ()


def _joined(blocks: Sequence[BlockFacts]) -> BlockFacts:
    """Several blocks as one; rounding apart, it costs what they cost."""
    return BlockFacts(
        sum(block.resident_bytes for block in blocks),
        sum(block.kv_bytes_per_token for block in blocks),
        sum(block.decode_us for block in blocks),
        sum(block.prefill_us for block in blocks),
        blocks[-1].boundary_bytes_per_token,
    )


def redistributed(problem: SplitProblem, held: Sequence[PlanStage], answer: Split) -> Split:
    """The ``answer`` to ``same_cuts``, told and priced in the blocks of ``problem``."""
    found = zip(held, stages_of(answer), strict=True)
    split = price(problem, [replace(stage, node=other.node, width=other.width) for stage, other in found])
    assert split is not None, "an answer names candidates only"
    return split


def promoted(problem: SplitProblem, held: Sequence[PlanStage]) -> Split | None:
    """The stages ``held`` with a standby in place of each node that is no candidate any more: its blocks are open.

    None if nobody is lost, or somebody has no standby that has no stage of its own. The ends of a U may go to one.
    """
    known, stages = {c.node: c for c in problem.candidates if usable(c)}, list(held)
    ends = (0, len(held) - 1) if folded(held) else ()
    for index, stage in enumerate(held):
        if stage.node in known:
            continue
        taken = [other.node for at, other in enumerate(stages) if not (index in ends and at in ends)]
        heirs = (replace(stage, node=node) for node in stage.standbys if node in known and node not in taken)
        tried = ([*stages[:index], heir, *stages[index + 1 :]] for heir in heirs)
        found = next((each for each in tried if _may_host(problem, known[each[index].node], each)), None)
        if found is None:
            return None
        stages = found
    return None if stages == list(held) else price(problem, stages)


def refilled(problem: SplitProblem, held: Sequence[PlanStage]) -> Split | None:
    """The stages ``held`` with spare nodes in place of those that are no candidates any more: the least that moves.

    None if nobody is lost, or too many are, or no spare has the room.
    """
    known = {c.node: c for c in problem.candidates if usable(c)}
    hosts = hosts_of(held)
    lost = [node for node in hosts if node not in known]
    spares = sorted((c for c in known.values() if c.node not in hosts), key=lambda c: (-_power(c), c.node))
    best: Split | None = None
    for chosen in permutations(spares[:SPARES_MAX], len(lost)) if 0 < len(lost) <= LOST_MAX else ():
        heirs = {node: spare.node for node, spare in zip(lost, chosen, strict=True)}
        stages = [replace(stage, node=heirs.get(stage.node, stage.node)) for stage in held]
        room = all(_may_host(problem, spare, stages) for spare in chosen)
        split = price(problem, stages) if room else None
        if split is not None and (best is None or split.score_us < best.score_us):
            best = split
    return best


def _may_host(problem: SplitProblem, candidate: Candidate, stages: Sequence[PlanStage]) -> bool:
    """Whether ``candidate`` has room for all it has of ``stages``, and may hold it."""
    runs = _runs_on(candidate.node, stages)
    room = Memory(problem).together(runs) <= candidate.memory_bytes
    return room and all(trusted(problem, candidate, *run) for run in runs)


def _power(candidate: Candidate) -> int:
    return candidate.speed_macs_per_s * idle_permille(candidate)


def staging_ms(move: Move) -> int:
    """Within how long every host should be READY."""
    return min(STAGING_MS_MIN + STAGING_FACTOR * move.time_ms, STAGING_MS_MAX)


def gain_permille(before_us: int, after_us: int) -> int:
    """How much better ``after_us`` is; negative if it is worse."""
    return 1000 * (before_us - after_us) // max(before_us, 1)


def price_permille(move: Move, validity_ms: int) -> int:
    """What ``move`` costs, with what is owed, of a plan that stands for ``validity_ms``; rounded up."""
    return -(-1000 * (move.time_ms + move.owed_ms) // validity_ms)


def decide(
    current: Split | None, options: Sequence[Option], validity_ms: int, gain_min_permille: int
) -> Decision | None:
    """The cheapest class that pays, of ``options`` in the order of their classes; None if nothing can run at all."""
    assert validity_ms > 0, "a plan stands for some time"
    chosen = None if current is None else Option(Choice.KEEP, current)
    gained = paid = 0
    told = ["the plan cannot stay" if current is None else f"now {_ms(current.score_us)}"]
    for option in options:
        name = f"{option.choice.value} {_ms(option.split.score_us)}"
        if chosen is None:
            chosen = option
            told.append(f"{name}, moving {_moved(option.move)}")
            continue
        gain = gain_permille(chosen.split.score_us, option.split.score_us)
        paid_for = price_permille(_beyond(option.move, chosen.move), validity_ms)
        if gain <= 0:
            told.append(f"{name}: no better")
            continue
        if option.breaks and current is not None:
            told.append(f"{name}: {_percent(gain)} better, but not without an outage")
            continue
        if option.bares and current is not None:
            told.append(f"{name}: {_percent(gain)} better, but not every loss of one node would be survived")
            continue
        told.append(f"{name}: {_percent(gain)} better, moving {_moved(option.move)} costs {_percent(paid_for)}")
        if gain - paid_for >= gain_min_permille:
            chosen, gained, paid = option, gain, paid_for
    if chosen is None:
        return None
    if len(options) > (current is None):
        told.append(f"asked is a gain of {_percent(gain_min_permille)}: {chosen.choice.value}")
    return Decision(chosen, gained, paid, "; ".join(told))


def _beyond(move: Move, other: Move) -> Move:
    """What ``move`` takes longer and owes more than ``other``, which would be made otherwise."""
    time_ms, owed_ms = max(0, move.time_ms - other.time_ms), max(0, move.owed_ms - other.owed_ms)
    return replace(move, time_ms=time_ms, owed_ms=owed_ms)


class Hold:
    """Whether something was so in every evaluation for ``HOLD_S``."""

    def __init__(self) -> None:
        self._since: Instant | None = None
        self._last = Instant(0.0)

    def ripe(self, so: bool, now: Instant) -> bool:  # noqa: FBT001 - it is the evaluation's answer
        """Take in one evaluation; True once it has been so for long enough."""
        broken = now - self._last > GAP_S_MAX
        self._last = now
        if not so:
            self._since = None
            return False
        if self._since is None or broken:
            self._since = now
        return now - self._since >= HOLD_S

    def held_s(self, now: Instant) -> float:
        """For how long it has been so."""
        return 0.0 if self._since is None else now - self._since


def _ms(score_us: int) -> str:
    return f"{score_us / 1000:.2f} ms/token"


def _percent(permille: int) -> str:
    return f"{permille / 10:.1f} %"


def _moved(move: Move) -> str:
    owed = f" and {move.owed_ms / 1000:.1f} s for what is owed" if move.owed_ms else ""
    return f"{move.blocks} blocks ({move.opened_bytes / 1e6:.1f} MB, {move.time_ms / 1000:.1f} s{owed})"

r"""Where to cut a model, and which node gets which piece.

A model is a chain of blocks; a *split* cuts it into contiguous stages and gives each to a different node. Think of
towns along one road and couriers of different strength: how far each courier carries the parcel, and who hands over
to whom, so that the parcel arrives soonest (LATENCY) or so that the slowest leg is as short as possible (THROUGHPUT).

*The programme.* Let F(j, S, n) be the least cost of blocks 0..j-1 on exactly the nodes S, the last stage on n::

    F(j, S, n) = min over i < j, u in S \ {n} of  F(i, S \ {n}, u) (+) link(u, n, i) (+) stage(n, i, j)

where (+) is addition for LATENCY and max for THROUGHPUT: both keep "a cheaper prefix never hurts", which is all
dynamic programming needs. S is a bit mask, so "no node twice" is exact, the number of stages is the number of bits
of S, and memory is checked per stage alone. The arrival at (i, n) is minimised over u before the end j is chosen,
which leaves 2^N N^2 L + 2^N N L^2 steps: 32 blocks over 8 nodes take 0.1 s of plain Python, 128 blocks 1 s.

*The terms.* What is compared is the time of one typical session, ``prompt_tokens`` in and ``answer_tokens`` out::

    stage(n, i, j) = sum(prefill * prompt / 128 + decode * answer over blocks i..j-1) * reference / (speed_n * idle_n)
    link(u, n, i)  = rtt / 2 * (answer + 1) + bytes_per_token(i) * (prompt + answer) / bandwidth

so a prompt-heavy service weighs the activations of a long prompt, and a chatty one the round trips. In THROUGHPUT a
link counts only while bytes are on it (waiting for the other end does not occupy it). Costs are measured per block,
never counted: SmolLM2's head costs as much as 5.3 of its layers.

All of it is integer arithmetic over candidates sorted by node id, first best wins: whoever solves the same problem
gets the same split, whatever the order in which it heard of the nodes. Equal scores go to fewer stages, then to lower
ids in front.

*Beyond 8 candidates* the exact search would double with each; eight are chosen by speed times useful memory, and if
those cannot hold the model, the eight with the most memory.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from operator import add
from typing import Final

from shoal_agent.core.facts import BlockFacts
from shoal_agent.core.plan import GENESIS_PARENT
from shoal_protocol.ids import DeploymentId, Digest, Epoch, NodeId
from shoal_protocol.messages import Plan, PlanStage

CANDIDATES_EXACT_MAX: Final = 8
"""Nodes the exact search looks at: 256 masks; one more node doubles time and memory."""
BUSY_PERMILLE_MAX: Final = 950
"""A node that reports itself busier than this still gets a twentieth of a turn: a finite, very bad speed."""
PREFILL_REFERENCE_TOKENS: Final = 128
"""The length at which ``BlockFacts.prefill_us`` was measured."""
TOKEN_BYTES: Final = 8
"""A token id on a link: int64."""

_UNREACHED: Final = 1 << 120
"""Dearer than any split: a thousand blocks of an hour each, in nanoseconds, stay below 2^62."""


class Objective(StrEnum):
    """LATENCY: one session alone is over soonest. THROUGHPUT: the busiest stage or link is least busy."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may host a stage, as it described itself; ``memory_bytes`` is what it offers."""

    node: NodeId
    speed_macs_per_s: int
    memory_bytes: int
    busy_permille: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two nodes."""

    rtt_us: int
    bytes_per_s: int


LAN: Final = Link(rtt_us=500, bytes_per_s=100_000_000)
"""What a pair nobody measured is taken for: gigabit Ethernet with TLS on top."""


@dataclass(frozen=True, slots=True)
class Links:
    """What is known of the links: measured ordered pairs, and ``default`` for every other one."""

    default: Link = LAN
    measured: Mapping[tuple[NodeId, NodeId], Link] = field(default_factory=dict)

    def between(self, sender: NodeId, receiver: NodeId) -> Link:
        """The link from ``sender`` to ``receiver``."""
        return self.measured.get((sender, receiver), self.default)


@dataclass(frozen=True, slots=True)
class Workload:
    """What the hosts must have room for, and the session whose time is compared."""

    context_tokens_max: int
    sessions: int = 1
    """Sessions of the full context each host keeps KV for."""
    prompt_tokens: int = 128
    answer_tokens: int = 128


@dataclass(frozen=True, slots=True)
class SplitProblem:
    """Everything the planner looks at. ``ingress`` None: any node may be it, so the way in and out is not counted."""

    blocks: tuple[BlockFacts, ...]
    reference_macs_per_s: int
    candidates: tuple[Candidate, ...]
    workload: Workload
    links: Links = field(default_factory=Links)
    objective: Objective = Objective.LATENCY
    stages_min: int = 1
    stages_max: int = CANDIDATES_EXACT_MAX
    ingress: NodeId | None = None
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SplitStage:
    """One stage of an answer. Times are per token answered, the prompt's share included; memory counts KV."""

    node: NodeId
    first_block: int
    last_block: int
    time_us: int
    link_us: int
    """Into this stage, from the one before or from the ingress."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Split:
    """The best split. ``score_us``: per token answered, the whole way (LATENCY) or the busiest part (THROUGHPUT)."""

    stages: tuple[SplitStage, ...]
    score_us: int


@dataclass(frozen=True, slots=True)
class Infeasible:
    """No split exists; ``reason`` is a sentence with the numbers, ``nodes`` one line for each candidate."""

    reason: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Genesis:
    """A first plan and the split it was made from."""

    plan: Plan
    split: Split


def split_model(problem: SplitProblem) -> Split | Infeasible:
    """The cheapest split of ``problem``, exact for up to CANDIDATES_EXACT_MAX candidates."""
    _check(problem)
    usable = sorted((c for c in problem.candidates if _usable(c)), key=lambda c: c.node)
    hosts_max = min(len(usable), CANDIDATES_EXACT_MAX, len(problem.blocks))
    if hosts_max < problem.stages_min:
        reason = f"{problem.stages_min} stages need as many nodes and blocks: {len(usable)} usable nodes, "
        reason += f"{len(problem.blocks)} blocks, at most {CANDIDATES_EXACT_MAX} stages"
        return Infeasible(reason, _room_of(problem))
    for shortlist in _shortlists(problem, usable):
        split = _search(problem, _Costs(problem, shortlist))
        if split is not None:
            return split
    return Infeasible(_too_large(problem), _room_of(problem))


def plan_genesis(problem: SplitProblem, deployment: DeploymentId, model: Digest) -> Genesis | Infeasible:
    """The plan of epoch 0 for ``deployment`` of package ``model``, or why there is none."""
    split = split_model(problem)
    if isinstance(split, Infeasible):
        return split
    stages = tuple(PlanStage(stage.node, stage.first_block, stage.last_block) for stage in split.stages)
    plan = Plan(deployment, Epoch(0), GENESIS_PARENT, model, problem.workload.context_tokens_max, stages)
    return Genesis(plan, split)


def _check(problem: SplitProblem) -> None:
    """The caller's duties; a breach is a bug, not a bad cluster."""
    assert problem.blocks, "a model has blocks"
    assert problem.reference_macs_per_s > 0, "the profile names the speed of its device"
    assert 1 <= problem.stages_min <= problem.stages_max, "stages_min..stages_max is a range"
    assert problem.workload.answer_tokens > 0, "a session answers at least one token"
    assert len({c.node for c in problem.candidates}) == len(problem.candidates), "one candidate per node"


def _shortlists(problem: SplitProblem, usable: list[Candidate]) -> Iterator[list[Candidate]]:
    """Which candidates to search, best guess first; each in order of node id."""
    if len(usable) <= CANDIDATES_EXACT_MAX:
        yield usable
        return
    whole = _Memory(problem).needed(0, len(problem.blocks))

    def power(candidate: Candidate) -> int:
        return candidate.speed_macs_per_s * _idle_permille(candidate) * min(candidate.memory_bytes, whole)

    by_power = sorted(usable, key=lambda c: (-power(c), c.node))
    by_memory = sorted(usable, key=lambda c: (-c.memory_bytes, c.node))
    for order in (by_power, by_memory):
        yield sorted(order[:CANDIDATES_EXACT_MAX], key=lambda c: c.node)


def _idle_permille(candidate: Candidate) -> int:
    return 1000 - min(max(candidate.busy_permille, 0), BUSY_PERMILLE_MAX)


class _Memory:
    """What a stage takes: weights as they are resident, and KV for every session to keep room for."""

    def __init__(self, problem: SplitProblem) -> None:
        self._tokens = problem.workload.context_tokens_max * problem.workload.sessions
        self._shared = problem.shared_bytes
        self._weights = [0, *accumulate(b.resident_bytes for b in problem.blocks)]
        self._kv_per_token = [0, *accumulate(b.kv_bytes_per_token for b in problem.blocks)]

    def needed(self, start: int, end: int) -> int:
        """Bytes of blocks ``start..end-1``."""
        return self._shared + self._weights[end] - self._weights[start] + self.kv(start, end)

    def kv(self, start: int, end: int) -> int:
        """The share of KV in it."""
        return (self._kv_per_token[end] - self._kv_per_token[start]) * self._tokens


class _Costs:
    """Every term of the programme, in nanoseconds of one session; nodes and blocks by index."""

    def __init__(self, problem: SplitProblem, nodes: list[Candidate]) -> None:
        self._problem = problem
        self.nodes = nodes
        load = problem.workload
        block_ns = (
            1000 * (b.decode_us * load.answer_tokens + b.prefill_us * load.prompt_tokens // PREFILL_REFERENCE_TOKENS)
            for b in problem.blocks
        )
        self.memory = _Memory(problem)
        self._work_ns = [0, *accumulate(block_ns)]
        starts = range(len(problem.blocks))
        self.stage = [[self._stage_costs(node, start) for start in starts] for node in nodes]
        """stage[n][i][k]: blocks i..i+k on node n; the list ends where n's memory does."""
        self.link = [[[self._hop(u, n, start) for start in starts] for n in nodes] for u in nodes]
        """link[u][n][i]: what leaves block i-1, from node u to node n (unused at i = 0)."""
        self.enter = [self._from_ingress(node) for node in nodes]
        self.leave = [self._to_ingress(node) for node in nodes]

    def _stage_costs(self, node: Candidate, start: int) -> list[int]:
        problem = self._problem
        speed = node.speed_macs_per_s * _idle_permille(node)
        costs = []
        for end in range(start + 1, len(problem.blocks) + 1):
            if self.memory.needed(start, end) > node.memory_bytes:
                break
            work = (self._work_ns[end] - self._work_ns[start]) * problem.reference_macs_per_s * 1000
            costs.append(-(-work // speed))
        return costs

    def _hop(self, sender: Candidate, receiver: Candidate, start: int) -> int:
        load = self._problem.workload
        size = self._problem.blocks[start - 1].boundary_bytes_per_token * (load.prompt_tokens + load.answer_tokens)
        return self._crossing(sender.node, receiver.node, load.answer_tokens + 1, size)

    def _from_ingress(self, node: Candidate) -> int:
        load = self._problem.workload
        size = TOKEN_BYTES * (load.prompt_tokens + load.answer_tokens)
        return self._crossing(self._problem.ingress, node.node, load.answer_tokens + 1, size)

    def _to_ingress(self, node: Candidate) -> int:
        answers = self._problem.workload.answer_tokens
        return self._crossing(node.node, self._problem.ingress, answers, TOKEN_BYTES * answers)

    def _crossing(self, sender: NodeId | None, receiver: NodeId | None, frames: int, size_bytes: int) -> int:
        """``frames`` one-way trips carrying ``size_bytes`` in all."""
        if sender is None or receiver is None or sender == receiver:
            return 0
        link = self._problem.links.between(sender, receiver)
        transfer_ns = -(-size_bytes * 1_000_000_000 // max(link.bytes_per_s, 1))
        waiting_ns = link.rtt_us * 500 * frames
        return transfer_ns + (waiting_ns if self._problem.objective is Objective.LATENCY else 0)


@dataclass(frozen=True, slots=True)
class _Row:
    """F(., S, n) for one set and last node, by end j; ``origin[j]`` is (i, u), u = -1 at the ingress."""

    cost: list[int]
    origin: list[tuple[int, int]]


_Join = Callable[[int, int], int]
"""(+): how the cost of one more leg joins what came before."""
_Rows = dict[tuple[int, int], _Row]
"""Rows by (mask of nodes used, last node)."""
_Best = tuple[int, int, int, int]
"""(score_ns, stages, mask, minus the last node): compared in this order, so lower ids serve earlier stages."""


def _search(problem: SplitProblem, costs: _Costs) -> Split | None:
    """The programme of this module's docstring; None if nothing fits."""
    join: _Join = add if problem.objective is Objective.LATENCY else max
    nodes, ends = len(costs.nodes), len(problem.blocks)
    rows: _Rows = {}
    best: _Best | None = None
    for mask in range(1, 1 << nodes):
        stages = mask.bit_count()
        if stages > problem.stages_max:
            continue
        for last in (n for n in range(nodes) if mask >> n & 1):
            arrivals = _arrivals(rows, costs, mask ^ 1 << last, last, join)
            row = rows[mask, last] = _extend(arrivals, costs.stage[last], ends, join)
            if stages >= problem.stages_min and row.cost[ends] < _UNREACHED:
                whole = (join(row.cost[ends], costs.leave[last]), stages, mask, -last)
                best = whole if best is None else min(best, whole)
    return None if best is None else _trace(problem, costs, rows, best)


def _arrivals(rows: _Rows, costs: _Costs, before: int, last: int, join: _Join) -> list[tuple[int, int, int]]:
    """(start, cost, previous node) of every way to come to node ``last`` with the nodes ``before`` already used."""
    if before == 0:
        return [(0, costs.enter[last], -1)]
    previous = [u for u in range(len(costs.nodes)) if before >> u & 1]
    arrivals = []
    for start in range(before.bit_count(), len(costs.stage[last])):
        ways = (
            (join(rows[before, u].cost[start], costs.link[u][last][start]), -u)
            for u in previous
            if rows[before, u].cost[start] < _UNREACHED
        )
        cost, node = min(ways, default=(_UNREACHED, 0))
        if cost < _UNREACHED:
            arrivals.append((start, cost, -node))
    return arrivals


def _extend(arrivals: list[tuple[int, int, int]], stage: list[list[int]], ends: int, join: _Join) -> _Row:
    """Lay a stage on the last node from every arrival to every end its memory allows."""
    row = _Row([_UNREACHED] * (ends + 1), [(0, -1)] * (ends + 1))
    cost_at = row.cost
    for start, arrived, node in arrivals:
        for end, stage_ns in enumerate(stage[start], start + 1):
            total = join(arrived, stage_ns)
            if total < cost_at[end]:
                cost_at[end] = total
                row.origin[end] = (start, node)
    return row


def _trace(problem: SplitProblem, costs: _Costs, rows: _Rows, best: _Best) -> Split:
    """Walk the origins back from the end and name the terms."""
    score_ns, _, mask, minus_last = best
    last = -minus_last
    per_token = 1000 * problem.workload.answer_tokens
    stages: list[SplitStage] = []
    end = len(problem.blocks)
    while last >= 0:
        start, previous = rows[mask, last].origin[end]
        link_ns = costs.enter[last] if previous < 0 else costs.link[previous][last][start]
        stage_ns = costs.stage[last][start][end - start - 1]
        memory = costs.memory.needed(start, end)
        node = costs.nodes[last].node
        stages.append(SplitStage(node, start, end - 1, stage_ns // per_token, link_ns // per_token, memory))
        mask, last, end = mask ^ 1 << last, previous, start
    return Split(tuple(reversed(stages)), score_ns // per_token)


def _too_large(problem: SplitProblem) -> str:
    load = problem.workload
    memory, blocks = _Memory(problem), len(problem.blocks)
    offered = sum(c.memory_bytes for c in problem.candidates)
    return (
        f"no {problem.stages_min} to {problem.stages_max} stages of {blocks} blocks fit: the model takes "
        f"{memory.needed(0, blocks)} bytes ({memory.kv(0, blocks)} of them KV for {load.sessions} x "
        f"{load.context_tokens_max} tokens), {len(problem.candidates)} nodes offer {offered}"
    )


def _room_of(problem: SplitProblem) -> tuple[str, ...]:
    """One line per candidate: what it offers and the longest run of blocks it could hold."""
    lines = []
    for candidate in sorted(problem.candidates, key=lambda c: c.node):
        longest = max(len(costs) for costs in _Costs(problem, [candidate]).stage[0]) if _usable(candidate) else 0
        lines.append(
            f"{candidate.node}: offers {candidate.memory_bytes} bytes at {candidate.speed_macs_per_s} MAC/s, "
            f"holds at most {longest} of {len(problem.blocks)} blocks in a row"
        )
    return tuple(lines)


def _usable(candidate: Candidate) -> bool:
    return candidate.speed_macs_per_s > 0 and candidate.memory_bytes > 0

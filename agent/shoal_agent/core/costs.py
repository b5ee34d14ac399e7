"""What a split costs: the one arithmetic by which plans are compared, whoever asks.

What is compared is the time of one typical session, ``prompt_tokens`` in and ``answer_tokens`` out::

    stage(n, i, j) = work(i, j) * reference / (speed_n * idle_n * (1 - rho_n))
    work(i, j)     = sum(prefill * prompt / 128 + decode * answer over blocks i..j-1)
    link(u, n, i)  = rtt / 2 * (answer + 1) + (bytes_w(i) / bandwidth + codec_w(i)) * (prompt + answer)

so a prompt-heavy service weighs the activations of a long prompt, and a chatty one the round trips. In THROUGHPUT a
link counts only while bytes are on it (waiting for the other end does not occupy it). Costs are measured per block,
never counted: SmolLM2's head costs as much as 5.3 of its layers. LATENCY adds all legs up, THROUGHPUT takes the
longest; a leg is a link, the way in from the ingress and the way out to it included, or what one node has to do: both
ends of a U are done by one processor.

*Waiting.* Where other deployments keep a node at work for a share rho of the time, a session stands in line; with one
line and work that comes as it likes that makes its time 1 / (1 - rho) times as long (M/M/1). Waiting is part of
LATENCY only: it keeps no processor busy. The line that a deployment makes itself is ``crowding``'s. *Width.* A narrower
element type shortens the link and costs converting.

Everything is in whole nanoseconds of one session: two nodes that look at the same figures get the same price. A node's
time is rounded at every block, counted from the first: so a run of blocks takes the difference of two ends, and to
share one out over equal nodes costs nothing by rounding alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final

from shoal_agent.core.facts import Width
from shoal_agent.core.problem import AS_IT_IS, Candidate, Split, SplitProblem, SplitStage
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Objective, PlanStage
from shoal_protocol.widths import ActivationWidth

BUSY_PERMILLE_MAX: Final = 950
"""A node that reports itself busier than this still gets a twentieth of a turn: a finite, very bad speed."""
WAITING_PERMILLE_MAX: Final = 900
"""Ten times the time at most: beyond, 1 / (1 - rho) says more about the error of rho than about the line."""
PREFILL_REFERENCE_TOKENS: Final = 128
"""The length at which ``BlockFacts.prefill_us`` was measured."""
TOKEN_BYTES: Final = 8
"""A token id on a link: int64."""


def usable(candidate: Candidate) -> bool:
    """Whether ``candidate`` could hold anything at all."""
    return candidate.speed_macs_per_s > 0 and candidate.memory_bytes > 0


def trusted(problem: SplitProblem, candidate: Candidate, start: int, end: int) -> bool:
    """Whether the zone of ``candidate`` may hold each of blocks ``start..end-1``."""
    return all(not zones or candidate.zone in zones for zones in problem.zones[start:end])


def idle_permille(candidate: Candidate) -> int:
    """What is left of ``candidate`` for us."""
    return 1000 - min(max(candidate.busy_permille, 0), BUSY_PERMILLE_MAX)


class Memory:
    """What a stage takes: weights as they are resident, and KV for every session to keep room for."""

    def __init__(self, problem: SplitProblem) -> None:
        self._tokens = problem.workload.context_tokens_max * problem.workload.sessions
        self.shared = problem.shared_bytes
        """What a node's blocks share: once on each, however many runs of them it holds."""
        self._weights = [0, *accumulate(b.resident_bytes for b in problem.blocks)]
        self._kv_per_token = [0, *accumulate(b.kv_bytes_per_token for b in problem.blocks)]

    def needed(self, start: int, end: int) -> int:
        """Bytes of blocks ``start..end-1``."""
        return self.shared + self._weights[end] - self._weights[start] + self.kv(start, end)

    def together(self, runs: Iterable[tuple[int, int]]) -> int:
        """Bytes of several runs of blocks on one node; of none, what it keeps for the first."""
        return self.shared + sum(self.needed(start, end) - self.shared for start, end in runs)

    def kv(self, start: int, end: int) -> int:
        """The share of KV in it."""
        return (self._kv_per_token[end] - self._kv_per_token[start]) * self._tokens


class Costs:
    """Every term, in nanoseconds of one session."""

    def __init__(self, problem: SplitProblem) -> None:
        self._problem = problem
        load = problem.workload
        block_ns = (
            1000 * (b.decode_us * load.answer_tokens + b.prefill_us * load.prompt_tokens // PREFILL_REFERENCE_TOKENS)
            for b in problem.blocks
        )
        self._work_ns = [0, *accumulate(block_ns)]

    def stage(self, node: Candidate, start: int, end: int) -> int:
        """Blocks ``start..end-1`` on ``node``."""
        return self._until(node, end) - self._until(node, start)

    def path(self, node: Candidate) -> list[int]:
        """What all blocks before each end take on ``node``."""
        return [self._until(node, end) for end in range(len(self._work_ns))]

    def busy(self, node: Candidate) -> list[int]:
        """As ``path``, without the waiting: for how long ``node`` is at work."""
        return self.path(replace(node, waiting_permille=0))

    def _until(self, node: Candidate, end: int) -> int:
        free = 1000 - min(max(node.waiting_permille, 0), WAITING_PERMILLE_MAX)
        if self._problem.objective is Objective.THROUGHPUT:
            free = 1000
        work = self._work_ns[end] * self._problem.reference_macs_per_s * 1_000_000
        return -(-work // (node.speed_macs_per_s * idle_permille(node) * free))

    def hop(self, sender: NodeId, receiver: NodeId, start: int, width: Width = AS_IT_IS) -> int:
        """What leaves block ``start - 1``, from one host to the next."""
        load, size = self._problem.workload, self._problem.blocks[start - 1].boundary_bytes_per_token
        if sender == receiver:
            return 0
        codec_ns = size * width.codec_ps_per_byte * (load.prompt_tokens + load.answer_tokens) // 1000
        return self._crossing(sender, receiver, *self.carried(start, width)) + codec_ns

    def carried(self, start: int, width: Width = AS_IT_IS) -> tuple[int, int]:
        """Frames in which what leaves block ``start - 1`` crosses a link, and their bytes in all."""
        load, size = self._problem.workload, self._problem.blocks[start - 1].boundary_bytes_per_token
        sent = -(-size * width.size_permille // 1000) + width.extra_bytes_per_token
        return load.answer_tokens + 1, sent * (load.prompt_tokens + load.answer_tokens)

    def enter(self, node: NodeId) -> int:
        """Tokens from the ingress to the first host."""
        load = self._problem.workload
        size = TOKEN_BYTES * (load.prompt_tokens + load.answer_tokens)
        return self._crossing(self._problem.ingress, node, load.answer_tokens + 1, size)

    def leave(self, node: NodeId) -> int:
        """Tokens from the last host to the ingress."""
        answers = self._problem.workload.answer_tokens
        return self._crossing(node, self._problem.ingress, answers, TOKEN_BYTES * answers)

    def _crossing(self, sender: NodeId | None, receiver: NodeId | None, frames: int, size_bytes: int) -> int:
        """``frames`` one-way trips carrying ``size_bytes`` in all."""
        if sender is None or receiver is None or sender == receiver:
            return 0
        link = self._problem.links.between(sender, receiver)
        transfer_ns = -(-size_bytes * 1_000_000_000 // max(link.bytes_per_s, 1))
        waiting_ns = link.rtt_us * 500 * frames
        return transfer_ns + (waiting_ns if self._problem.objective is Objective.LATENCY else 0)


def widths_of(problem: SplitProblem) -> tuple[Width, ...]:
    """In which activations may travel in ``problem``: those of which one cut alone is not too much already."""
    widths = problem.widths or (AS_IT_IS,)
    return tuple(width for width in widths if problem.loss_max is None or width.loss <= problem.loss_max)


def known_widths(problem: SplitProblem) -> dict[ActivationWidth, Width]:
    """What is known of each width, by its name on the wire."""
    return {width.wire: width for width in (AS_IT_IS, *problem.widths)}


def price_alone(problem: SplitProblem, stages: Sequence[PlanStage]) -> Split | None:
    """What these stages cost a session that is alone in ``problem``; None if a host is no usable candidate.

    Whether the stages fit is not asked, nor whether their widths may be: of a plan that runs the answer is known, and
    of another each host knows it best. A width that ``problem`` does not have counts as the full one.
    """
    known = {c.node: c for c in problem.candidates if usable(c)}
    if any(stage.node not in known for stage in stages):
        return None
    costs, memory = Costs(problem), Memory(problem)
    width_of = known_widths(problem)
    per_token = 1000 * problem.workload.answer_tokens
    priced: list[SplitStage] = []
    links_ns: list[int] = []
    work_ns: dict[NodeId, int] = {}
    for index, stage in enumerate(stages):
        width = width_of.get(stage.width, AS_IT_IS) if index else AS_IT_IS
        start, end, before = stage.first_block, stage.last_block + 1, stages[index - 1].node
        link_ns = costs.hop(before, stage.node, start, width) if index else costs.enter(stage.node)
        stage_ns = costs.stage(known[stage.node], start, end)
        links_ns.append(link_ns)
        work_ns[stage.node] = work_ns.get(stage.node, 0) + stage_ns
        needed, times_us = memory.needed(start, end), (stage_ns // per_token, link_ns // per_token)
        priced.append(SplitStage(stage.node, start, end - 1, *times_us, needed, width.name))
    legs = [*links_ns, *work_ns.values(), costs.leave(stages[-1].node)]
    whole = sum(legs) if problem.objective is Objective.LATENCY else max(legs)
    return Split(tuple(priced), whole // per_token)

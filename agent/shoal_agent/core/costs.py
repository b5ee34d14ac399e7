"""What a split costs: the one arithmetic by which plans are compared, whoever asks.

What is compared is the time of one typical session, ``prompt_tokens`` in and ``answer_tokens`` out::

    stage(n, i, j) = sum(prefill * prompt / 128 + decode * answer over blocks i..j-1) * reference / (speed_n * idle_n)
    link(u, n, i)  = rtt / 2 * (answer + 1) + bytes_per_token(i) * (prompt + answer) / bandwidth

so a prompt-heavy service weighs the activations of a long prompt, and a chatty one the round trips. In THROUGHPUT a
link counts only while bytes are on it (waiting for the other end does not occupy it). Costs are measured per block,
never counted: SmolLM2's head costs as much as 5.3 of its layers. LATENCY adds all legs up, THROUGHPUT takes the
longest; a leg is a stage or a link, the way in from the ingress and the way out to it included.

Everything is in whole nanoseconds of one session: two nodes that look at the same figures get the same price.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from shoal_agent.core.problem import Candidate, Split, SplitProblem, SplitStage
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Objective, PlanStage

BUSY_PERMILLE_MAX: Final = 950
"""A node that reports itself busier than this still gets a twentieth of a turn: a finite, very bad speed."""
PREFILL_REFERENCE_TOKENS: Final = 128
"""The length at which ``BlockFacts.prefill_us`` was measured."""
TOKEN_BYTES: Final = 8
"""A token id on a link: int64."""


def usable(candidate: Candidate) -> bool:
    """Whether ``candidate`` could hold anything at all."""
    return candidate.speed_macs_per_s > 0 and candidate.memory_bytes > 0


def idle_permille(candidate: Candidate) -> int:
    """What is left of ``candidate`` for us."""
    return 1000 - min(max(candidate.busy_permille, 0), BUSY_PERMILLE_MAX)


class Memory:
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
        work = (self._work_ns[end] - self._work_ns[start]) * self._problem.reference_macs_per_s * 1000
        return -(-work // (node.speed_macs_per_s * idle_permille(node)))

    def hop(self, sender: NodeId, receiver: NodeId, start: int) -> int:
        """What leaves block ``start - 1``, from one host to the next."""
        load = self._problem.workload
        size = self._problem.blocks[start - 1].boundary_bytes_per_token * (load.prompt_tokens + load.answer_tokens)
        return self._crossing(sender, receiver, load.answer_tokens + 1, size)

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


def price(problem: SplitProblem, stages: Sequence[PlanStage]) -> Split | None:
    """What these stages cost in ``problem``; None if a host is no usable candidate.

    Whether they fit is not asked: of a plan that runs the answer is known, and of another each host knows it best.
    """
    known = {c.node: c for c in problem.candidates if usable(c)}
    if any(stage.node not in known for stage in stages):
        return None
    costs, memory = Costs(problem), Memory(problem)
    per_token = 1000 * problem.workload.answer_tokens
    priced: list[SplitStage] = []
    legs: list[int] = []
    for index, stage in enumerate(stages):
        start, end = stage.first_block, stage.last_block + 1
        link_ns = costs.enter(stage.node) if index == 0 else costs.hop(stages[index - 1].node, stage.node, start)
        stage_ns = costs.stage(known[stage.node], start, end)
        legs += [link_ns, stage_ns]
        needed = memory.needed(start, end)
        priced.append(SplitStage(stage.node, start, end - 1, stage_ns // per_token, link_ns // per_token, needed))
    legs.append(costs.leave(stages[-1].node))
    whole = sum(legs) if problem.objective is Objective.LATENCY else max(legs)
    return Split(tuple(priced), whole // per_token)

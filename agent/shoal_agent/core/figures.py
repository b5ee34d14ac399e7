"""Every term of a split's price, worked out once for the searches: nodes and blocks by index, times in nanoseconds.

What makes the searches fast is that a stage is a difference: ``path[n]`` is what all blocks before an end take on node
n, so blocks i..j-1 take ``path[n][j] - path[n][i]``. What a node may hold is one number for every start:
``reach[n][i]`` is the furthest end of a run from block i that its memory and its trust zone allow, and it never goes
back as i grows.
"""

from collections.abc import Sequence
from copy import copy
from typing import Final

from shoal_agent.core.costs import Costs, Memory, widths_of
from shoal_agent.core.facts import Width
from shoal_agent.core.problem import Candidate, SplitProblem

FASTEST: Final = -1
"""In place of a width: whichever is fastest there."""
UNREACHED: Final = 1 << 200
"""Dearer than any split: a thousand blocks of an hour each stay below 2^62 nanoseconds, weighted ones below 2^145."""


class Figures:
    """The terms of ``problem`` for ``nodes``, which are some of its candidates."""

    def __init__(self, problem: SplitProblem, nodes: list[Candidate]) -> None:
        self.nodes = nodes
        self.ends = len(problem.blocks)
        self.memory = Memory(problem)
        self.widths = widths_of(problem)
        costs = Costs(problem)
        self.path = [costs.path(node) for node in nodes]
        self.busy = [costs.busy(node) for node in nodes]
        self.reach = [reaches(problem, self.memory, node) for node in nodes]
        sizes = [problem.blocks[start - 1].boundary_bytes_per_token for start in range(self.ends)]
        alike = [sizes.index(size) for size in sizes]

        def hops(sender: Candidate, receiver: Candidate, width: Width) -> list[int]:
            """Before each block; most blocks put out as much as any other, and are asked about once."""
            known = {start: costs.hop(sender.node, receiver.node, start, width) for start in dict.fromkeys(alike)}
            return [known[start] for start in alike]

        self.hops = [[[hops(u, n, width) for width in self.widths] for n in nodes] for u in nodes]
        """hops[u][n][w][i]: what leaves block i-1, from node u to node n in width w (unused at i = 0)."""
        never = [UNREACHED] * self.ends
        self.link = [
            [[min(ways) for ways in zip(*by_width, strict=True)] if by_width else never for by_width in row]
            for row in self.hops
        ]
        """The same in the width that is fastest there."""
        self.enter = [costs.enter(node.node) for node in nodes]
        self.leave = [costs.leave(node.node) for node in nodes]

    def weighted(self, time: int, money: int, rates: Sequence[int]) -> "Figures":
        """The same terms, ``time`` for a nanosecond and ``money`` times the node's rate for one at work."""
        other = copy(self)
        other.path = [
            [time * whole + money * rate * busy for whole, busy in zip(path, busy_path, strict=True)]
            for path, busy_path, rate in zip(self.path, self.busy, rates, strict=True)
        ]
        other.link = [[[time * hop for hop in row] for row in rows] for rows in self.link]
        other.hops = [[[[time * hop for hop in way] for way in row] for row in rows] for rows in self.hops]
        other.enter = [time * whole for whole in self.enter]
        other.leave = [time * whole for whole in self.leave]
        return other

    def crossing(self, sender: int, receiver: int, width: int) -> list[int]:
        """What crosses from ``sender`` to ``receiver`` before each block, in ``width``."""
        return self.link[sender][receiver] if width == FASTEST else self.hops[sender][receiver][width]

    def fastest_width(self, sender: int, receiver: int, start: int) -> int:
        """The width of ``link``; of equally fast ones that which loses least."""
        ways = self.hops[sender][receiver]
        return min(range(len(self.widths)), key=lambda w: (ways[w][start], self.widths[w].loss, w))


def reaches(problem: SplitProblem, memory: Memory, node: Candidate) -> list[int]:
    """For every start the furthest end of a run of blocks that ``node`` may hold; the start itself if none."""
    furthest, end = [], 0
    for start in range(len(problem.blocks)):
        end = max(end, start)
        while end < len(problem.blocks) and _trusted(problem, node, end):
            if memory.needed(start, end + 1) > node.memory_bytes:
                break
            end += 1
        furthest.append(end)
    return furthest


def _trusted(problem: SplitProblem, node: Candidate, block: int) -> bool:
    zones = problem.zones[block] if problem.zones else ()
    return not zones or node.zone in zones

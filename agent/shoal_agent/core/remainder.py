"""What the rest of a split costs at least: how searches know early that a way leads nowhere.

Forget that no node may be used twice. Then the best way from any place to the end is a shortest path, found backwards
in N^2 L + N L^2 steps, and no way that keeps the rule is cheaper. It is within a fifth of what the rule allows, as a
rule: close enough to throw most ways away as soon as one good split is known (branch and bound).
"""

from shoal_agent.core.figures import UNREACHED, Figures
from shoal_agent.core.search import Join


def rest_of(figures: Figures, join: Join, source: int | None) -> list[list[int]]:
    """rest[n][j]: the least cost of all that follows a stage on n that ends at j, if nodes could be used again."""
    nodes, ends = range(len(figures.nodes)), figures.ends
    inner = [n for n in nodes if n != source]
    rest = [[UNREACHED] * ends + [figures.leave[n] if source is None else UNREACHED] for n in nodes]
    begun = [[UNREACHED] * ends for _ in nodes]
    for start in reversed(range(ends)):
        for n in inner:
            path, follows = figures.path[n], rest[n]
            begun[n][start] = min(
                (join(path[end] - path[start], follows[end]) for end in range(start + 1, figures.reach[n][start] + 1)),
                default=UNREACHED,
            )
        if source is not None and figures.reach[source][start] == ends:
            path = figures.path[source]
            begun[source][start] = join(path[ends] - path[start], figures.leave[source])
        for n in inner:
            rest[n][start] = min(
                (join(figures.link[n][u][start], begun[u][start]) for u in nodes if u != n), default=UNREACHED
            )
    return rest

"""Is this placement what it claims to be? Asked by everybody who is to agree to it, answered in words.

To find a placement takes seconds and a solver; to see that it keeps every rule takes V machines times M services times
K kinds of room, and the ways of the traffic. So one proposer solves, all others only look, and nobody has to have the
same solver, or the same version of it. A claim is exact: prices are whole numbers, and another one is a lie or a bug.
Nobody proves that there is nothing better; that a proposal is better than what stands is enough, and can be seen.
"""

from collections.abc import Iterator

from shoal_agent.core.backbone import WHOLE_MAX, BackboneProblem, Counts
from shoal_agent.core.backbone_cost import Figures, cost_of


def verify(problem: BackboneProblem, counts: Counts, claimed: int | None) -> list[str]:
    """Everything that is wrong with ``counts`` as an answer to ``problem`` at the price ``claimed``; empty if nothing.

    ``claimed`` None: nothing was claimed.
    """
    wrong_shape = _misshapen(problem, counts)
    if wrong_shape:
        return [wrong_shape]
    figures = Figures(problem)
    found = list(faults_of(figures, counts))
    cost = cost_of(figures, counts)
    if cost is None:
        found.append("links: the traffic between the hosts does not fit on them")
    elif claimed is not None and cost.total != claimed:
        found.append(f"claim: it costs {cost.total}, claimed are {claimed}")
    return found


def _misshapen(problem: BackboneProblem, counts: Counts) -> str | None:
    """What makes ``counts`` no answer at all."""
    if len(counts) != len(problem.services) or any(len(row) != len(problem.machines) for row in counts):
        return f"form: it must name {len(problem.services)} services on {len(problem.machines)} machines"
    for row in counts:
        for count in row:
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= WHOLE_MAX:
                return f"form: {count!r} is no number of instances"
    return None


def faults_of(figures: Figures, counts: Counts) -> Iterator[str]:
    """The rules ``counts`` breaks, links and price apart."""
    yield from _room_faults(figures, counts)
    for m in range(len(counts)):
        yield from _service_faults(figures, m, counts[m])
    problem = figures.problem
    spent = sum(n * figures.price[m][v] for m, row in enumerate(counts) for v, n in enumerate(row))
    if spent > problem.budget:
        yield f"budget: the instances cost {spent}, {problem.budget} is allowed"
    pairs = sum(n > 0 for row in counts for n in row)
    if pairs < problem.pairs_min:
        yield f"pairs: {pairs} pairs of service and host, at least {problem.pairs_min} are asked for"


def _room_faults(figures: Figures, counts: Counts) -> Iterator[str]:
    problem = figures.problem
    for v, machine in enumerate(problem.machines):
        for k, kind in enumerate(problem.kinds):
            taken = sum(row[v] * service.needs[k] for row, service in zip(counts, problem.services, strict=True))
            if taken > figures.room[v][k]:
                kept = f" ({machine.reserve_permille / 10:g} % is kept for light services)"
                kept = kept if machine.reserve_permille else ""
                yield f"{kind}: {machine.node} would hold {taken}, it offers {figures.room[v][k]}{kept}"


def _service_faults(figures: Figures, m: int, row: tuple[int, ...]) -> Iterator[str]:
    machines, service = figures.problem.machines, figures.problem.services[m]
    hosts = [v for v, count in enumerate(row) if count]
    for v in hosts:
        if machines[v].trust < service.trust:
            yield f"trust: {service.name} asks for {service.trust}, {machines[v].node} has {machines[v].trust}"
        if machines[v].node in service.barred:
            yield f"barred: {service.name} may not be on {machines[v].node}"
        if row[v] > service.per_host_max:
            yield f"per host: {row[v]} of {service.name} on {machines[v].node}, {service.per_host_max} are allowed"
    if sum(row) < figures.need[m]:
        yield f"demand: {service.name} has {sum(row)} instances, it needs {figures.need[m]}"
    if not service.hosts_min <= len(hosts) <= service.hosts_max:
        yield f"hosts: {service.name} has {len(hosts)}, it must have {service.hosts_min} to {service.hosts_max}"
    for v in hosts:
        if sum(row) - row[v] < figures.cover[m]:
            left = f"leaves {sum(row) - row[v]} instances of {service.name}"
            yield f"cover: losing {machines[v].node} {left}, {figures.cover[m]} must be left"
    zones = dict.fromkeys(machines[v].zone for v in hosts)
    if service.across_zones and len(zones) == 1:
        yield f"zones: all hosts of {service.name} are in zone {next(iter(zones))}"

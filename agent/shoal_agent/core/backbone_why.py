"""Why is there no placement, and what would help? An answer somebody can act on, with the numbers.

*First what can be counted.* One rule against what all machines offer together: whoever breaks that is named without a
search, since nothing else could mend it. *Then what must be tried.* Where every rule could be kept alone, they are in
each other's way; so one family of rules after the other is lifted, and the ones are told without which it goes. For
each kind of room the smallest machine is sought (by halving) that would make it go if it were added. Trying costs a
search each, so it is the caller who brings the solver: ``possible`` says whether a problem has an answer.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from shoal_agent.core.backbone import MACHINES_MAX, WHOLE_MAX, BackboneProblem, CoreService, Machine, Weights
from shoal_agent.core.backbone_cost import Figures
from shoal_agent.core.problem import Link, Links
from shoal_protocol.ids import NodeId

Possible = Callable[[BackboneProblem], bool]
"""Whether a problem has an answer."""
_NAMED_MAX = 3


def why_not(problem: BackboneProblem, possible: Possible) -> list[str]:
    """One sentence per rule that stands in the way; never empty."""
    figures = Figures(problem)
    counted = [line for m in range(len(problem.services)) for line in _of_service(figures, m)]
    counted = counted or list(_of_all(figures))
    if counted:
        return counted
    bare = replace(problem, weights=Weights(), current=())
    helpful = [text for text, relaxed in _relaxations(bare) if possible(relaxed)]
    helpful += _larger(bare, possible)
    return helpful or ["no rule alone stands in the way: two at least of room, trust, hosts, cover and budget do"]


def _of_service(figures: Figures, m: int) -> Iterator[str]:
    """What service ``m`` could not have if it were alone."""
    problem, service = figures.problem, figures.problem.services[m]
    trusted = [v for v, machine in enumerate(problem.machines) if machine.trust >= service.trust]
    who = f"machines with trust >= {service.trust}" if service.trust else "machines"
    if len(trusted) < service.hosts_min:
        lack = service.hosts_min - len(trusted)
        asked = f"{service.name} must have {service.hosts_min} hosts"
        yield f"trust: {asked}, {len(trusted)} {who} are there; {lack} more would do"
        return
    able = [v for v in trusted if figures.most[m][v]]
    if len(able) < service.hosts_min:
        yield from _too_small(figures, m, trusted, able, who)
        return
    largest = sorted((figures.most[m][v] for v in able), reverse=True)[: service.hosts_max]
    whole = sum(largest)
    if whole < figures.need[m]:
        yield (
            f"demand: {service.name} needs {figures.need[m]} instances of {_needs(problem, service)}, "
            f"at most {whole} fit on {len(largest)} {who}; room for {figures.need[m] - whole} more would do"
        )
    elif whole - largest[0] < figures.cover[m]:
        yield (
            f"cover: if the largest host of {service.name} is lost, at most {whole - largest[0]} instances are left, "
            f"{figures.cover[m]} must be; room for {figures.cover[m] - whole + largest[0]} more elsewhere would do"
        )
    zones = dict.fromkeys(problem.machines[v].zone for v in able)
    if service.across_zones and len(zones) == 1:
        yield f"zones: {service.name} must be in two, all {who} with room for it are in {next(iter(zones))}"


def _too_small(figures: Figures, m: int, trusted: list[int], able: list[int], who: str) -> Iterator[str]:
    """Of which kind there is too little on too many machines for a single instance."""
    problem, service = figures.problem, figures.problem.services[m]
    lack = service.hosts_min - len(able)
    for k, kind in enumerate(problem.kinds):
        small = [v for v in trusted if figures.room[v][k] < service.needs[k]]
        if len(trusted) - len(small) >= service.hosts_min:
            continue
        rooms = sorted((figures.room[v][k] for v in trusted), reverse=True)[:_NAMED_MAX]
        yield (
            f"{kind}: {service.name} needs {service.hosts_min} x {service.needs[k]}, the {who} offer "
            f"{', '.join(map(str, rooms))}{' at most' if len(trusted) > len(rooms) else ''}{_kept(problem, trusted)}; "
            f"{lack} more of {service.needs[k]} would do"
        )
    if all(sum(figures.room[v][k] >= n for v in trusted) >= service.hosts_min for k, n in enumerate(service.needs)):
        yield (
            f"room: {service.name} needs {_needs(problem, service)} together on {service.hosts_min} {who}, "
            f"{len(able)} have all of it; {lack} more would do"
        )


def _of_all(figures: Figures) -> Iterator[str]:
    """What all services together could not have."""
    problem = figures.problem
    for k, kind in enumerate(problem.kinds):
        asked = sum(count * service.needs[k] for count, service in zip(figures.fewest, problem.services, strict=True))
        offered = sum(room[k] for room in figures.room)
        if asked > offered:
            kept = _kept(problem, list(range(len(problem.machines))))
            told = f"{kind}: all services need {asked} at least, the machines offer {offered}{kept}"
            yield f"{told}; {asked - offered} more would be needed at least"
    prices = (
        min(p for p, most in zip(*rows, strict=True) if most) for rows in zip(figures.price, figures.most, strict=True)
    )
    spent = sum(count * price for count, price in zip(figures.fewest, prices, strict=True))
    if spent > problem.budget:
        yield f"budget: the cheapest instances cost {spent} in all, {problem.budget} is allowed"
    pairs = sum(
        min(service.hosts_max, sum(most > 0 for most in row))
        for row, service in zip(figures.most, problem.services, strict=True)
    )
    if pairs < problem.pairs_min:
        yield f"pairs: {problem.pairs_min} pairs of service and host are asked for, hosts_max and room allow {pairs}"


def _relaxations(problem: BackboneProblem) -> Iterator[tuple[str, BackboneProblem]]:
    """The problem without one family of rules each, and what to say if that helps."""
    services, machines = problem.services, problem.machines

    def all_services(**changes: int | bool) -> BackboneProblem:
        changed = (replace(service, **changes) for service in services)  # type: ignore[arg-type]  # names are literals
        return replace(problem, services=tuple(changed))

    if any(machine.reserve_permille for machine in machines):
        freed = tuple(replace(machine, reserve_permille=0) for machine in machines)
        yield "reserve: without what is kept for light services it would go", replace(problem, machines=freed)
    if any(service.trust for service in services):
        yield "trust: if every machine were trusted it would go", all_services(trust=0)
    if any(service.across_zones for service in services):
        yield "zones: if the hosts of a service could be in one zone it would go", all_services(across_zones=False)
    yield "headroom: with instances for the mean load alone it would go", all_services(headroom_permille=1000)
    yield (
        "cover: if the loss of a machine could leave less than is asked for it would go",
        all_services(survive_permille=0),
    )
    yield "hosts: if a service could be on one machine it would go", all_services(hosts_min=1, survive_permille=0)
    if any(service.hosts_max < len(machines) for service in services):
        yield "hosts: if a service could be on any number of machines it would go", all_services(hosts_max=MACHINES_MAX)
    if problem.budget < WHOLE_MAX:
        yield f"budget: with more than {problem.budget} it would go", replace(problem, budget=WHOLE_MAX)
    if problem.pairs_min:
        yield f"pairs: with less than {problem.pairs_min} of them it would go", replace(problem, pairs_min=0)
    if problem.edges:
        free = replace(problem, links=Links(Link(0, WHOLE_MAX)), link_share_permille=1000)
        yield "links: if the links carried all traffic it would go", free


def _larger(problem: BackboneProblem, possible: Possible) -> list[str]:
    """For each kind of room, the smallest machine that would do if it were added, as large as any otherwise."""
    if len(problem.machines) == MACHINES_MAX:
        return []
    kinds, machines = range(len(problem.kinds)), problem.machines
    most = tuple(max(machine.capacity[k] for machine in machines) for k in kinds)
    trust = max(*(machine.trust for machine in machines), *(service.trust for service in problem.services))
    added = Machine(NodeId("one-more"), most, zone="one-more", trust=trust)
    told = []
    for k, kind in enumerate(problem.kinds):

        def goes(room: int, k: int = k) -> bool:
            capacity = (*most[:k], room, *most[k + 1 :])
            return possible(
                replace(problem, machines=(*machines, replace(added, capacity=capacity)), quality_permille=())
            )

        low, high = 0, max(most[k], 1)
        if not goes(high):
            continue
        while high - low > max(1, high // 50):
            middle = (low + high) // 2
            low, high = (low, middle) if goes(middle) else (middle, high)
        told.append(f"{kind}: one more machine of {high} would do, as large as the largest otherwise")
    return told


def _needs(problem: BackboneProblem, service: CoreService) -> str:
    return ", ".join(f"{needed} {kind}" for kind, needed in zip(problem.kinds, service.needs, strict=True) if needed)


def _kept(problem: BackboneProblem, machines: list[int]) -> str:
    """What is not on offer."""
    kept = max(problem.machines[v].reserve_permille for v in machines)
    return f" ({kept / 10:g} % or less is kept for light services)" if kept else ""

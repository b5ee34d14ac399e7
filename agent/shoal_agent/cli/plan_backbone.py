"""``shoal plan backbone``: where core services should stand, of a cluster on paper; nothing is announced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal_agent.cli.output import AsJson, print_json
from shoal_agent.core.backbone import BackboneProblem, Counts
from shoal_agent.core.backbone_cost import Cost
from shoal_agent.core.backbone_why import why_not
from shoal_agent.errors import NoPlanError, TimedOutError
from shoal_agent.highs import Limits, Solution, place, possible
from shoal_agent.shell.backbone_sketch import load_backbone


def backbone(
    file: Annotated[
        Path, typer.Argument(help="Machines, services, edges and links; TOML or JSON.", show_default=False)
    ],
    *,
    time_s: Annotated[float, typer.Option("--time", min=0.1, max=3600, help="Seconds the solver may take.")] = 10.0,
    gap: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the price that may be left to gain.")] = 0.001,
    as_json: AsJson = False,
) -> None:
    """Place core services so that any single machine may be lost, at the lowest price.

    Says what stands in the way, and what would help, if that cannot be done. Example: shoal plan backbone cluster.toml
    """
    problem = load_backbone(file)
    solution = place(problem, Limits(time_s, gap))
    if solution.counts is None or solution.cost is None:
        if not solution.proven:
            raise TimedOutError(f"no placement was found in {time_s:g} s", f"shoal plan backbone {file} --time 60")
        told = "\n  ".join(["no placement keeps every rule:", *why_not(problem, possible)])
        raise NoPlanError(told, "add or enlarge a machine as told, or ask for less; then run it again")
    if as_json:
        print_json(described(problem, solution, solution.counts, solution.cost))
    else:
        print("\n".join(told_of(problem, solution, solution.counts, solution.cost)))


def described(problem: BackboneProblem, solution: Solution, counts: Counts, cost: Cost) -> dict[str, Any]:
    """The placement as JSON."""
    placement = {
        service.name: {m.node: n for m, n in zip(problem.machines, row, strict=True) if n}
        for service, row in zip(problem.services, counts, strict=True)
    }
    terms = {name: getattr(cost, name) for name in ("run", "quality", "network", "hosts", "moving")}
    return {
        "placement": placement,
        "cost": {**terms, "total": cost.total},
        "bound": solution.bound,
        "gap": solution.gap,
        "proven": solution.proven,
        "found_by": solution.found_by,
    }


def told_of(problem: BackboneProblem, solution: Solution, counts: Counts, cost: Cost) -> Iterator[str]:
    """The placement for people."""
    width = max(len(service.name) for service in problem.services)
    for service, row in zip(problem.services, counts, strict=True):
        hosts = ", ".join(f"{n} on {m.node}" for m, n in zip(problem.machines, row, strict=True) if n)
        yield f"{service.name:{width}}  {hosts}"
    yield ""
    terms = f"{cost.run} to run - {cost.quality} for good machines + {cost.network} for the network"
    yield f"price {cost.total} = {terms} + {cost.hosts} for hosts + {cost.moving} for moving"
    sure = "proven" if solution.proven else "time was up"
    yield f"at most {100 * solution.gap:.1f} % dearer than the best there is ({sure}; found by {solution.found_by})"

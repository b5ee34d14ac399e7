"""What many runs say together: one object, fit for a script.

``agreement_s`` is how long the cluster took to agree on a plan. There is no agreement yet, so its values are null and
``undecided`` is 0; both keys stand here already, so that a script need not change.

Messages and bytes are what was delivered, over brokers and links, per node and virtual second.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal_agent.errors import ExitCode, UserError
from shoal_agent.sim.play import Outcome
from shoal_agent.sim.scenarios import ALL, SCENARIOS

FAILURES_MAX = 100
"""Failures told in full; one bug can fail every seed."""


@dataclass
class Report:
    """The sum of all runs so far."""

    scenarios: dict[str, int] = field(default_factory=dict)
    """Runs per scenario."""
    violations: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    node_seconds: float = 0.0
    messages: int = 0
    message_bytes: int = 0
    requests: int = 0

    def add(self, outcome: Outcome) -> None:
        """One more run."""
        self.scenarios[outcome.scenario] = self.scenarios.get(outcome.scenario, 0) + 1
        if outcome.nodes not in self.nodes:
            self.nodes.append(outcome.nodes)
        self.node_seconds += outcome.seconds * outcome.nodes
        self.messages += outcome.messages
        self.message_bytes += outcome.message_bytes
        self.requests += outcome.requests
        self.violations += len(outcome.violations)
        for violation in first_of_each(outcome):
            if len(self.failures) < FAILURES_MAX:
                self.failures.append(violation)

    def as_json(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The object that ``shoal sim --json`` prints."""
        return {
            "scenarios": list(self.scenarios),
            "seeds": len(seeds),
            "nodes": self.nodes[0] if len(self.nodes) == 1 else self.nodes,
            "violations": self.violations,
            "undecided": 0,
            "agreement_s": {"p50": None, "p99": None},
            "messages_per_node_s": round(self.messages / self.node_seconds, 2) if self.node_seconds else None,
            "bytes_per_node_s": round(self.message_bytes / self.node_seconds, 1) if self.node_seconds else None,
            "requests": self.requests,
            "failures": self.failures,
        }


def first_of_each(outcome: Outcome) -> Iterable[dict[str, Any]]:
    """The first violation of every oracle of one run, with the command that replays it."""
    told: dict[str, bool] = {}
    for violation in outcome.violations:
        if violation.oracle in told:
            continue
        told[violation.oracle] = True
        yield {
            "scenario": outcome.scenario,
            "seed": outcome.seed,
            "oracle": violation.oracle,
            "at_s": round(violation.at_s, 6),
            "detail": violation.detail,
            "replay": outcome.replay,
        }


def chosen(name: str) -> list[str]:
    """The scenarios that ``name`` stands for; UserError if it stands for none."""
    if name == ALL:
        return list(SCENARIOS)
    if name not in SCENARIOS:
        known = ", ".join([*SCENARIOS, ALL])
        raise UserError(f"no scenario {name!r}", f"one of: {known}", ExitCode.USAGE)
    return [name]


def seeds_of(text: str) -> range:
    """``A..B`` (both included) or one number, as a range; UserError otherwise."""
    first, dots, last = text.partition("..")
    if not first.isdecimal() or (dots and not last.isdecimal()):
        raise UserError(f"no range of seeds: {text!r}", "--seeds 0..99, or one number", ExitCode.USAGE)
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise UserError(f"an empty range of seeds: {text!r}", "--seeds 0..99", ExitCode.USAGE)
    return found

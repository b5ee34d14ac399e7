"""What many runs say together: one object, fit for a script.

``agreement_s`` is how long it took from whatever called for another plan to the certificate of one; null where nothing
did. ``undecided`` counts runs that ended without an agreed and active plan, ``violations`` everything else that was
broken. Where all scenarios are run, those in which more nodes lie than the terms allow for are counted apart
(``beyond``): in so many of their ``runs`` an oracle ``fired``, as it should in some. Messages and bytes are what was
delivered, over brokers and links, per node and virtual second; where worlds of several sizes were run, they and
``nodes`` are lists.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal_agent.errors import ExitCode, UserError
from shoal_agent.sim.outcome import Outcome
from shoal_agent.sim.play import NODES_MIN
from shoal_agent.sim.scenarios import ALL, SCENARIOS

FAILURES_MAX = 100
"""Failures told in full; one bug can fail every seed."""
NODES_MAX = 10_000


@dataclass
class Traffic:
    """What was delivered in all worlds of one size."""

    node_seconds: float = 0.0
    messages: int = 0
    message_bytes: int = 0

    def messages_per_node_s(self) -> float:
        """0 before the first run."""
        return round(self.messages / self.node_seconds, 2) if self.node_seconds else 0.0

    def bytes_per_node_s(self) -> float:
        """0 before the first run."""
        return round(self.message_bytes / self.node_seconds, 1) if self.node_seconds else 0.0


@dataclass
class Report:
    """The sum of all runs so far. ``apart``: what happens outside the fault model is no failure."""

    apart: bool = False
    scenarios: dict[str, int] = field(default_factory=dict)
    """Runs per scenario."""
    violations: int = 0
    undecided: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    """Runs per scenario in which something was broken or missing."""
    traffic: dict[int, Traffic] = field(default_factory=dict)
    """By nodes."""
    agreements: list[float] = field(default_factory=list)
    requests: int = 0
    beyond_runs: int = 0
    """Runs counted apart."""
    beyond_fired: int = 0

    def is_apart(self, outcome: Outcome) -> bool:
        """Whether violations in ``outcome`` are what its scenario is for."""
        return self.apart and SCENARIOS[outcome.scenario].beyond

    def add(self, outcome: Outcome) -> None:
        """One more run."""
        self.scenarios[outcome.scenario] = self.scenarios.get(outcome.scenario, 0) + 1
        traffic = self.traffic.setdefault(outcome.nodes, Traffic())
        traffic.node_seconds += outcome.seconds * outcome.nodes
        traffic.messages += outcome.messages
        traffic.message_bytes += outcome.message_bytes
        self.requests += outcome.requests
        self.agreements += outcome.agreements
        if self.is_apart(outcome):
            self.beyond_runs += 1
            self.beyond_fired += bool(outcome.violations)
            return
        self.violations += outcome.broken
        self.undecided += outcome.undecided
        if outcome.violations:
            self.failed[outcome.scenario] = self.failed.get(outcome.scenario, 0) + 1
        for failure in first_of_each(outcome):
            if len(self.failures) < FAILURES_MAX:
                self.failures.append({key: failure[key] for key in ("scenario", "seed", "oracle", "replay")})

    def as_json(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The object that ``shoal sim --json`` prints."""
        traffic = [self.traffic[nodes] for nodes in sorted(self.traffic)]
        return {
            "scenarios": list(self.scenarios),
            "seeds": len(seeds),
            "nodes": _one_or_all(sorted(self.traffic)),
            "violations": self.violations,
            "undecided": self.undecided,
            "agreement_s": {"p50": percentile(self.agreements, 50), "p99": percentile(self.agreements, 99)},
            "messages_per_node_s": _one_or_all([each.messages_per_node_s() for each in traffic]),
            "bytes_per_node_s": _one_or_all([each.bytes_per_node_s() for each in traffic]),
            "failures": self.failures,
            "beyond": {"runs": self.beyond_runs, "fired": self.beyond_fired},
        }


def _one_or_all(values: list[Any]) -> Any:  # noqa: ANN401 - a value or the list of them, for JSON
    return values[0] if len(values) == 1 else values


def percentile(values: Sequence[float], percent: int) -> float | None:
    """The least value that ``percent`` of all do not exceed, to the millisecond; None if there is none."""
    if not values:
        return None
    return round(sorted(values)[-(-len(values) * percent // 100) - 1], 3)


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
    found = _range_of(text)
    if found is None:
        raise UserError(f"no range of seeds: {text!r}", "--seeds 0..99, or one number", ExitCode.USAGE)
    return found


def nodes_of(text: str) -> list[int]:
    """``A..B`` (both included) or numbers with commas between them, as sizes of worlds; UserError otherwise."""
    parts = [_range_of(part) for part in text.split(",")]
    found = [nodes for part in parts if part is not None for nodes in part]
    if None in parts or not all(NODES_MIN <= nodes <= NODES_MAX for nodes in found):
        hint = f"--nodes 5, --nodes 3..7 or --nodes 10,100,1000; {NODES_MIN} to {NODES_MAX}"
        raise UserError(f"no number of nodes: {text!r}", hint, ExitCode.USAGE)
    return list(dict.fromkeys(found))


def _range_of(text: str) -> range | None:
    first, dots, last = text.partition("..")
    if not first.isdecimal() or (dots and not last.isdecimal()):
        return None
    return range(int(first), int(last or first) + 1) or None

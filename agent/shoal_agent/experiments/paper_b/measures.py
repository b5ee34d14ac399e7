"""What a run amounts to, by definitions fixed before anything ran.

    every arrival counts   a request that failed, was refused or was given up took PATIENCE_S; it is in every mean
    qos                    answered within the SLO, of all arrivals
    failed                 not answered within PATIENCE_S, of all arrivals
    outage                 between two answers: from the moment somebody waits (or the last answer, if that was later)
                           to the next answer
    incident               an outage of a second or more; downtime is their seconds

Mean latency over answers alone flatters whoever drops the hard ones, and counting incidents alone flatters whoever is
down once, for long: so both are told with their counterpart. Busy shares are of the hour, over the machines that may
host, in the profile's work; how much of a machine others take is no merit of ours and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shoal_agent.experiments.paper_b import cluster
from shoal_agent.experiments.paper_b.serving import PATIENCE_S, SLO_S, Outcome, Request
from shoal_agent.experiments.paper_b.trace import HOUR_S
from shoal_agent.experiments.statistics import percentile

INCIDENT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one method on one trace."""

    qos: float
    failed: float
    refused: float
    incidents_per_h: float
    downtime_s_per_h: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    breaches: float
    mixed: float
    restarts_per_h: float
    epochs_per_h: float
    moved_mb_per_h: float
    busy: float


def figures(outcome: Outcome, length_s: float, fetched_bytes: int, epochs: int) -> Figures:
    """Everything that is reported."""
    hours = length_s / HOUR_S
    requests = outcome.requests
    times_s = [PATIENCE_S if r.answered is None else r.answered - r.arrived for r in requests]
    count = max(1, len(requests))
    outages_s = [took_s for took_s in outages(requests) if took_s >= INCIDENT_S]
    return Figures(
        qos=sum(time_s <= SLO_S for time_s in times_s) / count,
        failed=sum(r.answered is None for r in requests) / count,
        refused=outcome.refused / count,
        incidents_per_h=len(outages_s) / hours,
        downtime_s_per_h=sum(outages_s) / hours,
        mean_ms=1000 * sum(times_s) / count,
        p50_ms=1000 * percentile(times_s, 50),
        p95_ms=1000 * percentile(times_s, 95),
        breaches=outcome.breaches,
        mixed=outcome.mixed,
        restarts_per_h=outcome.restarts / hours,
        epochs_per_h=epochs / hours,
        moved_mb_per_h=fetched_bytes / 1e6 / hours,
        busy=sum(outcome.busy_s[node] for node in cluster.EDGE) / len(cluster.EDGE) / length_s,
    )


def outages(requests: Sequence[Request]) -> list[float]:
    """How long somebody waited without anybody being answered, for every pair of answers in a row, and at the end."""
    answers = sorted((r.answered, r.arrived) for r in requests if r.answered is not None)
    given_up = sorted(r.arrived for r in requests if r.answered is None)
    ends = [answered for answered, _ in answers]
    if given_up:
        ends.append(max(ends[-1] if ends else 0.0, given_up[-1] + PATIENCE_S))
    starts = [0.0, *ends][: len(ends)]
    waiting = _waiting(answers, given_up, starts, ends)
    return [end - max(start, first) for start, end, first in zip(starts, ends, waiting, strict=True) if first < end]


def _waiting(
    answers: Sequence[tuple[float, float]], given_up: Sequence[float], starts: Sequence[float], ends: Sequence[float]
) -> list[float]:
    """For each span, since when the request has waited that came first of those not answered before it began."""
    oldest = [answers[index][1] if index < len(answers) else float("inf") for index in range(len(ends))]
    for index in range(len(oldest) - 2, -1, -1):
        oldest[index] = min(oldest[index], oldest[index + 1])
    lost = 0
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        while lost < len(given_up) and given_up[lost] + PATIENCE_S <= start:
            lost += 1
        if lost < len(given_up) and given_up[lost] < end:
            oldest[index] = min(oldest[index], given_up[lost])
    return oldest

"""An explanation as JSON: what ``GET /shoal/v1/explain`` answers and ``shoal explain`` tells in words.

What the core gathered is told in plain values; what only the planner can answer (how much better the best plan is now,
and what each node that was left out would cost) is added by whoever had it solved. Times are in seconds, scores in
microseconds per token answered, keys are only ever added.
"""

from typing import Any

from shoal_agent.core.case import Account
from shoal_agent.core.costs import idle_permille
from shoal_agent.core.explain import Explanation, Outcome
from shoal_agent.core.problem import Demand, Infeasible, Split, SplitStage
from shoal_agent.core.standbys import Backing
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.messages import Plan

Json = dict[str, Any]


def explanation_json(told: Explanation, best: Split | Infeasible | None, now: Instant) -> Json:
    """``told`` as JSON; ``best`` is the planner's answer to its problem, None if there was none to ask."""
    plan, decided = told.plan, told.decided
    return {
        "node": told.node,
        "deployment": told.deployment,
        "epoch": plan.epoch,
        "epochs": list(told.epochs),
        "plan": told.digest.hex(),
        "parent": plan.parent.hex(),
        "cause": plan.cause.name,
        "mode": plan.mode.name,
        "reason": plan.reason,
        "score_us": plan.score_us,
        "staging_s_max": plan.staging_ms / 1000,
        "terms": _terms(plan),
        "stages": [_stage(told, index) for index in range(len(plan.stages))],
        "moved": _moved(told.before, plan),
        "voters": list(plan.voters),
        "decided": None if decided is None else {"round": decided.round, "ballots": list(decided.voters)},
        "outcome": None if told.outcome is None else _outcome(told.outcome, now),
        "now": None if told.account is None else _present(told, told.account, best),
        "story": [
            {
                "number": entry.number,
                "ago_s": round(now - entry.at, 3),
                "subject": entry.subject,
                "text": entry.text,
                "cause": entry.cause,
            }
            for entry in told.story
        ],
    }


def _terms(plan: Plan) -> Json:
    terms = plan.terms
    return {
        "objective": terms.objective.name.lower(),
        "stages_min": terms.stages_min,
        "stages_max": terms.stages_max,
        "sessions": terms.sessions,
        "zones": list(terms.zones),
        "faulty": terms.faulty,
        "gain": terms.gain_permille / 1000,
        "standbys": terms.standbys,
        "loss": terms.loss_micronats / 1_000_000,
        "guarded": [
            {"first_block": g.first_block, "last_block": g.last_block, "zones": list(g.zones)} for g in terms.guarded
        ],
    }


def _stage(told: Explanation, index: int) -> Json:
    stage, outcome = told.plan.stages[index], told.outcome
    reports = {} if outcome is None else dict(outcome.reports)
    return {
        "node": stage.node,
        "first_block": stage.first_block,
        "last_block": stage.last_block,
        "width": stage.width.name.lower(),
        "standbys": [
            {
                "node": node,
                "open": None if outcome is None else node in outcome.open[index],
                "detail": reports[node].detail if node in reports else "",
            }
            for node in stage.standbys
        ],
    }


def _backing(backing: Backing | None) -> list[Json]:
    """For each stage the standbys it would get now, and why no more; empty if the model is not known here."""
    if backing is None:
        return []
    whys = {lack.stage: lack.why for lack in backing.lacks}
    return [
        {
            "first_block": stage.first_block,
            "last_block": stage.last_block,
            "standbys": list(stage.standbys),
            "why_no_more": whys.get(index),
        }
        for index, stage in enumerate(backing.stages)
    ]


def _moved(before: Plan | None, plan: Plan) -> list[Json]:
    """Runs of blocks whose owner changed with this plan."""
    runs: list[Json] = []
    old = {} if before is None else owners(before)
    for block, node in sorted(owners(plan).items()):
        source = old.get(block)
        if source == node:
            continue
        last = runs[-1] if runs else None
        if last is not None and (last["last_block"], last["source"], last["target"]) == (block - 1, source, node):
            last["last_block"] = block
        else:
            runs.append({"first_block": block, "last_block": block, "source": source, "target": node})
    return runs


def owners(plan: Plan) -> dict[int, NodeId]:
    """Who holds each block."""
    return {block: stage.node for stage in plan.stages for block in range(stage.first_block, stage.last_block + 1)}


def _outcome(outcome: Outcome, now: Instant) -> Json:
    return {
        "age_s": round(outcome.age_s, 3),
        "serving": outcome.serving,
        "served_after_s": None if outcome.served_s is None else round(outcome.served_s, 3),
        "hosts": [
            {
                "node": node,
                "phase": report.phase.name,
                "detail": report.detail,
                "since_s": round(now - report.since, 3),
            }
            for node, report in outcome.reports
        ],
    }


def _present(told: Explanation, account: Account, best: Split | Infeasible | None) -> Json:
    current = told.current
    outlook = account.outlook
    return {
        "votes": account.votes,
        "trigger": account.trigger,
        "considered": account.considered,
        "held_s": round(account.held_s, 3),
        "cool_down_s": round(account.cool_down_s, 3),
        "locked_by": account.locked,
        "validity_s": round(account.validity_s, 3),
        "score_us": None if current is None else current.score_us,
        "demand": None if outlook is None else demand_json(outlook.problem.demand),
        "best": _best(best),
        "backing": _backing(account.backing),
        "candidates": []
        if outlook is None
        else [
            {
                "node": candidate.node,
                "macs_per_s": candidate.speed_macs_per_s * idle_permille(candidate) // 1000,
                "memory_bytes": candidate.memory_bytes,
                "in_plan": any(stage.node == candidate.node for stage in told.plan.stages),
                "stores_package": outlook.stored.get(candidate.node, False),
                "score_us_with": _with(candidate.node, best),
            }
            for candidate in outlook.problem.candidates
        ],
        "left_out": [] if outlook is None else [{"node": node, "why": why} for node, why in outlook.left_out],
    }


def demand_json(demand: Demand) -> Json:
    """What is asked of a deployment."""
    return {
        "prompt_tokens_per_s": demand.prompt_tokens_per_ks / 1000,
        "answer_tokens_per_s": demand.answer_tokens_per_ks / 1000,
    }


def stage_json(stage: SplitStage) -> Json:
    """One stage of a split, with what it costs."""
    return {
        "node": stage.node,
        "first_block": stage.first_block,
        "last_block": stage.last_block,
        "time_us": stage.time_us,
        "link_us": stage.link_us,
        "memory_bytes": stage.memory_bytes,
    }


def _best(best: Split | Infeasible | None) -> Json | None:
    if best is None:
        return None
    if isinstance(best, Infeasible):
        return {"score_us": None, "stages": [], "why_not": best.reason}
    return {"score_us": best.score_us, "stages": [stage_json(stage) for stage in best.stages], "why_not": None}


def _with(node: NodeId, best: Split | Infeasible | None) -> int | None:
    """The best score of any plan that gives ``node`` a stage; None if there is none, or nobody looked."""
    if not isinstance(best, Split):
        return None
    if any(stage.node == node for stage in best.stages):
        return best.score_us
    return next((rival.score_us for rival in best.rivals if rival.node == node), None)

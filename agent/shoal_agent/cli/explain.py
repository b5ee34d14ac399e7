"""``shoal explain``: why is this the plan? In sentences, with the numbers.

The answer is that of one agent: what it decided, saw and did. Much of it was written by other nodes, so it is text and
never a control sequence of a terminal. With --json it is the API's answer, whole.
"""

from collections.abc import Iterator
from textwrap import fill
from typing import Annotated, Any, Final

import typer

from shoal_agent.cli.client import DEFAULT_API, Api, Key, api_client, get_json
from shoal_agent.cli.output import AsJson, print_json
from shoal_agent.errors import FailedError

WIDTH: Final = 100
NODE_CHARS: Final = 8
STORY_LINES: Final = 40
"""The last of it; --json has all."""

_MINUTE_S: Final = 60
_HOUR_S: Final = 3600

Json = dict[str, Any]

_CAUSES: Final[dict[str, str]] = {
    "GENESIS": "An operator founded the deployment with it.",
    "HOST_LOST": "It repairs: a host or a voter was lost.",
    "NOT_READY": "It repairs: a host of the epoch before could not open its blocks.",
    "SLOW": "It repairs: deadlines were missed.",
    "GAIN": "It improves: another split was better by enough, for long enough.",
    "THIN": "It adds standbys: fewer were there than the terms ask for, and others had room.",
    "FRAIL": "It makes the deployment survive the loss of any one node: primaries had to move for that.",
    "RECOVERY": "Operators replaced a plan whose voters were lost.",
}


def explain(
    epoch: Annotated[int | None, typer.Argument(min=0, help="The newest if not given.")] = None,
    *,
    deployment: Annotated[str, typer.Option(help="Its name, where there are several.")] = "",
    api: Api = DEFAULT_API,
    key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Say why the plan is as it is: what caused it, what was considered, who was left out.

    Example: shoal explain --deployment smollm2-135m-instruct
    """
    query = [f"epoch={epoch}"] if epoch is not None else []
    query += [f"deployment={deployment}"] if deployment else []
    with api_client(api, key) as client:
        told = get_json(client, "/shoal/v1/explain" + (f"?{'&'.join(query)}" if query else ""))
    if as_json:
        print_json(told)
        return
    try:
        text = "\n".join(prose(told))
    except (KeyError, TypeError, ValueError) as fault:
        raise FailedError(f"an explanation this version cannot read: {fault!r}", "shoal explain --json") from fault
    print("".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text))


def prose(told: Json) -> Iterator[str]:
    """The explanation in paragraphs."""
    yield f"{told['deployment']}, epoch {told['epoch']}, as {_name(told['node'])} sees it"
    yield ""
    cause = _CAUSES.get(str(told["cause"])) or str(told["cause"])
    yield _paragraph(cause + (f" {told['reason']}." if told["reason"] else ""))
    if told["mode"] == "BREAK_BEFORE_MAKE":
        yield _paragraph("Memory did not hold old and new blocks at once: the old epoch was broken off before.")
    yield ""
    yield "Stages:"
    for stage in told["stages"]:
        yield _paragraph(f"blocks {_blocks(stage)} on {_name(stage['node'])}; {_standbys(stage)}", "  ")
    yield _paragraph(_moved(told))
    yield ""
    yield from _decision(told)
    yield from _outcome(told["outcome"], told["staging_s_max"])
    yield ""
    if told["now"] is not None:
        yield from _present(told["now"])
        yield from _lacks(told)
        yield _paragraph(f"A change that is no repair must be {100 * told['terms']['gain']:.0f} % better.", "  ")
        yield ""
    yield from _story(told["story"])


def _standbys(stage: Json) -> str:
    """Who could take the stage's place, and who cannot yet."""
    lines = []
    for each in stage.get("standbys", ()):
        detail = f" ({each['detail']})" if each["detail"] else ""
        lines.append(_name(each["node"]) + (f", not open yet{detail}" if each["open"] is False else ""))
    return f"standby: {'; '.join(lines)}" if lines else "no standby"


def _lacks(told: Json) -> Iterator[str]:
    """Stages that have fewer standbys than the terms ask for, and why."""
    wanted = told["terms"].get("standbys", 0)
    for stage, now in zip(told["stages"], told["now"].get("backing", ()), strict=False):
        named, possible = len(stage.get("standbys", ())), len(now["standbys"])
        head = f"Blocks {_blocks(stage)} have {named} of {wanted} standbys"
        if named < wanted and possible <= named:
            yield _paragraph(f"{head}: {now['why_no_more']}.", "  ")
        elif named < wanted:
            who = ", ".join(_name(node) for node in now["standbys"])
            yield _paragraph(f"{head}; now {who} could be, which its voters will notice.", "  ")


def _moved(told: Json) -> str:
    moved = told["moved"]
    if told["epoch"] == 0:
        return "It is the first plan: every block was opened."
    if not moved:
        return "No block changed its owner."
    runs = [
        f"{_blocks(run)} went from {_name(run['source']) if run['source'] else 'nobody'} to {_name(run['target'])}"
        for run in moved
    ]
    return f"Against the epoch before: blocks {'; '.join(runs)}. Everything else stayed where it was."


def _decision(told: Json) -> Iterator[str]:
    voters = ", ".join(_name(voter) for voter in told["voters"])
    decided = told["decided"]
    if decided is not None:
        ballots = ", ".join(_name(node) for node in decided["ballots"])
        yield _paragraph(f"Decided in round {decided['round']} by the ballots of {ballots}.")
    yield _paragraph(
        f"The next plan is decided by {voters}."
        if voters
        else "Nobody votes: this plan cannot be replaced by agreement."
    )


def _outcome(outcome: Json | None, staging_s_max: float) -> Iterator[str]:
    if outcome is None:
        yield "What became of it is too long ago."
        return
    after = outcome["served_after_s"]
    ready = "not every host was ready" if after is None else f"every host was ready after {after:.2f} s"
    serves = "it serves" if outcome["serving"] else "it does not serve"
    yield _paragraph(
        f"Known here for {_span(outcome['age_s'])}; {ready} (allowed: {staging_s_max:.0f} s); now {serves}."
    )
    for host in outcome["hosts"]:
        detail = f": {host['detail']}" if host["detail"] else ""
        yield f"  {_name(host['node'])} {host['phase'].lower()} for {_span(host['since_s'])}{detail}"


def _present(now: Json) -> Iterator[str]:
    yield "How it looks now:"
    if now["trigger"]:
        yield _paragraph(f"Something is wrong: {now['trigger']}.", "  ")
    yield from _comparison(now)
    if now["locked_by"]:
        yield _paragraph(f"{_name(now['locked_by'])} holds reconfig.lock: whatever is no repair waits.", "  ")
    if now["cool_down_s"] > 0:
        yield _paragraph(f"The plan is new: for {now['cool_down_s']:.0f} s more nothing but repairs is proposed.", "  ")
    if now["held_s"] > 0:
        yield _paragraph(f"A better plan has been there for {_span(now['held_s'])}.", "  ")
    if now["considered"]:
        yield _paragraph(f"Last considered here: {now['considered']}.", "  ")
    if not now["votes"]:
        yield _paragraph("This node has no vote about the next plan.", "  ")


def _comparison(now: Json) -> Iterator[str]:
    """The plan against the best there could be, and every node with and without it."""
    score, best = now["score_us"], now["best"]
    if best is None:
        yield "  This node does not know the model and cannot compare."
        return
    demand = now.get("demand")
    if demand and any(demand.values()):
        prompts, answers = demand["prompt_tokens_per_s"], demand["answer_tokens_per_s"]
        asked = f"{prompts:.1f} tokens of prompts and {answers:.1f} of answers are asked a second, through all nodes"
        yield _paragraph(f"Prices count the line that clients make: {asked}.", "  ")
    present = "it cannot be priced" if score is None else f"it takes {_ms(score)}"
    if best["score_us"] is None:
        yield _paragraph(f"Of this plan: {present}. No other is possible: {best['why_not']}", "  ")
    else:
        split = ", ".join(f"{_blocks(stage)} on {_name(stage['node'])}" for stage in best["stages"])
        yield _paragraph(f"Of this plan: {present}. The best there is takes {_ms(best['score_us'])}: {split}.", "  ")
    for each in now["candidates"]:
        power = f"{each['macs_per_s'] / 1e9:.1f} GMAC/s, {each['memory_bytes'] / 2**30:.1f} GiB"
        yield f"  {_name(each['node'])} ({power}): {_use(each, now)}"
    yield from (f"  {_name(each['node'])}: left out, it {each['why']}" for each in now["left_out"])


def _use(each: Json, now: Json) -> str:
    """What a node is to this plan, and what this plan would be with it."""
    if each["in_plan"]:
        return "has a stage"
    score, present = each["score_us_with"], now["score_us"]
    if score is None or present is None:
        return "left out: no plan with it fits, or it is not among the strongest"
    percent = 100 * (present - score) / max(present, 1)
    change = f"{percent:.1f} % better" if percent > 0 else f"{-percent:.1f} % worse" if percent < 0 else "no better"
    return f"left out: {_ms(score)} with it, {_ms(present)} without: {change}"


def _story(story: list[Json]) -> Iterator[str]:
    if not story:
        return
    yield "What happened, as this node remembers it:"
    for entry in story[-STORY_LINES:]:
        cause = f" (because of {entry['cause']})" if entry["cause"] is not None else ""
        head = f"  {entry['number']:>4}  {_span(entry['ago_s'])} ago  {_subject(entry['subject'])}: "
        yield fill(entry["text"] + cause, WIDTH, initial_indent=head, subsequent_indent=" " * 8)


def _subject(subject: str) -> str:
    return subject if "/" in subject else _name(subject)


def _paragraph(text: str, indent: str = "") -> str:
    return fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)


def _name(node: str) -> str:
    return node[:NODE_CHARS]


def _blocks(part: Json) -> str:
    return f"{part['first_block']}-{part['last_block']}"


def _ms(score_us: int) -> str:
    return f"{score_us / 1000:.2f} ms/token"


def _span(seconds: float) -> str:
    if seconds < 2 * _MINUTE_S:
        return f"{seconds:.1f} s"
    return f"{seconds / _MINUTE_S:.0f} min" if seconds < 2 * _HOUR_S else f"{seconds / _HOUR_S:.1f} h"

"""How `shoal demo` ends: a host is killed in the middle of an answer, and the answer goes on.

The same greedy question was answered before, undisturbed, so what comes now is known beforehand, token by token. When
a third of it is there, the process of one host gets SIGKILL: it says nothing to anybody. Then two things are watched at
once: the stream, from outside, as its client; and what the others decide, in the ingress's view of the cluster. How the
session came back is told by the ingress's story, which is what `shoal explain` shows.

Whatever is not as it was promised (the stream breaks, or one token is another one) is a FailedError. That the others
could not decide, or have nowhere to put a standby, is no failure of the answer: it is told, with the reason.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from typing import Any, Final

import httpx

from shoal_agent.cli.demo_ask import Answer, Question, Show, ask
from shoal_agent.errors import FailedError
from shoal_protocol.ids import NodeId
from shoal_protocol.votes import quorum

TOKENS_MIN: Final = 8
"""Of a shorter answer too little is left when a third of it was read: it may be over before the process is."""
STANDBY_S_MAX: Final = 15.0
"""Standbys open a second or two after the plan serves. If none does, the answer waits for another plan, which works."""
DECIDE_S_MAX: Final = 45.0
"""A loss is noticed, decided and repaired in two or three seconds on an idle machine; a busy one takes ten."""
COME_BACK_S_MAX: Final = 60.0
"""An agent starts in two seconds on an idle machine."""
LOOK_S: Final = 0.1
"""Nobody calls us when an agent has changed its mind."""

Json = dict[str, Any]
Tell = Callable[[str], None]

_WENT_ON: Final = re.compile(
    r"session (?P<session>[0-9a-f]{8}) went on at position \d+ by (?P<way>\w+) after \d+ ms "
    r"\(detect (?P<detect>\d+), switch (?P<switch>\d+), rebuild (?P<rebuild>\d+);"
)
"""What ``core.chronicle`` tells when a stream goes on; a test holds the two together."""
_MOVE: Final = "move"
_WAYS: Final = {
    "kv": "from the copy of the KV that its standby had, a few tokens behind",
    "replay": "by running again what was missing, token by token",
    "prefill": "by running the whole text again in chunks, for want of time",
    _MOVE: "from what the others had of it, once they had another plan",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked, through whom, and how to kill a node."""

    client: httpx.AsyncClient
    """Of the ingress's API."""
    ingress: NodeId
    question: Question
    kill: Callable[[NodeId], None]


@dataclass(frozen=True, slots=True)
class Return:
    """How the session went on, as the ingress tells; ``way`` is None if it did not have to."""

    way: str | None = None
    detect_s: float | None = None
    switch_s: float | None = None
    rebuild_s: float | None = None
    moved: bool = False
    """Later, and on purpose: to the new plan, between two tokens."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the others decided; seconds are counted from the kill, None: it did not come to that."""

    epoch: int | None = None
    reason: str = ""
    decided_s: float | None = None
    serving_s: float | None = None
    redundant_s: float | None = None
    """Every stage has a standby that could serve now."""
    why_not: str = ""
    """Why there is no new plan, or no standby for each of its stages."""
    stages: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Chaos:
    """All there is to tell. ``gap_s`` is the longest pause the client saw after the kill, ``usual_s`` what is usual."""

    node: NodeId
    first_block: int
    last_block: int
    after_tokens: int
    gap_s: float | None
    usual_s: float
    came_back: Return
    decision: Decision

    def as_json(self) -> Json:
        """Flat, times in seconds; names are only ever added."""
        decision = asdict(self.decision)
        stages = decision.pop("stages")
        seconds = {name: decision.pop(name) for name in ("decided_s", "serving_s", "redundant_s")}
        return {
            "node": self.node,
            "first_block": self.first_block,
            "last_block": self.last_block,
            "after_tokens": self.after_tokens,
            "identical": True,  # or there would be an error instead
            "gap_s": _rounded(self.gap_s),
            "usual_s": _rounded(self.usual_s),
            **asdict(self.came_back),
            **{name: value or None for name, value in decision.items()},
            **{name: _rounded(value) for name, value in seconds.items()},
            "plan": [{key: stage[key] for key in ("node", "first_block", "last_block")} for stage in stages] or None,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


@dataclass(slots=True)
class _Blow:
    """The moment of the kill."""

    at: float = 0.0
    after_tokens: int = 0
    struck: asyncio.Event = field(default_factory=asyncio.Event)


async def lose_one(target: Target, before: Answer, show: Show, tell: Tell) -> Chaos:
    """Ask again what ``before`` is the answer to, kill somebody meanwhile, and see what comes of it."""
    scene = await _get(target.client, "/shoal/v1/explain")
    victim = victim_of(scene["stages"], target.ingress)
    name = f"{victim['node'][:8]} (blocks {victim['first_block']} - {victim['last_block']})"
    await _standby(target.client, victim["node"])
    tell(f"\nThe same question again. In mid-sentence {name} will be killed:")
    blow = _Blow()
    watch = asyncio.ensure_future(_watch(target.client, scene, victim["node"], blow))
    try:
        after = await _ask_again(target, before, victim["node"], blow, show, tell)
        came_back = return_of(await _story(target.client, scene["epoch"]), after.session)
        refuse_another(before, after, came_back)
        gap_s, usual_s = after.longest_pause_s(blow.at), before.usual_pause_s
        _tell_return(tell, after, gap_s, usual_s, came_back)
        decision = await watch
        _tell_decision(tell, decision)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
    blocks = victim["first_block"], victim["last_block"]
    return Chaos(victim["node"], *blocks, blow.after_tokens, gap_s, usual_s, came_back, decision)


def victim_of(stages: Sequence[Json], ingress: NodeId) -> Json:
    """The stage nearest to the middle of the model that is not the ingress's: it has neighbours on both sides."""
    middle = (len(stages) - 1) / 2
    order = sorted(range(len(stages)), key=lambda index: (abs(index - middle), index))
    return next(stages[index] for index in order if stages[index]["node"] != ingress)


# --- the stream -------------------------------------------------------------------------------------------------------


async def _ask_again(target: Target, before: Answer, victim: NodeId, blow: _Blow, show: Show, tell: Tell) -> Answer:
    wanted = len(before.token_ids) // 3

    def each(answer: Answer, text: str) -> None:
        show(answer, text)
        count = len(answer.token_ids)
        if count >= wanted and not blow.struck.is_set():
            target.kill(victim)
            blow.at, blow.after_tokens = time.monotonic(), count
            blow.struck.set()
            tell(f"\n✗ {victim[:8]} killed after {count} tokens")

    try:
        after = await ask(target.client, target.question, each)
    except FailedError as fault:
        raise FailedError(f"the answer did not survive the loss of {victim[:8]}: {fault.message}") from fault
    tell("")
    return after


def refuse_another(before: Answer, after: Answer, came_back: Return) -> None:
    """FailedError if the second answer is not the first one."""
    if (after.token_ids, after.text) == (before.token_ids, before.text):
        return
    pairs = zip(before.token_ids, after.token_ids, strict=False)
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
    raise FailedError(
        f"after the loss the answer went on differently: {len(before.token_ids)} tokens undisturbed, "
        f"{len(after.token_ids)} with the loss, the same {same}; it came back by {came_back.way}"
    )


def return_of(story: Iterable[str], session: str) -> Return:
    """What the lines of the ingress's story say about ``session``."""
    found = [match for line in story if (match := _WENT_ON.search(line)) and session.startswith(match["session"])]
    if not found:
        return Return()
    first, *later = found
    detect_s, switch_s, rebuild_s = (int(first[part]) / 1000 for part in ("detect", "switch", "rebuild"))
    return Return(first["way"], detect_s, switch_s, rebuild_s, any(match["way"] == _MOVE for match in later))


# --- what the others decide -------------------------------------------------------------------------------------------


async def _watch(client: httpx.AsyncClient, scene: Json, victim: NodeId, blow: _Blow) -> Decision:
    """Look at the newest plan until it needs nothing more, or nothing can come."""
    await blow.struck.wait()
    left = [voter for voter in scene["voters"] if voter != victim]
    needed = quorum(len(scene["voters"]), scene["terms"]["faulty"])
    if len(left) < needed:
        why = f"{needed} of {len(scene['voters'])} voters must agree to a new plan, {len(left)} of them live"
        return Decision(why_not=why)
    seen = Decision(why_not=f"the others have not come to that within {DECIDE_S_MAX:.0f} s")
    while (now_s := time.monotonic() - blow.at) < DECIDE_S_MAX:
        plan = await _newest(client)
        if plan is not None and plan["epoch"] > scene["epoch"]:
            seen = step(seen, plan, now_s)
            if seen.serving_s is not None and _settled(plan):
                break
        await asyncio.sleep(LOOK_S)
    return await _explained(client, seen)


def step(seen: Decision, plan: Json, now_s: float) -> Decision:
    """What is known after a look at the newest ``plan``."""
    if seen.epoch != plan["epoch"]:
        seen = replace(seen, epoch=plan["epoch"], decided_s=now_s, stages=tuple(plan["stages"]))
    if seen.serving_s is None and plan["phase"] == "SERVING":
        seen = replace(seen, serving_s=now_s)
    if seen.redundant_s is None and all(_open(stage) for stage in plan["stages"]):
        seen = replace(seen, redundant_s=now_s, why_not="")
    return seen


def _open(stage: Json) -> bool:
    return any(standby["open"] for standby in stage["standbys"])


def _settled(plan: Json) -> bool:
    """Every standby that it names could serve."""
    return all(standby["open"] for stage in plan["stages"] for standby in stage["standbys"])


async def _explained(client: httpx.AsyncClient, seen: Decision) -> Decision:
    """``seen`` with the reason of its plan, and why a stage has no standby."""
    if seen.epoch is None:
        return seen
    told = await _get(client, f"/shoal/v1/explain?epoch={seen.epoch}")
    whys = [each["why_no_more"] for each in (told["now"] or {}).get("backing", ()) if each["why_no_more"]]
    why_not = seen.why_not
    if seen.redundant_s is None and not all(stage["standbys"] for stage in seen.stages):
        why_not = f"the plan does not name one for every stage{': ' if whys else ''}{'; '.join(dict.fromkeys(whys))}"
    return replace(seen, reason=told["reason"], why_not=why_not)


async def _standby(client: httpx.AsyncClient, victim: NodeId) -> None:
    """Wait until somebody could take the victim's place, if the plan names anybody."""
    until = time.monotonic() + STANDBY_S_MAX
    while time.monotonic() < until:
        plan = await _newest(client)
        stages = [] if plan is None else [stage for stage in plan["stages"] if stage["node"] == victim]
        if stages and all(_open(stage) or not stage["standbys"] for stage in stages):
            return
        await asyncio.sleep(LOOK_S)


async def come_back(client: httpx.AsyncClient, node: NodeId, start_again: Callable[[NodeId], Awaitable[None]]) -> str:
    """Start ``node`` again, and wait until the ingress hears its next life; the address of its API."""
    before = await _heard(client, node)
    await start_again(node)
    until = time.monotonic() + COME_BACK_S_MAX
    while time.monotonic() < until:
        now = await _heard(client, node)
        if now is not None and now["alive"] and (before is None or now["incarnation"] > before["incarnation"]):
            return str(now["api"])
        await asyncio.sleep(LOOK_S)
    raise FailedError(f"{node[:8]} did not come back within {COME_BACK_S_MAX:.0f} s")


async def _heard(client: httpx.AsyncClient, node: NodeId) -> Json | None:
    """What the ingress knows of ``node``."""
    nodes = (await _get(client, "/shoal/v1/state"))["nodes"]
    return next((each for each in nodes if each["node"] == node), None)


# --- asking the ingress -----------------------------------------------------------------------------------------------


async def _get(client: httpx.AsyncClient, path: str) -> Json:
    try:
        response = await client.get(path)
        response.raise_for_status()
        return dict(response.json())
    except httpx.HTTPError as fault:
        raise FailedError(f"{path} is not to be had from the first agent: {fault!r}") from fault


async def _newest(client: httpx.AsyncClient) -> Json | None:
    """The newest plan, with what is known of its stages; None if that cannot be had now."""
    with suppress(FailedError):
        state = await _get(client, "/shoal/v1/state")
        return max(state["deployments"], key=lambda each: int(each["epoch"]), default=None)
    return None


async def _story(client: httpx.AsyncClient, since_epoch: int) -> list[str]:
    """What the ingress tells of the epochs from ``since_epoch`` on, each line once, oldest first."""
    epochs = (await _get(client, "/shoal/v1/explain"))["epochs"]
    lines: dict[int, str] = {}
    for epoch in epochs:
        if epoch >= since_epoch:
            told = await _get(client, f"/shoal/v1/explain?epoch={epoch}")
            lines |= {entry["number"]: entry["text"] for entry in told["story"]}
    return [lines[number] for number in sorted(lines)]


# --- telling a person -------------------------------------------------------------------------------------------------


def _tell_return(tell: Tell, after: Answer, gap_s: float | None, usual_s: float, came_back: Return) -> None:
    tell(f"✓ {len(after.token_ids)} tokens, each the same as undisturbed")
    if came_back.way is None or gap_s is None:
        tell("  state      nothing had to come back: what was left of the answer was on its way already")
        return
    tell(
        f"  gap        {gap_s:.2f} s at most between two tokens, where {usual_s:.2f} s are usual; the ingress took "
        f"{came_back.detect_s:.2f} s to notice, {came_back.switch_s:.2f} s to go another way, "
        f"{came_back.rebuild_s:.2f} s to catch up"
    )
    tell(f"  state      came back {_WAYS.get(came_back.way, '')} ({came_back.way})")
    if came_back.moved:
        tell("  move       later in the sentence it moved to the new plan, between two tokens")


def _tell_decision(tell: Tell, decision: Decision) -> None:
    if decision.epoch is None:
        tell(f"  decided    nothing: {decision.why_not}")
        return
    tell(f"  decided    epoch {decision.epoch}, {decision.decided_s:.1f} s after the kill: {decision.reason}")
    split = ", ".join(f"{s['node'][:8]} {s['first_block']} - {s['last_block']}" for s in decision.stages)
    serving = "does not serve yet" if decision.serving_s is None else f"serves after {decision.serving_s:.1f} s"
    tell(f"  plan       {split}; {serving}")
    again = "after {:.1f} s every stage has one again, so the next one may go"
    missing = f"missing: {decision.why_not}"
    tell(f"  standbys   {missing if decision.redundant_s is None else again.format(decision.redundant_s)}")

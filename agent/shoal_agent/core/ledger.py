"""The requests of this node's clients, and the one promise made to them.

Tokens leave the ingress exactly once and in order. The ledger is the book in which that is kept: which tokens a
session consists of so far, how many of them were shown, what is still outstanding, and from whom. It decides nothing
about other nodes; ``ingress`` and its rooms ask it and act.

    RENDERING ─► ENCODING ─► OPENING ─► STREAMING ─► (gone)
                                ▲  ▲        │ a machine behind it is lost, or it moves
                                │  └────────┤
                                └─ WAITING ◄┘ no machine is left for a stage

The next token is the one that stands where the book ends, said by the last node of the route, under the attempt that
is under way; whatever else comes is dropped. So a token cannot come twice, nor out of turn, whoever says it.

A request leaves the book at its first ending, whichever comes first: the model's end of turn, a stop string, the
length, the client, the deadline, a refusal. What arrives for it later meets nothing and is dropped.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import Final

from shoal_agent.core.facts import CallId, GenerationRequest, LeftOut, RejectCode
from shoal_agent.core.resume import Reach, Restart
from shoal_agent.core.runs import Runs
from shoal_agent.core.services import Method, Parcel, ServiceKind
from shoal_protocol.headers import Token
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.messages import Plan

SHUN_S: Final = 0.25
"""A node that was lost is not tried again for so long: about the time a node takes to find that nobody listens."""
SHUN_DOUBLINGS_MAX: Final = 5
"""Each time it is lost again the time doubles, up to eight seconds: then agreement has replaced it, or it is back."""
USUAL_WEIGHT: Final = 0.2
"""Of a new token's time in the usual one: a mean over the last five or so."""
STALL_S: Final = 1.0
STALL_TOKENS: Final = 8
"""A token is overdue after the longer of STALL_S and the usual time of so many tokens."""
KICK_DOUBLINGS_MAX: Final = 6
"""Each time that was no reason for anything but beginning again, it is overdue later."""
BEGIN_S_MAX: Final = 15.0
"""A request whose client was promised nothing waits no longer for machines: a new plan is ready by then, or late."""
NEVER: Final = Instant(inf)
BEGINNING: Final = Instant(0.0)


class Step(Enum):
    """How far a request has come."""

    RENDERING = "rendering"
    ENCODING = "encoding"
    OPENING = "opening"
    """A route was laid; not every stage of it has answered."""
    STREAMING = "streaming"
    WAITING = "waiting"
    """There is no route to lay, or the KV is brought to where there will be one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request cannot go on, and what its client is told."""

    code: RejectCode
    detail: str
    retry_after_s: float | None = None
    """When to ask again, if more is known of it than usual."""


@dataclass(slots=True)
class Asked:
    """What a light service was asked, where."""

    where: NodeId
    kind: ServiceKind
    method: Method
    request: Parcel


@dataclass(slots=True)
class Gap:
    """A stream that stands still: since its last token, noticed when, and when and how it was set going again."""

    since: Instant
    noticed: Instant
    cause: int | None
    """The story's line of what happened."""
    moved: bool = False
    """It was stopped on purpose, to move."""
    resumed: Instant | None = None
    restart: Restart | None = None
    position: int = 0
    attempts: int = 0


@dataclass(slots=True)
class Move:
    """The KV of a session is brought from the ``old`` epoch's stages to where ``plan`` has them."""

    old: Plan
    plan: Plan
    route: tuple[NodeId, ...]
    awaited: dict[int, None]
    """Stages of the old route that have not said HandedOver."""
    until: Instant
    """No longer is waited for them."""
    last: bool = False
    """Nothing is added any more."""
    forced: bool = False
    """There is no way back: the old epoch has no route."""

    @property
    def ready(self) -> bool:
        """The copies are nearly complete: the next token is to be held back."""
        return not self.awaited and not self.last


@dataclass(slots=True)
class Diary:
    """What was written down of a stream with ``keeper``: so many pages, so many tokens, under which attempt, when."""

    keeper: NodeId
    pages: int = 0
    tokens: int = 0
    attempt: int = -1
    at: Instant = BEGINNING


@dataclass(slots=True)
class Shunned:
    """A node that failed this request; not before ``until`` it is tried again."""

    until: Instant
    times: int


@dataclass(slots=True, eq=False)
class Entry:
    """One request in flight."""

    request: GenerationRequest
    plan: Plan
    deadline: Instant
    step: Step
    # --- its text
    call: CallId | None = None
    """The service call whose answer this request waits for."""
    asked: Asked | None = None
    """What was asked last."""
    detokenizer: NodeId | None = None
    pushed: int | None = None
    """Tokens the detokenizer has turned into text; None: it is not open."""
    mishaps: int = 0
    """Light-service calls that failed since one brought it forward."""
    # --- its tokens
    tokens: list[int] = field(default_factory=list)
    """Prompt and generated tokens: the session, as far as the ingress knows it."""
    prompt_tokens: int = 0
    tokens_max: int = 0
    """Longest the session may become, prompt included."""
    unshown: deque[Token] = field(default_factory=deque)
    """Tokens drawn and not yet shown; the first one may be with the detokenizer."""
    shown: int = 0
    accepted: bool = False
    """The client was promised an answer."""
    ending: bool = False
    """The model ended its turn or the length is reached: nothing more is asked of the stages."""
    # --- its stages
    left_out: LeftOut | None = None
    """Blocks that it does without, all its life."""
    answer_tokens: int = 0
    """What was expected of it when that was chosen."""
    attempt: int = -1
    """Times its route was laid, less one."""
    route: tuple[NodeId, ...] = ()
    plans: list[Plan] = field(default_factory=list)
    """Plans whose nodes may hold something of it."""
    reaches: dict[int, Reach] = field(default_factory=dict)
    """What the stages of the route that answered have."""
    runs: Runs = field(default_factory=lambda: Runs(1))
    fed: int = 0
    """Tokens before this one were given to the first stage, or need not be."""
    gap: Gap | None = None
    move: Move | None = None
    shunned: dict[NodeId, Shunned] = field(default_factory=dict)
    kicks: int = 0
    """Times its route was laid anew since the last token for want of any other idea."""
    refusals: int = 0
    """Refusals since the last token that were not for want of room."""
    diary: Diary | None = None
    # --- its clock
    heard_at: Instant = BEGINNING
    """When the last token came, or the stages were set going."""
    usual_s: float = 0.0
    """How long a token takes, usually."""
    patience_s: float = 0.0
    """How long the first token after a start may take."""
    doubted: bool = False
    """Somebody of the route does not answer, and was asked whether it lives."""
    until: Instant = NEVER
    """Until then the step under way may last: an answer of every stage, or the next look for a route."""
    lost_at: Instant = NEVER
    """When it first lost a machine."""
    move_at: Instant = BEGINNING
    """Not before then it may move."""
    due_at: Instant = NEVER
    """When its alarm rings."""

    @property
    def session(self) -> SessionId:
        """The session's id."""
        return self.request.session

    @property
    def generated(self) -> int:
        """Tokens drawn so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def routed(self) -> bool:
        """Whether its stages still matter to it."""
        return not self.ending and self.step in (Step.OPENING, Step.STREAMING, Step.WAITING)

    @property
    def span_s(self) -> float:
        """After how long without a token something may be wrong."""
        span_s = max(STALL_S, STALL_TOKENS * self.usual_s, self.patience_s)
        return span_s * 2.0 ** min(self.kicks, KICK_DOUBLINGS_MAX)

    def begin(self, tokens: tuple[int, ...]) -> None:
        """The prompt is known: the stages are next."""
        wanted, context = self.request.tokens_max, self.plan.context_tokens_max
        self.tokens, self.prompt_tokens, self.runs = list(tokens), len(tokens), Runs(len(tokens))
        self.tokens_max = context if wanted is None else len(tokens) + wanted
        self.step = Step.OPENING

    def is_open(self) -> bool:
        """Whether every stage of its route has answered, and is not set going yet."""
        return self.step is Step.OPENING and 0 < len(self.reaches) == len(self.route)

    def on_way(self) -> bool:
        """Whether it depends on the nodes of its route."""
        return not self.ending and self.step in (Step.OPENING, Step.STREAMING)

    def full(self) -> bool:
        """Whether the session has all the tokens it may have."""
        return len(self.tokens) >= self.tokens_max

    def left_s(self, now: Instant) -> float:
        """Until its deadline."""
        return max(0.0, self.deadline - now)

    def left_ms(self, now: Instant) -> int:
        """The same for a header."""
        return max(0, int((self.deadline - now) * 1000))

    def late(self) -> Failure:
        """What its client is told when nothing is left."""
        return Failure(RejectCode.DEADLINE, f"not done within {self.request.deadline_s:g} s")

    def speaks(self, peer: NodeId, stage: int, attempt: int) -> bool:
        """Whether ``peer`` may speak for ``stage`` under ``attempt``."""
        return attempt == self.attempt and 0 <= stage < len(self.route) and self.route[stage] == peer

    def expects(self, peer: NodeId, token: Token) -> bool:
        """Whether this is the next token."""
        return (
            token.position == self.fed == len(self.tokens)
            and token.attempt == self.attempt
            and self.step is Step.STREAMING
            and not self.ending
            and peer == self.route[-1]
            and token.epoch == self.plan.epoch
            and token.deployment == self.plan.deployment
        )

    def heard(self, now: Instant) -> None:
        """The next token came."""
        took_s = now - self.heard_at
        self.heard_at = now
        self.usual_s += USUAL_WEIGHT * (took_s - self.usual_s) if self.usual_s else took_s

    def shun(self, node: NodeId, now: Instant) -> None:
        """``node`` failed this request."""
        known = self.shunned.get(node)
        times = 0 if known is None else min(known.times + 1, SHUN_DOUBLINGS_MAX)
        self.shunned[node] = Shunned(Instant(now + SHUN_S * 2**times), times)

    def shuns(self, node: NodeId, now: Instant) -> bool:
        """Whether ``node`` is not to be tried now."""
        known = self.shunned.get(node)
        return known is not None and now < known.until

    def check(self) -> None:
        """Assert that the book balances."""
        assert 0 <= self.shown <= self.generated
        assert len(self.tokens) <= max(self.tokens_max, self.prompt_tokens)
        assert self.fed <= len(self.tokens)
        assert len(self.unshown) == self.generated - self.shown
        assert self.pushed is None or self.pushed <= self.shown
        assert self.step is not Step.STREAMING or len(self.reaches) == len(self.route)
        assert self.step is not Step.OPENING or self.attempt < 0 or len(self.route) == len(self.plan.stages)
        assert self.step is not Step.STREAMING or self.accepted


class Ledger:
    """All requests in flight, by session."""

    def __init__(self) -> None:
        self._entries: dict[SessionId, Entry] = {}
        self._calls: dict[CallId, SessionId] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        """Begin a request."""
        assert entry.session not in self._entries, "session ids are drawn at random"
        self._entries[entry.session] = entry

    def get(self, session: SessionId) -> Entry | None:
        """The request of ``session``, if it is still in flight."""
        return self._entries.get(session)

    def remove(self, session: SessionId) -> Entry:
        """End a request: whatever is still under way for it will find nothing."""
        entry = self._entries.pop(session)
        self.forget_call(entry)
        return entry

    def await_call(self, entry: Entry, call: CallId) -> None:
        """``entry`` waits for the answer to ``call``."""
        assert entry.call is None, "one call at a time"
        entry.call = call
        self._calls[call] = entry.session

    def forget_call(self, entry: Entry) -> None:
        """``entry`` does not wait any more."""
        if entry.call is not None:
            self._calls.pop(entry.call, None)
            entry.call = None

    def answered(self, call: CallId) -> Entry | None:
        """The request that waited for ``call``; None if it is over."""
        session = self._calls.pop(call, None)
        if session is None:
            return None
        entry = self._entries[session]
        entry.call = None
        return entry

    def owns(self, call: CallId) -> bool:
        """Whether a request waits for ``call``."""
        return call in self._calls

    def entries(self) -> tuple[Entry, ...]:
        """Every request in flight, oldest first."""
        return tuple(self._entries.values())

    def check(self) -> None:
        """Assert every entry's books, and that calls and entries agree."""
        for entry in self._entries.values():
            entry.check()
            assert entry.call is None or self._calls[entry.call] == entry.session
        assert len(self._calls) == sum(entry.call is not None for entry in self._entries.values())

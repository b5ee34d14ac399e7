"""The requests of this node's clients, and the one promise made to them.

Tokens leave the ingress exactly once and in order. The ledger is the book in which that is kept: which tokens a
session consists of so far, how many of them were shown, what is still outstanding. It decides nothing about other
nodes; ``ingress`` asks it and acts.

    RENDERING ─► ENCODING ─► OPENING ─► STREAMING ─► (gone)

A request leaves the book at its first ending, whichever comes first: the model's end of turn, a stop string, the
length, the client, the deadline, a refusal. What arrives for it later meets nothing and is dropped.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from shoal_agent.core.facts import CallId, GenerationRequest
from shoal_protocol.headers import Token
from shoal_protocol.ids import Instant, NodeId, SessionId
from shoal_protocol.messages import Plan


class Step(Enum):
    """How far a request has come."""

    RENDERING = "rendering"
    ENCODING = "encoding"
    OPENING = "opening"
    STREAMING = "streaming"


@dataclass(slots=True)
class Entry:
    """One request in flight."""

    request: GenerationRequest
    plan: Plan
    deadline: Instant
    step: Step
    call: CallId | None = None
    """The service call whose answer this request waits for."""
    detokenizer: NodeId | None = None
    tokens: list[int] = field(default_factory=list)
    """Prompt and generated tokens: the session, as far as the ingress knows it."""
    prompt_tokens: int = 0
    tokens_max: int = 0
    """Longest the session may become, prompt included."""
    unopened: set[int] = field(default_factory=set)
    """Stages that have not yet said SessionOpened; only ever asked for membership and emptiness."""
    unshown: deque[Token] = field(default_factory=deque)
    """Tokens drawn and not yet turned into text; the first one is with the detokenizer."""
    shown: int = 0
    ending: bool = False
    """The model ended its turn or the length is reached: nothing more is asked of the stages."""

    @property
    def session(self) -> SessionId:
        """The session's id."""
        return self.request.session

    @property
    def generated(self) -> int:
        """Tokens drawn so far."""
        return len(self.tokens) - self.prompt_tokens

    def full(self) -> bool:
        """Whether the session has all the tokens it may have."""
        return len(self.tokens) >= self.tokens_max

    def check(self) -> None:
        """Assert that the book balances."""
        assert 0 <= self.shown <= self.generated
        assert len(self.tokens) <= max(self.tokens_max, self.prompt_tokens)
        assert self.step is not Step.STREAMING or not self.unopened
        assert len(self.unshown) <= self.generated - self.shown


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
        if entry.call is not None:
            self._calls.pop(entry.call, None)
        return entry

    def await_call(self, entry: Entry, call: CallId) -> None:
        """``entry`` waits for the answer to ``call``."""
        assert entry.call is None, "one call at a time"
        entry.call = call
        self._calls[call] = entry.session

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

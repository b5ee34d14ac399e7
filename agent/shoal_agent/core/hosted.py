"""One session on one stage of this node: what it has, for whom, and whether it may go on.

              OpenSession                SessionOpened                Resume
    SHADOW ───────────────► OPENING ───────────────────► OPENED ─────────────────► GOING
       ▲                       ▲                                                      │
       │ rows of a later       │ OpenSession of a later attempt       a neighbour is lost: HALTED
       │ attempt               └────────────────────────────────────  the ingress is lost: ORPHANED
       └── (any)

A session that is GOING runs what comes in and sends what comes out. In every other state it is *suspended*: it runs
nothing new and sends nothing on. A run that was under way is let finish, because its KV is worth having; its output is
retained. The first attempt of a session that nobody knew goes from OPENING to GOING by itself.

``finished`` is the first position whose KV is not here; ``position`` is where the next input must start: the same but
for what runs and waits. A shadow is written by others, block by block, so it has a depth for each block, and what it
could go on from is the least of them. Blocks without state (a head) lack nothing, ever.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from shoal_agent.core.facts import LeftOut, SessionStage, StageSpan
from shoal_agent.core.kv_stream import KvStream
from shoal_agent.core.outbox import Payload
from shoal_protocol.headers import Activation, HandOver, KvRows, OpenSession
from shoal_protocol.ids import Epoch, Instant, NodeId
from shoal_protocol.limits import KV_ROWS_BYTES_MAX, PREFILL_CHUNK_TOKENS
from shoal_protocol.messages import Plan

_BEGINNING = Instant(0.0)


class Stand(Enum):
    """Where a session stands, here."""

    SHADOW = "shadow"
    """Nobody asked this node to serve it: others keep their KV here."""
    OPENING = "opening"
    """Asked for; what was under way has to end, or the sampler to open."""
    OPENED = "opened"
    """The ingress knows how far it is; it waits for the word to go on."""
    GOING = "going"
    HALTED = "halted"
    """The path through here is broken; the ingress knows."""
    ORPHANED = "orphaned"
    """The ingress is lost; whoever asks next is the new one."""


@dataclass(frozen=True, slots=True)
class Lease:
    """For whom a session is served, and between whom."""

    opening: OpenSession
    source: NodeId
    """Who may send input."""
    target: NodeId | None
    """Who gets the output; None: the sampler."""
    known: int
    """Ids the sampler was told: for runs that end before, nothing is drawn."""


@dataclass(slots=True)
class Work:
    """Input that waits."""

    activation: Activation
    payload: Payload


@dataclass(slots=True)
class Import:
    """Rows that are being written, and who is to hear of it."""

    rows: KvRows
    feeder: NodeId


@dataclass(slots=True)
class Handover:
    """The KV of a session on its way to where it moves."""

    asked: HandOver
    ingress: NodeId
    streams: list[KvStream]
    told: bool = False
    """What was asked last is answered."""


@dataclass(slots=True)
class Hosted:
    """One session on one stage of this node."""

    key: SessionStage
    plan: Plan
    stage: int
    span: StageSpan
    tokens_max: int
    row_bytes: tuple[int, ...]
    """What one position takes on each block of the span."""
    attempt: int
    ingress: NodeId
    """Whose session it is: who opened it last, or whom the rows of a shadow name."""
    stand: Stand = Stand.SHADOW
    deadline: Instant = _BEGINNING
    lease: Lease | None = None
    finished: int = 0
    depths: list[int] = field(default_factory=list)
    """Of a shadow, by block: rows before here are written."""
    imports: list[Import] = field(default_factory=list)
    position: int = 0
    due: int = 0
    """Answers the engine owes."""
    running: Activation | None = None
    waiting: deque[Work] = field(default_factory=deque)
    waiting_tokens: int = 0
    chunked: bool = False
    """The last run was one of several positions."""
    forgetful: bool = False
    """Not every output since it was opened could be sent again."""
    token_macs: int = 0
    """What the profile predicts for one token."""
    sampler: str | None = None
    """The service that draws from this stage's output."""
    sampling: bool = False
    """It was opened."""
    asked: int = 0
    """Its answers that are due."""
    history: bytes | None = None
    """Ids it has to be told before anything else."""
    standby: KvStream | None = None
    look_at: Instant = _BEGINNING
    """When to look for a standby again."""
    shunned: dict[NodeId, Instant] = field(default_factory=dict)
    """Nodes that did not take rows, and until when nobody asks them."""
    handover: Handover | None = None
    fed: dict[tuple[NodeId, Epoch], None] = field(default_factory=dict)
    """Who was sent rows, for which epoch."""
    left_out: LeftOut | None = None
    """Blocks that the session does without, all its life: of those of the span, ``row_bytes`` are 0."""

    @property
    def busy(self) -> bool:
        """Whether something is under way that may still change what is here."""
        return self.running is not None or bool(self.imports) or self.asked > 0

    @property
    def last(self) -> bool:
        """Whether it is the stage that samples."""
        return self.sampler is not None

    @property
    def stateless(self) -> bool:
        """Whether there is no KV on this stage at all."""
        return not any(self.row_bytes)

    def streams(self) -> Iterator[KvStream]:
        """Everything that is to be sent of its KV."""
        if self.standby is not None:
            yield self.standby
        if self.handover is not None:
            yield from self.handover.streams

    def left_ms(self, now: Instant) -> int:
        """Until its deadline."""
        return max(0, int((self.deadline - now) * 1000))

    def bytes_per_row(self, first_block: int, last_block: int) -> int:
        """What one position takes on these blocks."""
        first = self.span.first_block
        return sum(self.row_bytes[first_block - first : last_block + 1 - first])

    def stream_to(self, target: NodeId, epoch: Epoch, stage: int, first_block: int, last_block: int) -> KvStream:
        """A stream of these blocks, none of which was sent."""
        fitting = KV_ROWS_BYTES_MAX // self.bytes_per_row(first_block, last_block)
        return KvStream(target, epoch, stage, first_block, last_block, min(PREFILL_CHUNK_TOKENS, max(1, fitting)))

    def depth(self, first_block: int, last_block: int) -> int:
        """Of a shadow: how far all of these blocks are written."""
        first = self.span.first_block
        blocks = range(first_block - first, last_block + 1 - first)
        return min((self.depths[block] for block in blocks if self.row_bytes[block]), default=self.tokens_max)

    def deepen(self, rows: KvRows) -> None:
        """Of a shadow: ``rows`` are written."""
        first = self.span.first_block
        for block in range(rows.first_block - first, rows.last_block + 1 - first):
            self.depths[block] = rows.position + rows.token_count
        self.finished = self.depth(self.span.first_block, self.span.last_block)

    def rewind(self, position: int) -> None:
        """Go on from ``position``: what is here beyond will be written again."""
        assert position <= self.finished
        self.position = self.finished = position
        for stream in self.streams():
            stream.rewind(position)

    def check(self) -> None:
        """Assert that it is of one piece."""
        serving = self.stand is not Stand.SHADOW
        assert serving == (self.lease is not None)
        assert serving or not (self.sampling or self.standby)
        assert 0 <= self.finished <= self.tokens_max
        assert self.stand is not Stand.GOING or self.finished <= self.position <= self.tokens_max
        assert self.stand is Stand.GOING or self.stand in (Stand.OPENING, Stand.OPENED) or not self.waiting
        assert self.stand is not Stand.GOING or self.running is not None or not self.waiting
        assert self.waiting_tokens == sum(work.activation.token_count for work in self.waiting)
        assert self.running is None or not self.imports, "a session that runs takes no rows"
        for stream in self.streams():
            stream.check(self.finished)

"""The shapes of the drivers around the core: what ``runtime`` needs of each, and nothing more.

A driver turns effects into the world and the world into events; it hands events to a ``Post``, which the runtime
gives it at construction and which may be called from the event loop's thread only.
"""

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shoal_agent.core.effects import (
    Accept,
    Broadcast,
    CallService,
    Effect,
    Emit,
    ErrandEnded,
    ExportKv,
    Finish,
    ImportKv,
    PipelineJudged,
    Reject,
    RunStage,
    SendFrame,
)
from shoal_agent.core.events import Event, StepAhead
from shoal_agent.core.facts import GenerationRequest, LeftOut, StageSpan, TensorHandle
from shoal_agent.shell.links import Link
from shoal_protocol.content import ContentHeader
from shoal_protocol.ids import Digest, Instant, NodeId, SessionId

Post = Callable[[Event], None]
"""Hands one event to the node, from the loop's thread; returns when its effects have been begun."""

Array = npt.NDArray[np.generic]


class Mind(Protocol):
    """The node, or a recorder around it."""

    def handle(self, event: Event, now: Instant) -> list[Effect]: ...

    def deadline(self) -> Instant | None: ...

    def check(self) -> None: ...


class TensorTable(Protocol):
    """Handles to arrays (or raw bytes): the only place where tensors live between two events."""

    def put(self, value: Array | bytes | memoryview) -> TensorHandle: ...

    def take(self, handle: TensorHandle) -> Array | bytes | memoryview:
        """Remove and return."""

    def peek(self, handle: TensorHandle) -> Array | bytes | memoryview: ...

    def release(self, handle: TensorHandle) -> None: ...

    def __len__(self) -> int: ...


class ControlPlane(Protocol):
    """All brokers at once."""

    def publish(self, effect: Broadcast) -> None: ...

    def listen(self, shards: tuple[int, ...]) -> None:
        """Hear the heartbeats and records of exactly these shares of the nodes."""

    async def run(self) -> None: ...


class Carrier(Protocol):
    """What relayed messages travel by: the brokers, one at a time. Nothing is promised of a message."""

    @property
    def up(self) -> tuple[str, ...]:
        """Those whose links stand, in the order of the configuration."""

    def carry(self, broker: str, topic: str, message: bytes) -> None:
        """Publish on ``broker``, after what matters to the whole cluster."""

    def hurry(self, *, on: bool) -> None:
        """Whether what arrives is to be taken in at once."""


class Relays(Protocol):
    """Links through brokers, for peers that cannot be reached directly."""

    def attach(self, welcome: Callable[[NodeId], Link]) -> None:
        """Who makes the links of peers that open a circuit to us."""

    def dial(self, link: Link, peer: NodeId) -> None:
        """Open a circuit to ``peer`` below ``link``, or end it."""

    def drained(self, link: Link) -> bool:
        """Whether everything that ``link`` wrote is acknowledged."""


class DataPlane(Protocol):
    """TLS links to peers."""

    def send(self, effect: SendFrame) -> None: ...

    async def run(self) -> None: ...


class ContentPeer(Protocol):
    """Who deals with them."""

    def received(self, peer: NodeId, header: ContentHeader, payload: memoryview | None) -> None:
        """``payload`` may be kept: nobody writes to it."""

    def lost(self, peer: NodeId, reason: str) -> None:
        """A link to or from ``peer`` broke."""


class Content(Protocol):
    """Packages: what a node lacks is fetched. Blocks are opened once everything is here."""

    def load(self, span: StageSpan, sources: tuple[NodeId, ...]) -> None: ...

    def unload(self, span: StageSpan) -> None: ...

    def fetch_blocks(self, span: StageSpan, sources: tuple[NodeId, ...]) -> None: ...

    def fetch_model(self, model: Digest, sources: tuple[NodeId, ...]) -> None: ...

    async def run(self) -> None: ...


class Loader(Protocol):
    """Blocks that open: what content drives."""

    def load(self, span: StageSpan) -> None: ...

    def unload(self, span: StageSpan) -> None: ...


class Engine(Protocol):
    """Sessions on open blocks, and their KV. Running and closing never block the loop."""

    def open_stage(
        self, session: SessionId, stage: int, span: StageSpan, tokens_max: int, left_out: LeftOut | None = None
    ) -> None: ...

    def run_stage(self, effect: RunStage) -> None: ...

    def export_kv(self, effect: ExportKv) -> None: ...

    def import_kv(self, effect: ImportKv) -> None: ...

    def close_stage(self, session: SessionId, stage: int) -> None: ...

    async def close(self) -> None: ...


class Services(Protocol):
    """The light services this node can run."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def call(self, effect: CallService) -> None: ...

    def scale(self, service: str, instances: int) -> None: ...

    def close(self, service: str, session: SessionId) -> None: ...


Answer = Accept | Emit | Finish | Reject
Steps = tuple[tuple[str, str], ...]
"""Light services and their methods, one after another."""


class Ingress(Protocol):
    """What the API needs of the runtime: hand in a request, read its answers."""

    async def run(self, steps: Steps, request: bytes, deadline_s: float, kind: str = "") -> ErrandEnded:
        """Have light services do ``steps`` one after another, each with the answer of the one before.

        Cancelled with its caller.
        """

    async def judge(self, pipeline: str, kind: str, deadline_s: float, steps: tuple[StepAhead, ...]) -> PipelineJudged:
        """Whether a run of a pipeline may begin; ``kind`` is its class, if any."""

    def ended(self, kind: str, *, late: bool) -> None:
        """A request that the API put together from several calls is over; ``kind`` is its class."""

    def generate(self, request: GenerationRequest, *, lingers: bool) -> AsyncGenerator[Answer, None]:
        """Yields Accept, Emit*, Finish or one Reject. Closing it early cancels the session, unless it ``lingers``."""

"""Real nodes as hosts, and an ingress played by hand: what it hears, it only notes.

``Stand`` says single frames to hosts. ``Rider`` goes further: it lays routes, resumes and feeds as an ingress does, for
one session, so that a test can do anything to the hosts meanwhile and compare the tokens with the unsplit model's.
"""

from array import array
from dataclasses import dataclass, field, replace
from typing import Final

from shoal_agent.core.effects import ExportKv, ImportKv, RunStage, SendFrame
from shoal_agent.core.events import Event, FrameReceived
from shoal_agent.core.facts import Width
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import primaries_of
from shoal_agent.core.resume import Reach, starts_of
from shoal_agent.core.runs import Runs
from shoal_agent.core.tenure import Tenure
from shoal_protocol.codec import encode_plan
from shoal_protocol.headers import (
    Activation,
    CloseReason,
    CloseSession,
    HandedOver,
    HandOver,
    Header,
    OpenSession,
    PathBroken,
    Resume,
    SessionOpened,
    SessionRefused,
    Token,
)
from shoal_protocol.ids import Epoch, NodeId, SessionId, digest_of
from shoal_protocol.messages import Plan
from shoal_protocol.tensors import Dtype
from shoal_protocol.widths import ActivationWidth
from tests.support.cell import Cell
from tests.support.toy import GREEDY
from tests.support.world import TOY, World

SESSION: Final = SessionId(b"s" * 16)
ANOTHER: Final = SessionId(b"t" * 16)
PROMPT: Final = (1, 2, 3)
OPEN: Final = OpenSession(TOY, Epoch(0), SESSION, 0, 100, 30_000, GREEDY)
RESUME: Final = Resume(TOY, Epoch(0), SESSION, 0, 1, 0, 0)
STEP: Final = Activation(TOY, Epoch(0), SESSION, 0, 0, 3, True, 30_000, Dtype.I64, (1, 3))
KV: Final = 4 * 64
"""Bytes of KV per token on one stage: half of the toy's blocks."""
TO_INGRESS: Final = (SessionOpened, SessionRefused, Token, PathBroken, HandedOver)


def ids(tokens: tuple[int, ...] | list[int]) -> bytes:
    return array("q", tokens).tobytes()


class Stand:
    """Hosts of the toy's stages, an ingress, and a stranger; ``backed``: each host stands by for the one before.

    Activations travel in ``width``, which the toy certifies at no loss to speak of.
    """

    def __init__(
        self,
        stages: int = 2,
        *,
        backed: bool = False,
        width: ActivationWidth = ActivationWidth.F32,
        **options: int,
    ) -> None:
        self.world = World(stages + 2, **options)
        self.world.facts = replace(self.world.facts, widths=(Width(width.name.lower(), loss=1),))
        self.world.start()
        self.by_hand, *self.hosts, self.stranger = self.world.names
        self.first, self.last = self.hosts[0], self.hosts[-1]
        standbys = tuple((node,) for node in [*self.hosts[1:], self.first]) if backed else ()
        plan = self.world.plan(self.hosts, standbys=standbys)
        first, *others = plan.stages
        narrow = (first, *(replace(stage, width=width) for stage in others))
        self.world.announce(replace(plan, stages=narrow, terms=replace(plan.terms, loss_micronats=stages)))
        self.world.run_until(self.world.serving)
        self.world.run(1.0)
        self.log_start = len(self.world.log)

    @property
    def plan(self) -> Plan:
        return self.tenure(self.first).plan

    def tenure(self, name: NodeId, epoch: int = 0) -> Tenure:
        tenure = self.cell(name).node._tables.tenures.get(TOY, Epoch(epoch))
        assert tenure is not None
        return tenure

    def adopt(
        self, hosts: list[NodeId], standbys: tuple[tuple[NodeId, ...], ...] = (), *, by: list[NodeId] = ()
    ) -> Plan:
        """A next epoch, as if it had been agreed, and known to all or to a few."""
        latest = max(tenure.plan.epoch for tenure in self.cell().node._tables.tenures.of(TOY))
        plan = self.world.plan(hosts, epoch=latest + 1, standbys=standbys)
        for cell in self.world.cells.values():
            if not cell.dead and (not by or cell.name in by):
                out = Outbox(cell.name)
                digest = digest_of(encode_plan(plan))
                cell.node._citizen.staging.adopt(plan, digest, self.world.now, out)
                for effect in out.effects:
                    cell.perform(effect)
                self.world.wake(cell)
        self.world.run(1.0)
        return plan

    def say(self, header: Header, data: bytes | None = None, *, to: str = "", by: str = "") -> None:
        self.world.inject(by or self.by_hand, to or self.first, header, data)

    def feed(self, header: Activation = STEP, tokens: tuple[int, ...] = PROMPT, **who: str) -> None:
        self.say(header, ids(tokens), **who)

    def open_both(self, session: SessionId = SESSION, prompt: tuple[int, ...] = PROMPT) -> None:
        for stage, host in enumerate(self.hosts):
            told = ids(prompt) if host == self.last else None
            self.say(replace(OPEN, session=session, stage=stage), told, to=host)
        self.world.run(0.02)

    def close(self, session: SessionId = SESSION) -> None:
        for host in self.hosts:
            self.say(CloseSession(session, CloseReason.FINISHED), to=host)

    def cell(self, name: str = "") -> Cell:
        return self.world.cells[name or self.first]

    def sessions(self, name: str = "") -> int:
        return self.cell(name).node._host.session_count

    def served(self, name: str = "") -> int:
        """Stages of sessions: one session may have two of them here."""
        return len(self.cell(name).node._host._holdings.served())

    def shadows(self, name: str = "") -> int:
        return self.cell(name).node._host.shadow_count

    def heard(self, kind: type = object, peer: str = "") -> list[Header]:
        """What the hosts sent to ``peer`` (the ingress) since the plan was served."""
        sent = [effect for _, _, effect in self.world.log[self.log_start :] if isinstance(effect, SendFrame)]
        headers = [effect.header for effect in sent if effect.peer == (peer or self.by_hand)]
        return [header for header in headers if isinstance(header, kind)]

    def refusal(self, peer: str = "") -> SessionRefused:
        (only,) = self.heard(SessionRefused, peer)
        return only

    def runs(self, name: str = "") -> list[RunStage]:
        return self.cell(name).asked(RunStage)

    def exports(self, name: str = "") -> list[ExportKv]:
        return self.cell(name).asked(ExportKv)

    def imports(self, name: str = "") -> list[ImportKv]:
        return self.cell(name).asked(ImportKv)


@dataclass
class Rider:
    """One session, as an ingress sees it: it does what it should with what it hears under its newest attempt."""

    stand: Stand
    prompt: tuple[int, ...] = PROMPT
    length: int = 40
    tokens_max: int = 400
    deadline_ms: int = 60_000
    session: SessionId = SESSION
    epoch: int = 0
    attempt: int = -1
    route: tuple[NodeId, ...] = ()
    tokens: list[int] = field(default_factory=list)
    reaches: dict[int, Reach] = field(default_factory=dict)
    going: bool = False
    heard: list[tuple[NodeId, Header]] = field(default_factory=list)
    """Whatever was said to it, old attempts too."""
    resumed: list[tuple[Resume, ...]] = field(default_factory=list)
    holding: bool = False
    """It was told to add nothing: a move is under way."""

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        cell = self.stand.cell(self.stand.by_hand)
        post = cell.post

        def listen(event: Event) -> None:
            if isinstance(event, FrameReceived) and isinstance(event.header, TO_INGRESS):
                self.hear(event.peer, event.header)
            else:
                post(event)

        cell.post = listen  # type: ignore[method-assign]

    @property
    def answer(self) -> list[int]:
        return self.tokens[len(self.prompt) :]

    @property
    def done(self) -> bool:
        return len(self.answer) >= self.length

    def lay(self, route: tuple[NodeId, ...] | list[NodeId] = (), epoch: int | None = None) -> None:
        """Open the session on ``route`` (the primaries) under the next attempt."""
        self.epoch = self.epoch if epoch is None else epoch
        plan = self.stand.tenure(self.stand.by_hand, self.epoch).plan
        self.route, self.attempt = tuple(route) or primaries_of(plan), self.attempt + 1
        self.reaches, self.going, self.holding = {}, False, False
        for stage, node in enumerate(self.route):
            header = OpenSession(
                TOY, Epoch(self.epoch), self.session, stage, self.tokens_max, self.deadline_ms, GREEDY, self.attempt,
                self.route,
            )  # fmt: skip
            self.send(node, header, ids(self.tokens) if stage == len(self.route) - 1 else None)

    def send(self, node: NodeId, header: Header, data: bytes | None = None) -> None:
        """Over the world's links, as a node would."""
        self.stand.world.carry(self.stand.cell(self.stand.by_hand), SendFrame(node, header, data))

    def hear(self, peer: NodeId, header: Header) -> None:
        self.heard.append((peer, header))
        if header.session != self.session or header.attempt != self.attempt:
            return
        if isinstance(header, SessionOpened) and self.route[header.stage] == peer:
            self.reaches[header.stage] = Reach(header.position, header.retained_from)
            if len(self.reaches) == len(self.route) and not self.going:
                self.resume()
        elif isinstance(header, Token) and peer == self.route[-1] and self.going:
            self.take(header)

    def resume(self) -> None:
        self.going = True
        runs, wanted = Runs(len(self.prompt)), len(self.tokens)
        starts = starts_of([self.reaches[stage] for stage in range(len(self.route))], runs, wanted)
        if self.attempt:
            said = tuple(
                Resume(TOY, Epoch(self.epoch), self.session, stage, self.attempt, start.position, start.replay_from)
                for stage, start in enumerate(starts)
            )
            self.resumed.append(said)
            for node, header in zip(self.route, said, strict=True):
                self.send(node, header)
        for start, stop in runs.between(starts[0].position, wanted):
            self.feed(start, stop)

    def feed(self, start: int, stop: int) -> None:
        header = Activation(
            TOY, Epoch(self.epoch), self.session, 0, start, stop - start, stop == len(self.tokens), self.deadline_ms,
            Dtype.I64, (1, stop - start), self.attempt,
        )  # fmt: skip
        self.send(self.route[0], header, ids(self.tokens[start:stop]))

    def take(self, header: Token) -> None:
        if self.done or header.position < len(self.tokens):
            return
        assert header.position == len(self.tokens), "no token is left out"
        self.tokens.append(header.token)
        if not self.done and not self.holding:
            self.feed(len(self.tokens) - 1, len(self.tokens))

    def hand_over(self, plan: Plan, *, last: bool, route: tuple[NodeId, ...] = ()) -> None:
        self.holding = last
        for stage, node in enumerate(self.route):
            target = route or primaries_of(plan)
            header = HandOver(TOY, Epoch(self.epoch), self.session, stage, self.attempt, plan.epoch, target, last)
            self.send(node, header)

    def handed(self, *, last: bool) -> list[HandedOver]:
        return [said for _, said in self.heard if isinstance(said, HandedOver) and said.last is last]

    def close(self, epoch: int | None = None) -> None:
        for name in self.stand.world.names:
            number = None if epoch is None else Epoch(epoch)
            self.send(name, CloseSession(self.session, CloseReason.FINISHED, number))

    def finish(self) -> list[int]:
        """Run until the answer is there, close, and see that nothing is left; the answer."""
        self.stand.world.run_until(lambda: self.done)
        self.close()
        self.stand.world.run(0.5)
        self.stand.world.check_idle()
        return self.answer

"""How a session is opened, by attempt.

    OpenSession ──► KV promised, or taken up as it is ──► SessionOpened: how far it reaches ──► Resume ──► going

The first attempt begins at 0 and goes on by itself. A later one finds what there is (a session of an older attempt, a
shadow, or nothing), waits until what was under way is over, tells the ingress how far it reaches, and goes on from
where the ingress says. What is said under an older attempt is refused; what is said again is answered again.

A session belongs to its ingress, and so does a shadow, whose rows name it: another one takes it up only if it is of the
same trust zone, and shows by a later attempt that the client turned to it (ADR 16); of another zone nobody does, also
when the ingress is lost. An epoch that takes no sessions any more still takes later attempts, of sessions it knows and
of others, as long as the blocks are open here: whose primary is lost has nowhere else to go.
"""

from typing import Final

from shoal_agent.core.holdings import Holdings
from shoal_agent.core.hosted import Hosted, Lease, Stand
from shoal_agent.core.outbox import Outbox, Payload
from shoal_agent.core.plan import primaries_of, serves, slot_of
from shoal_agent.core.runner import Runner
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure
from shoal_protocol.headers import OpenSession, RefusalCode, Resume, SessionOpened, SessionRefused
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.limits import REQUEST_DEADLINE_S_MAX
from shoal_protocol.messages import Plan

_TOKEN_BYTES: Final = 8
"""A token id travels as int64."""

Fault = tuple[RefusalCode, str]


class Openings:
    """Sessions that begin here, or begin again."""

    def __init__(self, node: NodeId, tables: Tables, holdings: Holdings, runner: Runner) -> None:
        self._node = node
        self._tenures = tables.tenures
        self._models = tables.models
        self._zones = tables.zones
        self._holdings = holdings
        self._runner = runner

    def open(self, peer: NodeId, header: OpenSession, payload: Payload, now: Instant, out: Outbox) -> None:
        """Admit a session, or take up what is here of it, or say why not."""
        hosted = self._holdings.get((header.session, slot_of(header.epoch, header.stage)))
        if hosted is not None and _is_said_again(hosted, peer, header):
            if hosted.stand in (Stand.OPENED, Stand.GOING):
                self._announce(hosted, out)
            return
        tenure = self._tenures.get(header.deployment, header.epoch)
        fault = self._fault(tenure, header, payload) or (None if hosted is None else self._fenced(hosted, peer, header))
        if fault is None and tenure is not None and (hosted is None or _unfit(hosted, header)):
            fault = self._make_way(tenure, hosted, header, now, out)
            hosted = None if fault is not None else self._holdings.add(header, tenure.plan, peer, now, out)
        if hosted is not None and fault is None:
            self._take_up(hosted, peer, header, payload, now, out)
        elif fault is not None:
            out.send(peer, SessionRefused(header.session, header.stage, *fault, header.attempt))
            out.count("sessions_refused", fault[0].name)

    def _fault(self, tenure: Tenure | None, header: OpenSession, payload: Payload) -> Fault | None:
        """Why this node cannot serve what is asked for, whatever it holds."""
        if tenure is None:
            return RefusalCode.STALE_EPOCH, f"no epoch {header.epoch} of {header.deployment} here"
        plan, stage = tenure.plan, header.stage
        if not stage < len(plan.stages) or not serves(plan, stage, self._node):
            return RefusalCode.NOT_HOSTED, f"stage {stage} is not this node's"
        if stage not in tenure.open_stages:
            return RefusalCode.NOT_HOSTED, "this stage is not loaded"
        if header.route and not _is_route(plan, header.route, stage, self._node):
            return RefusalCode.NOT_HOSTED, "the route is not of this plan, or leads elsewhere"
        if header.left_out is not None and self._models[plan.model].shortcut(header.left_out) is None:
            return RefusalCode.NOT_CERTIFIED, f"no certificate here of the model without blocks {header.left_out}"
        if not 0 < header.tokens_max <= plan.context_tokens_max:
            return RefusalCode.KV_FULL, f"{header.tokens_max} tokens, the plan allows {plan.context_tokens_max}"
        size = len(payload) if isinstance(payload, bytes) else 0
        if size % _TOKEN_BYTES or size > header.tokens_max * _TOKEN_BYTES:
            return RefusalCode.OUT_OF_ORDER, "the prompt is not a row of token ids"
        return None

    def _fenced(self, hosted: Hosted, peer: NodeId, header: OpenSession) -> Fault | None:
        """Why what is held is not for this attempt of this ingress."""
        if hosted.plan.deployment != header.deployment:
            return RefusalCode.STALE_EPOCH, f"the session is one of {hosted.plan.deployment}"
        if header.attempt <= hosted.attempt:
            return RefusalCode.OLD_ATTEMPT, f"attempt {hosted.attempt} is known here"
        if hosted.ingress != peer and not self._zones.shared(hosted.ingress, peer):
            # What a host said of a shadow's ingress is no reason for another ingress to let its own session go.
            code = RefusalCode.UNKNOWN_SESSION if hosted.lease is None else RefusalCode.OLD_ATTEMPT
            return code, "an ingress of another zone has the session"
        if hosted.lease is not None and header.tokens_max > hosted.tokens_max:
            return RefusalCode.KV_FULL, f"the session was opened for {hosted.tokens_max} tokens"
        return None

    def _make_way(
        self, tenure: Tenure, small: Hosted | None, header: OpenSession, now: Instant, out: Outbox
    ) -> Fault | None:
        """Why a session cannot begin here without any KV. A shadow too ``small`` for it goes, and another option."""
        if small is not None:
            out.count("shadows_dropped", "SMALL" if small.left_out == header.left_out else "OPTION")
            self._holdings.drop(small, out)
        if header.attempt == 0 and tenure.closed(now):
            return RefusalCode.STALE_EPOCH, f"epoch {header.epoch} takes no sessions any more"
        if self._holdings.owes((header.session, slot_of(header.epoch, header.stage))):
            return RefusalCode.OUT_OF_ORDER, "the session is not yet closed"
        return self._holdings.make_room(self._holdings.kv_bytes(tenure.plan, header), out)

    def _take_up(
        self, hosted: Hosted, peer: NodeId, header: OpenSession, payload: Payload, now: Instant, out: Outbox
    ) -> None:
        """Serve it, for ``peer``, as soon as what is under way is over; another ingress that had it is told."""
        if hosted.lease is not None and hosted.ingress != peer and hosted.stand is not Stand.ORPHANED:
            fault = RefusalCode.OLD_ATTEMPT, "another ingress has the session"
            out.send(hosted.ingress, SessionRefused(header.session, header.stage, *fault, hosted.attempt))
        ids = payload if isinstance(payload, bytes) else b""
        route, stage = header.route or primaries_of(hosted.plan), header.stage
        source = peer if stage == 0 else route[stage - 1]
        target = route[stage + 1] if stage + 1 < len(route) else None
        self._holdings.suspend(hosted, Stand.OPENING, out)
        hosted.lease = Lease(header, source, target, len(ids) // _TOKEN_BYTES)
        hosted.ingress, hosted.attempt, hosted.handover = peer, header.attempt, None
        hosted.history = ids if hosted.sampler is not None else None
        if header.attempt == 0:
            hosted.finished = 0  # where there is no state, too: nothing was fed yet
        self._holdings.until(hosted, Instant(now + min(header.deadline_ms / 1000, REQUEST_DEADLINE_S_MAX)))
        self.settle(hosted, now, out)

    def settle(self, hosted: Hosted, now: Instant, out: Outbox) -> None:
        """When nothing is under way any more, the session can be opened."""
        if hosted.stand is not Stand.OPENING or hosted.busy:
            return
        if hosted.history is not None:
            self._runner.open_sampler(hosted, out)
            return
        hosted.stand = Stand.OPENED
        self._announce(hosted, out)
        if hosted.attempt == 0:
            self._runner.go(hosted, 0, now, out)

    def _announce(self, hosted: Hosted, out: Outbox) -> None:
        assert hosted.lease is not None, "somebody asked for it"
        back = self._holdings.retention.reaches_back(hosted.key, hosted.finished)
        opened = SessionOpened(hosted.key[0], hosted.stage, hosted.attempt, hosted.finished, back)
        out.send(hosted.ingress, opened)

    def resume(self, peer: NodeId, header: Resume, now: Instant, out: Outbox) -> None:
        """Every stage of this attempt is there: go on."""
        hosted = self._holdings.get((header.session, slot_of(header.epoch, header.stage)))
        if hosted is None or not _waits_for(hosted, peer, header):
            out.count("frames_dropped", "resume")
            return
        back = self._holdings.retention.reaches_back(hosted.key, hosted.finished)
        if header.position > hosted.finished or (not hosted.last and header.replay_from < min(back, header.position)):
            detail = f"{header.position} from {header.replay_from} on asked for, {hosted.finished} from {back} is here"
            self._holdings.suspend(hosted, Stand.HALTED, out)
            self._holdings.complain(hosted, RefusalCode.OUT_OF_ORDER, detail, out)
            return
        self._holdings.rewind(hosted, header.position, out)
        self._runner.go(hosted, header.replay_from, now, out)


def _unfit(hosted: Hosted, header: OpenSession) -> bool:
    """Whether what is held cannot become what is asked for: it is too small, or KV of a session that ran otherwise.

    An ingress chooses otherwise only before anything ran: a stage of the route did not certify its first choice.
    """
    return header.tokens_max > hosted.tokens_max or header.left_out != hosted.left_out


def _is_said_again(hosted: Hosted, peer: NodeId, header: OpenSession) -> bool:
    """Whether its ingress opens it under the attempt it is open under."""
    return hosted.lease is not None and (hosted.ingress, hosted.attempt) == (peer, header.attempt)


def _is_route(plan: Plan, route: tuple[NodeId, ...], stage: int, here: NodeId) -> bool:
    """Whether ``route`` has one of its servers for every stage, and this node for this one."""
    if len(route) != len(plan.stages) or route[stage] != here:
        return False
    return all(serves(plan, index, node) for index, node in enumerate(route))


def _waits_for(hosted: Hosted, peer: NodeId, header: Resume) -> bool:
    """Whether this is the word that ``hosted`` waits for."""
    if hosted.stand is not Stand.OPENED or hosted.lease is None or hosted.plan.deployment != header.deployment:
        return False
    return (hosted.ingress, hosted.attempt) == (peer, header.attempt)

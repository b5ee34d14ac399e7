"""The route of a session: laid, and laid anew when a machine of it is lost; see ADR 14.

    lay ─► OpenSession to every node of the route, under the next attempt
        ─► SessionOpened from all: how far each one's KV reaches
        ─► Resume to each: begin here, send that again; the ingress feeds the first stage from where it begins

A route avoids who is lost, suspected or out of reach, and who failed this session lately. If the session's own epoch
has none, a newer one that serves may (``Elsewhere``: the KV should go first); if there is none at all, the session
waits and looks again every ``LOOK_S``, until its deadline. A client that was promised nothing yet waits
``BEGIN_S_MAX``.

Nothing here is proof against a machine that answers pings and forgets a session. So a session that hears nothing for
much longer than its tokens take has the nodes of its route asked whether they live, and after ``KICKS`` such spans its
route is laid once more, whoever is to blame: what is there is kept, so this costs little and makes progress.
"""

from array import array
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from shoal_agent.core.facts import LeftOut, RejectCode, Standing
from shoal_agent.core.farewells import Farewells
from shoal_agent.core.ledger import BEGIN_S_MAX, STALL_S, Entry, Failure, Gap, Step
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import decode_macs, run_blocks, servers_of, span_of
from shoal_agent.core.prospects import done_s, late_s
from shoal_agent.core.resume import Reach, Speed, Start, restart_of
from shoal_agent.core.tables import Tables
from shoal_agent.core.tenure import Tenure, route_of
from shoal_agent.core.timers import RequestDue
from shoal_protocol.headers import Activation, CloseReason, CloseSession, OpenSession, Resume
from shoal_protocol.ids import DeploymentId, Instant, NodeId
from shoal_protocol.limits import ATTEMPTS_MAX, PREFILL_CHUNK_TOKENS
from shoal_protocol.measured import LinkMeasured
from shoal_protocol.messages import Plan
from shoal_protocol.tensors import Dtype

LOOK_S: Final = 0.25
"""How often a session without a route looks for one; news of a plan make it look at once."""
OPEN_S: Final = 2.0
"""Until then every stage of a new route should have answered; whoever did not is asked whether it lives."""
KICKS: Final = 8
"""After so many overdue spans the route is laid anew though everybody on it seems to be well."""
RUNS_AT_ONCE: Final = 256
"""Runs given to the first stage in one go; the rest a moment later, so that other sessions' tokens come between."""
FEED_S: Final = 0.01
"""That moment: less than so many runs take."""
AWAY: Final = (Standing.SUSPECT, Standing.DEAD, Standing.LEFT, Standing.LINK_LOST)
"""Standings of those to whom no route leads."""
_PREFILL_REFERENCE_TOKENS: Final = 128
"""The length at which ``BlockFacts.prefill_us`` was measured."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Only another epoch has a route."""

    plan: Plan
    route: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Ahead:
    """What lies before a request that begins: a route, at whose busiest node it is beside ``busiest`` sessions."""

    plan: Plan
    route: tuple[NodeId, ...]
    busiest: int
    answer: int
    """Tokens that are expected of it."""
    own: int = 0
    """Those of ``busiest`` that are this node's own."""
    told: int = 0
    """Those that a node of the route says it serves, whoever asked for them, lately."""


class Rescue:
    """The routes of all requests of this node."""

    def __init__(self, node: NodeId, tables: Tables) -> None:
        self._node = node
        self._tables = tables
        self._tenures = tables.tenures
        self._farewells = Farewells()

    # --- laying ---------------------------------------------------------------------------------------------------

    def away(self, node: NodeId) -> bool:
        """Whether ``node`` is lost, suspected or out of reach."""
        return node in self._tenures.lost or self._tables.membership.standing(node) in AWAY

    def route(self, entry: Entry, tenure: Tenure, now: Instant) -> tuple[NodeId, ...] | None:
        """The nodes to serve ``entry`` in an epoch, stage by stage; None if some stage has nobody.

        A stage stays where it is as long as it can: its KV is there.
        """
        nodes, lost = servers_of(tenure.plan), self._tenures.lost
        avoid = [node for node in nodes if self.away(node) or entry.shuns(node, now)]
        route = route_of(tenure, lost, avoid)
        if route is None or not entry.route or tenure.plan.epoch != entry.plan.epoch:
            return route
        return tuple(
            old if old not in avoid and old not in lost and tenure.able(old, stage) else new
            for stage, (old, new) in enumerate(zip(entry.route, route, strict=True))
        )

    def _find(self, entry: Entry, now: Instant) -> tuple[Plan, tuple[NodeId, ...]] | None:
        """A route in the session's own epoch, else in the newest one that has any."""
        known = list(reversed(self._tenures.of(entry.plan.deployment)))
        if entry.attempt >= 0:
            own = [tenure for tenure in known if tenure.plan.epoch == entry.plan.epoch]
            known = own + [tenure for tenure in known if tenure.plan.epoch > entry.plan.epoch]
        for tenure in known:
            if not tenure.serving(self._tenures.lost) or (entry.attempt < 0 and tenure.closed(now)):
                continue
            route = self.route(entry, tenure, now)
            if route is not None:
                return tenure.plan, route
        return None

    def lay(self, entry: Entry, now: Instant, out: Outbox) -> Failure | Elsewhere | None:
        """Lay a route if there is one, else wait for one."""
        if not entry.accepted and now >= entry.lost_at + BEGIN_S_MAX:
            return Failure(RejectCode.STAGE_LOST, f"for {BEGIN_S_MAX:g} s there was no machine for some stage")
        found = self._find(entry, now)
        if found is None:
            self.stop(entry, None, now)
            entry.step = Step.WAITING
            self.until(entry, Instant(now + LOOK_S))
            return None
        plan, route = found
        if entry.attempt >= 0 and plan.epoch != entry.plan.epoch:
            return Elsewhere(plan, route)
        return self.open(entry, plan, route, now, out)

    def stop(self, entry: Entry, cause: int | None, now: Instant, *, moved: bool = False) -> None:
        """The session stands still from now on, or still does."""
        entry.lost_at = min(entry.lost_at, now)
        if entry.gap is None:
            since = entry.heard_at if entry.step is Step.STREAMING else now
            entry.gap = Gap(since, now, cause, moved)
        elif cause is not None:
            entry.gap.cause, entry.gap.moved = cause, False

    def open(self, entry: Entry, plan: Plan, route: tuple[NodeId, ...], now: Instant, out: Outbox) -> Failure | None:
        """Open the session on a route, under the next attempt."""
        if entry.attempt >= ATTEMPTS_MAX:
            return Failure(RejectCode.STAGE_LOST, f"its route was laid {ATTEMPTS_MAX} times")
        entry.attempt += 1
        entry.plan, entry.route, entry.reaches = plan, route, {}
        entry.step, entry.doubted = Step.OPENING, False
        if plan not in entry.plans:
            entry.plans.append(plan)
        if entry.gap is not None:
            entry.gap.attempts += 1
        chunk_s = (
            max(speed.chunked_s for speed in self._speeds(entry.plan, entry.route, entry.usual_s, entry.left_out))
            * PREFILL_CHUNK_TOKENS
        )
        self.until(entry, Instant(now + max(OPEN_S, 2 * chunk_s if entry.attempt else 0.0)))
        for stage, node in enumerate(route):
            header = OpenSession(
                plan.deployment,
                plan.epoch,
                entry.session,
                stage,
                entry.tokens_max,
                entry.left_ms(now),
                entry.request.sampling,
                entry.attempt,
                route,
                entry.left_out,
            )
            out.send(node, header, array("q", entry.tokens).tobytes() if stage == len(route) - 1 else None)
        return None

    # --- going on -------------------------------------------------------------------------------------------------

    def resume(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Every stage answered: tell each where it begins, and feed the first."""
        wanted, stages = len(entry.tokens), range(len(entry.route))
        speeds = self._speeds(entry.plan, entry.route, entry.usual_s, entry.left_out)
        # A first attempt begins where every session does, whatever its stages say they have.
        reaches = [entry.reaches[stage] if entry.attempt else Reach(0, 0) for stage in stages]
        restart = restart_of(reaches, entry.runs, wanted, speeds, entry.left_s(now))
        if entry.attempt:
            entry.runs = restart.runs
            for stage in stages:
                self._tell(entry, stage, restart.starts[stage], out)
        if entry.gap is not None:
            entry.gap.resumed, entry.gap.restart, entry.gap.position = now, restart, wanted
        entry.step, entry.heard_at = Step.STREAMING, now
        count = wanted - entry.runs.floor(wanted - 1)
        first_s = restart.cost_s + count * sum(speed.single_s for speed in speeds)
        entry.patience_s = max(STALL_S, 2 * first_s)
        entry.fed = restart.starts[0].position
        self.feed(entry, now, out)
        self.until(entry, Instant(now + entry.span_s))

    def _tell(self, entry: Entry, stage: int, start: Start, out: Outbox) -> None:
        plan = entry.plan
        header = Resume(
            plan.deployment, plan.epoch, entry.session, stage, entry.attempt, start.position, start.replay_from
        )
        out.send(entry.route[stage], header)

    def feed(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Give the first stage what it has not had, in the runs of the first time."""
        end = len(entry.tokens)
        for number, (start, stop) in enumerate(entry.runs.between(entry.fed, end)):
            if number == RUNS_AT_ONCE:
                self._arm(entry, Instant(now + FEED_S))
                return
            self._send(entry, start, stop, now, out)
        entry.fed = end

    def feed_one(self, entry: Entry, now: Instant, out: Outbox) -> None:
        """Give the first stage the token that was just drawn."""
        end = len(entry.tokens)
        self._send(entry, end - 1, end, now, out)

    def _send(self, entry: Entry, start: int, stop: int, now: Instant, out: Outbox) -> None:
        plan, tokens = entry.plan, array("q", entry.tokens[start:stop])
        header = Activation(
            plan.deployment,
            plan.epoch,
            entry.session,
            0,
            start,
            stop - start,
            stop == len(entry.tokens),
            entry.left_ms(now),
            Dtype.I64,
            (1, stop - start),
            entry.attempt,
        )
        entry.fed = stop
        out.send(entry.route[0], header, tokens.tobytes())

    def ahead(self, entry: Entry, others: int, now: Instant) -> Ahead | None:
        """What lies before ``entry``, which begins beside ``others`` of this node, if that can be told."""
        found = self._find(entry, now)
        if found is None or found[0].model not in self._tables.models:
            return None
        plan, route = found
        answer = min(plan.terms.answer_tokens, entry.tokens_max - entry.prompt_tokens)
        told = max(self._sessions(node) for node in route)
        return Ahead(plan, route, max(others, told), answer, others, told)

    def done_s(self, entry: Entry, ahead: Ahead, left_out: LeftOut | None) -> float:
        """How long ``entry`` would take without these blocks."""
        speeds = self._speeds(ahead.plan, ahead.route, 0.0, left_out)
        return done_s(ahead.busiest, entry.prompt_tokens, ahead.answer, speeds, self._trip_s(ahead.route))

    def late_s(self, entry: Entry, ahead: Ahead, now: Instant) -> float | None:
        """After how long to ask again, if ``entry`` could not be done in time."""
        if ahead.busiest == 0:
            return None  # nobody is in its way: it may be late, and trying again would not help
        speeds, trip_s = self._speeds(ahead.plan, ahead.route, 0.0, entry.left_out), self._trip_s(ahead.route)
        return late_s(ahead.busiest, entry.prompt_tokens, ahead.answer, speeds, entry.left_s(now), trip_s)

    def takes_s(
        self, deployment: DeploymentId, others: int, prompt: int, answer: int | None, answer_max: int
    ) -> float | None:
        """How long a request to come would take its stages beside ``others``; None if there is no way to tell.

        Of an answer whose length is not known nothing is held against it while nobody is in its way, as in ``late_s``.
        """
        tenure = self._tenures.serving(deployment)
        if tenure is None or tenure.plan.model not in self._tables.models:
            return None
        plan, lost = tenure.plan, self._tenures.lost
        route = route_of(tenure, lost, [node for node in servers_of(plan) if self.away(node)])
        if route is None:
            return None
        busiest = max([others, *(self._sessions(node) for node in route)])
        unknown = min(plan.terms.answer_tokens, answer_max) if busiest else 0
        tokens = unknown if answer is None else min(answer, answer_max)
        return done_s(busiest, prompt, tokens, self._speeds(plan, route, 0.0), self._trip_s(route))

    def _trip_s(self, route: tuple[NodeId, ...]) -> float:
        """The way around, by the links that were measured."""
        return sum(self._hop_s(one, next_) for one, next_ in pairwise((self._node, *route, self._node)))

    def _hop_s(self, one: NodeId, other: NodeId) -> float:
        ends = ((one, other), (other, one))
        rtts_us = (link.rtt_us for end, peer in ends for link in self._links(end) if link.peer == peer)
        return 0.0 if one == other else next(rtts_us, 0) / 2e6

    def _links(self, node: NodeId) -> tuple[LinkMeasured, ...]:
        if node == self._node:
            return self._tables.links
        peer = self._tables.membership.peer(node)
        return () if peer is None else peer.state.links

    def _sessions(self, node: NodeId) -> int:
        """How many sessions ``node`` said it serves, whoever asked for them."""
        peer = self._tables.membership.peer(node)
        return 0 if peer is None else peer.state.load.session_count

    def _speeds(
        self, plan: Plan, route: tuple[NodeId, ...], usual_s: float, left_out: LeftOut | None = None
    ) -> list[Speed]:
        """What a position takes at each stage of the route: by the package's profile, else by what tokens took."""
        facts = self._tables.models.get(plan.model)
        if facts is None:
            share_s = usual_s / len(route)
            return [Speed(share_s, share_s)] * len(route)
        speeds = []
        for stage, node in enumerate(route):
            span, macs_per_s = span_of(plan, stage), self._macs_per_s(node) or facts.reference_macs_per_s
            blocks = [block for block in run_blocks(facts, span, left_out) if block is not None]
            prefill_us = sum(block.prefill_us for block in blocks) / _PREFILL_REFERENCE_TOKENS
            chunked_s = prefill_us * facts.reference_macs_per_s / macs_per_s / 1e6
            speeds.append(Speed(decode_macs(facts, span, left_out) / macs_per_s, chunked_s))
        return speeds

    def _macs_per_s(self, node: NodeId) -> float:
        """What ``node`` calculates, as it was measured; 0 if nothing is known."""
        peer = self._tables.membership.peer(node)
        state = self._tables.state if node == self._node else None if peer is None else peer.state
        if state is None:
            return 0.0
        return state.capacity.speed_macs_per_s * 1000 / (state.stage_permille or 1000)

    def close(self, entry: Entry, reason: CloseReason, now: Instant, out: Outbox) -> None:
        """Have everybody who may hold something of the session free it."""
        nodes = tuple(dict.fromkeys(node for plan in entry.plans for node in servers_of(plan)))
        for node in nodes:
            out.send(node, CloseSession(entry.session, reason))
        if nodes:
            self._farewells.say(entry.session, nodes, entry.deadline, now)

    @staticmethod
    def close_epoch(entry: Entry, plan: Plan, out: Outbox) -> None:
        """The session moved: what belongs to the epoch of ``plan`` is not needed any more."""
        for node in servers_of(plan):
            out.send(node, CloseSession(entry.session, CloseReason.FINISHED, plan.epoch))

    def lost(self, node: NodeId, now: Instant) -> None:
        """What was said to ``node`` lately may not have arrived."""
        self._farewells.lost(node, now)

    def back(self, node: NodeId, now: Instant, out: Outbox) -> None:
        """``node`` can be reached: say what may not have arrived."""
        for session, deadline in self._farewells.back(node, now):
            out.send(node, CloseSession(session, CloseReason.FINISHED))
            self._farewells.say(session, (node,), deadline, now)

    # --- waiting --------------------------------------------------------------------------------------------------

    def until(self, entry: Entry, at: Instant) -> None:
        """The step under way may last so long."""
        entry.until = at
        self._arm(entry, at)

    def _arm(self, entry: Entry, at: Instant) -> None:
        """Look at the request again then, if not before."""
        if at < entry.due_at:
            entry.due_at = at
            self._tables.timers.set(RequestDue(entry.session), at)

    def look_soon(self, entry: Entry, now: Instant) -> None:
        """Look at the request again in a moment."""
        self._arm(entry, Instant(now + LOOK_S))

    def hopeless(self, entry: Entry, now: Instant) -> bool:
        """Whether nothing was heard for so long that the route should be laid anew, whoever is to blame."""
        return now - entry.heard_at >= KICKS * entry.span_s

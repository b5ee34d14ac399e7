"""Who is alive: the failure detector. What is judged of one node stands in ``sight``, of all in ``verdicts``.

    beats overdue, a link lost, a last will, an accusation        any of these only asks:
      └─► ping, over the data plane ──► answered in time ── ALIVE, or MQTT_LOST if its beats stay away
            │ 250 ms                 └► answered late ───── SLOW
            ├─► three others ping it ─► it answers them ─── LINK_LOST
            │ 500 ms, or refused: nobody listens there
            └─► SUSPECT, said aloud ─► others agree, or time passes ─► DEAD, said aloud
                  └─► any word of its own, or an answer ─► alive again, at any point

What others say can only hurry what this node finds itself: an accusation makes it ask, and shortens a suspicion it
already has; without an unanswered ping of its own it declares nobody dead, whoever says what. Nor can others keep the
dead alive: that somebody else reaches a node is believed for ``HEARSAY_S``, then the node itself must have said
something new, through whomever.

A refusal is an answer of the peer's machine, and the quickest evidence there is. It is void if the node is heard all
the same (a firewall), until a ping is answered again; words that were under way when it died mean nothing.

While ``health`` says that this node itself is cut off, nobody is accused and no suspicion ends. When this process
slept, alarms ring late; then the answers may lie in its sockets, so it asks again instead of judging.
"""

from collections.abc import Collection
from math import inf
from random import Random
from typing import Final, Literal, assert_never

from shoal_agent.core.asking import AGAIN_S, GRACE_S, Asking
from shoal_agent.core.detector import Detector
from shoal_agent.core.facts import BY_BROKER, RELAYED, LinkFault, Road, SelfAccused, Standing, Symptom, Watched
from shoal_agent.core.health import LATE_S
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.sight import PING_S, Sight, Step
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import ProbeDue, RelayDue, Routine, SuspicionDue, WatchAlarm
from shoal_agent.core.verdicts import Verdicts
from shoal_agent.core.voice import Voice
from shoal_protocol.headers import Ping, PingAnswered, PingReported, PingRequested
from shoal_protocol.ids import Incarnation, Instant, NodeId, Sequence
from shoal_protocol.messages import Accused

HINT_SPACING_S: Final = 0.25
"""Whoever was asked so recently is not asked again at a hint, but after this."""
ACCUSED_SPACING_S: Final = 1.0
"""The same for accusations, which anybody can make up."""
ROUND_S: Final = 30.0
"""Every link of the circle is measured this often."""
REFUTE_SPACING_S: Final = 0.5
"""This node refutes an accusation of itself at most twice a second: one fresh word answers all of them."""
TOMBSTONE_S: Final = 24 * 3600.0
"""The dead are remembered for a day, so that who comes back is known to come back."""
TOMBSTONES_MAX: Final = 1024
"""And no more of them: the longest dead are forgotten first."""

Changes = tuple[Watched, ...]


class Watch:
    """Everybody this node watches."""

    def __init__(self, node: NodeId, tables: Tables, voice: Voice, rng: Random) -> None:
        self._node = node
        self._tables = tables
        self._timers = tables.timers
        self._sights: dict[NodeId, Sight] = {}
        self._detector = Detector()
        self._verdicts = Verdicts(tables, voice)
        self._asking = Asking(self._sights, tables.timers, self._detector, self._verdicts, rng)
        self._look_at = Instant(0.0)
        """When SILENCE rings."""
        self._turn = 0
        self._refuted_at = Instant(-REFUTE_SPACING_S)

    # --- what others may ask --------------------------------------------------------------------------------------

    def standing(self, node: NodeId) -> Standing:
        """What is thought of ``node``; UNKNOWN if it is not watched."""
        if node == self._node:
            return Standing.ALIVE
        sight = self._sights.get(node)
        return sight.standing if sight is not None else Standing.UNKNOWN

    def alive(self, node: NodeId) -> bool:
        """Whether there is some sign of ``node``."""
        return node == self._node or (node in self._sights and self._sights[node].living)

    def standings(self) -> dict[NodeId, Standing]:
        """Everybody watched, by name."""
        return {node: sight.standing for node, sight in self._sights.items()}

    def rtt_us(self, node: NodeId) -> int | None:
        """The best of the last round trips to ``node``."""
        return self._asking.pings.rtt_us(node)

    def isolated(self) -> bool:
        """Whether it is rather this node that is cut off: accuse nobody, propose nothing."""
        return self._verdicts.health.isolated

    @property
    def health(self) -> int:
        """Lifeguard's multiplier, for the heartbeat: 0 is well."""
        return self._verdicts.health.multiplier

    # --- whom to watch --------------------------------------------------------------------------------------------

    def watched(self, shard: Collection[NodeId], circle: Collection[NodeId], now: Instant) -> None:
        """From now on watch all of these, and measure the links to the ``circle``.

        Whoever is not among them is forgotten, the dead excepted: they keep their tombstones.
        """
        wanted = sorted({*shard, *circle} - {self._node})
        kept = set(wanted)
        for node in [node for node, sight in self._sights.items() if node not in kept and not sight.over]:
            self.forget(node)
        for node in wanted:
            if node not in self._sights:
                self._sights[node] = Sight(node, since=now, brokered_at=now)
                self._detector.expect(node, now)
        self._verdicts.circle = tuple(sorted(set(circle) - {self._node}))
        self._await(now)
        if Routine.PING not in self._timers:
            self._timers.set(Routine.PING, Instant(now + AGAIN_S))

    def forget(self, node: NodeId) -> None:
        """``node`` is no concern of ours any more."""
        if self._sights.pop(node, None) is None:
            return
        self._verdicts.acquit(node)
        self._verdicts.health.gone(node)
        self._detector.forget(node)
        self._asking.pings.forget(node)
        self._tables.membership.stand(node, Standing.UNKNOWN)
        self._timers.clear(ProbeDue(node))

    # --- signs of life --------------------------------------------------------------------------------------------

    def heard(
        self, node: NodeId, incarnation: Incarnation, sequence: Sequence, road: Road, now: Instant, *, beat: bool
    ) -> Changes:
        """An envelope of ``node`` was accepted; a last will is none of its words, it was written in advance."""
        sight = self._sights.get(node)
        if sight is None or incarnation < sight.newest_life:
            return ()
        if sequence <= sight.newest_sequence and incarnation == sight.newest_life:
            return ()
        if road is RELAYED:
            self._told(sight, incarnation, sequence, now)
            return ()
        if incarnation > sight.life:
            self._reborn(sight, incarnation)
        elif not sight.calm and (sight.standing is Standing.LEFT or sight.is_stale_word(now)):
            return ()
        sight.newest_life, sight.newest_sequence = incarnation, sequence
        sight.word_at = now
        if beat:
            detector = self._detector
            detector.heard(node, now)
            if now < detector.earliest < self._look_at:
                self._await(now)
        if road is BY_BROKER:
            sight.brokered_at = now
            if sight.calm:
                return ()
        return self._word(sight, road, now)

    def _told(self, sight: Sight, incarnation: Incarnation, sequence: Sequence, now: Instant) -> None:
        """Somebody hands on a word that is news: it lived when it said so."""
        reborn = incarnation > sight.newest_life
        sight.newest_life, sight.newest_sequence = incarnation, sequence
        sight.hearsay_since = None
        if reborn and sight.standing is Standing.DEAD:
            self._asking.arm(sight, now)

    def _reborn(self, sight: Sight, life: int) -> None:
        """A new life: what was found out about the old one is void."""
        self._detector.forget(sight.node)
        sight.life = life
        sight.refused_at = sight.broken_at = 0.0
        sight.link_lost = sight.refusal_void = False

    def _word(self, sight: Sight, road: Road, now: Instant) -> Changes:
        """It lives: it said something just now."""
        if sight.standing in (Standing.SUSPECT, Standing.DEAD):
            # Find out at once what that was.
            self._asking.arm(sight, now)
        sight.refusal_void = sight.refused_at > 0.0
        self._verdicts.lives(sight, now)
        new = sight.after_word(road, now, broker_up=self._verdicts.broker_up)
        why = Symptom.MQTT if new is Standing.MQTT_LOST else Symptom.HEARD
        return self._verdicts.stand(sight, new, why, now)

    def left(self, node: NodeId, now: Instant) -> Changes:
        """``node`` said goodbye; only a new life of it can come back."""
        sight = self._sights.get(node)
        if sight is None:
            return ()
        self._detector.forget(node)
        return self._verdicts.stand(sight, Standing.LEFT, Symptom.GOODBYE, now)

    # --- frames ---------------------------------------------------------------------------------------------------

    def frame(
        self, peer: NodeId, header: Ping | PingAnswered | PingRequested | PingReported, now: Instant, out: Outbox
    ) -> Changes:
        """A ping, an answer, or a question about somebody else."""
        match header:
            case Ping(nonce):
                out.send(peer, PingAnswered(nonce))
                return self._called(peer, now)
            case PingAnswered(nonce):
                return self._answered(peer, nonce, now, out)
            case PingRequested():
                self._asking.relay(peer, header, now, out)
                return ()
            case PingReported():
                return self._reported(peer, header, now)
            case _:
                assert_never(header)

    def _called(self, peer: NodeId, now: Instant) -> Changes:
        """Who pings us lives, whether or not we reach it."""
        sight = self._sights.get(peer)
        if sight is None or sight.standing is Standing.LEFT or sight.is_stale_word(now):
            return ()
        sight.word_at = now
        return () if sight.calm else self._word(sight, Road.DIRECT, now)

    def _answered(self, peer: NodeId, nonce: int, now: Instant, out: Outbox) -> Changes:
        took_s = self._asking.pings.answered(peer, nonce, now)
        self._asking.settle(peer, out, reached=True)
        sight = self._sights.get(peer)
        if sight is None or took_s is None or sight.standing is Standing.LEFT:
            return ()
        sight.answered(now)
        for accuser in sight.accusers:
            # It is well for us: then only the accuser's own link may be at fault.
            out.send(accuser, PingReported(0, peer, reached=True))
        self._verdicts.lives(sight, now)
        if took_s <= PING_S:
            self._verdicts.health.heal()
        new = sight.after_answer(took_s, now, broker_up=self._verdicts.broker_up)
        self._asking.rest(sight, new, now)
        self._await(now)
        self._measured()
        why = {Standing.SLOW: Symptom.LATE, Standing.MQTT_LOST: Symptom.MQTT}.get(new, Symptom.HEARD)
        return self._verdicts.stand(sight, new, why, now, f"answered in {took_s * 1000:.1f} ms")

    def _measured(self) -> None:
        """Keep the record's links up to date; it is published when they have moved enough."""
        self._tables.link((node, self.rtt_us(node)) for node in self._verdicts.circle)

    def _reported(self, helper: NodeId, report: PingReported, now: Instant) -> Changes:
        """Somebody else reached it, or did not either."""
        sight = self._sights.get(report.target)
        if sight is None or sight.over or helper == report.target:
            return ()
        if report.nonce and not sight.series <= report.nonce <= sight.nonce:
            return ()
        if not report.reached:
            self._verdicts.accuse(sight, helper, now)
            return ()
        sight.vouched = True
        if sight.standing is not Standing.SUSPECT or not sight.believe_hearsay(now):
            return ()
        return self._asking.link_lost(sight, now)

    # --- hints ----------------------------------------------------------------------------------------------------

    def link_up(self, peer: NodeId, now: Instant) -> None:
        """A connection with ``peer`` stands: whoever was thought gone is asked again."""
        sight = self._sights.get(peer)
        if sight is None or sight.standing is Standing.LEFT:
            return
        sight.links += 1
        if not sight.living or sight.standing is Standing.LINK_LOST:
            self._asking.arm(sight, now)

    def relayed(self, peer: NodeId, now: Instant, *, relayed: bool) -> None:
        """Our frames to ``peer`` take another way: what was measured was another link."""
        (self._tables.relayed.add if relayed else self._tables.relayed.discard)(peer)
        self._asking.pings.anew(peer)
        sight = self._sights.get(peer)
        if sight is not None and not sight.over:
            self._asking.arm(sight, now)

    def link_lost(self, peer: NodeId, fault: LinkFault, now: Instant, out: Outbox) -> Changes:
        """A connection with ``peer`` ended, or could not be made."""
        if fault is LinkFault.REFUSED:
            self._asking.settle(peer, out, reached=False)
        sight = self._sights.get(peer)
        if sight is None:
            return ()
        if fault is LinkFault.REFUSED:
            return self._asking.refused(sight, now, out)
        sight.links = max(0, sight.links - 1)
        if fault is LinkFault.BROKEN:
            sight.broken_at = now
        self._asking.hurry(sight, now)
        if sight.standing is not Standing.LINK_LOST:
            self._asking.hint(sight, HINT_SPACING_S, now, out)
        return ()

    def doubt(self, node: NodeId, now: Instant, out: Outbox) -> bool:
        """Somebody here waits for ``node`` in vain: ask it. Whether it was asked and gives no sign of itself."""
        sight = self._sights.get(node)
        if sight is None:
            return False
        self._asking.hint(sight, HINT_SPACING_S, now, out)
        return sight.doubt(now)

    def will(self, node: NodeId, broker: str, now: Instant, out: Outbox) -> Changes:
        """``broker`` says that ``node`` hung up without a word."""
        sight = self._sights.get(node)
        if sight is not None:
            out.count("last_wills", broker)
            self._asking.hint(sight, HINT_SPACING_S, now, out)
        return ()

    def accused(self, sender: NodeId, message: Accused, now: Instant, out: Outbox) -> Changes:
        """``sender`` says that it does not hear somebody."""
        if message.target == self._node:
            if now < self._refuted_at + REFUTE_SPACING_S:
                return ()
            self._refuted_at = now
            return (SelfAccused(sender),)
        sight = self._sights.get(message.target)
        if sight is None or sight.over or sender == message.target or message.incarnation < sight.life:
            return ()
        self._verdicts.accuse(sight, sender, now)
        self._asking.hint(sight, ACCUSED_SPACING_S, now, out)
        return ()

    def brokers_changed(self, now: Instant) -> None:
        """A broker came up or was lost, as ``tables.brokers`` tells; nobody is blamed for what it did not carry."""
        for sight in self._sights.values():
            sight.brokered_at = now
        self._verdicts.weigh(now)

    # --- time -----------------------------------------------------------------------------------------------------

    def rang(
        self,
        alarm: Literal[Routine.SILENCE, Routine.PING] | WatchAlarm,
        now: Instant,
        out: Outbox,
    ) -> Changes:
        """One of the watch's alarms."""
        match alarm:
            case Routine.SILENCE:
                self._look(now, out)
            case Routine.PING:
                self._round(now, out)
            case RelayDue(node):
                self._asking.settle(node, out, reached=False)
            case ProbeDue(node):
                sight = self._sights.get(node)
                return self._asking.due(sight, now, out) if sight is not None else ()
            case SuspicionDue(node):
                sight = self._sights.get(node)
                return self._verdicts.due(sight, now, out) if sight is not None else ()
            case _:
                assert_never(alarm)
        return ()

    def _await(self, now: Instant) -> None:
        """Look when the next heartbeat may be overdue."""
        if self._detector.earliest < inf:
            self._look_at = Instant(max(now, self._detector.earliest))
            self._timers.set(Routine.SILENCE, self._look_at)

    def _look(self, now: Instant, out: Outbox) -> None:
        """Ask whoever's heartbeat is overdue, unless it was we who slept."""
        if now - self._look_at > LATE_S:
            self._asking.overslept(now)
            self._look_at = Instant(now + GRACE_S)
            self._timers.set(Routine.SILENCE, self._look_at)
            return
        self._verdicts.health.on_time(now)
        for node in self._detector.fell_silent(now):
            sight = self._sights[node]
            if not sight.over:
                self._asking.ask(sight, now, out)
        self._await(now)

    def _round(self, now: Instant, out: Outbox) -> None:
        """Measure one link of the circle, those first that never were; bury the long dead."""
        links = [self._sights[node] for node in self._verdicts.circle if node in self._sights]
        idle = [sight for sight in links if sight.living and sight.step is Step.IDLE]
        idle.sort(key=lambda sight: sight.asked_at)
        if idle:
            self._asking.ask(idle[0], now, out)
        is_new = any(self.rtt_us(sight.node) is None for sight in idle[1:])
        self._timers.set(Routine.PING, Instant(now + (AGAIN_S if is_new else ROUND_S / max(1, len(links)))))
        over = sorted((sight.since, node) for node, sight in self._sights.items() if sight.over)
        for index, (since, node) in enumerate(over):
            if now - since > TOMBSTONE_S or index < len(over) - TOMBSTONES_MAX:
                self.forget(node)

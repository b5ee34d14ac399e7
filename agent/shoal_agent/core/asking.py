"""Asking a node whether it lives: ping, ask others to try, judge, ask again.

    IDLE ── ask ──► ASKED ── 250 ms ──► HELPED ── 500 ms ──► judged, IDLE
             │        │                    │                   └─► asked again: at once while anything is unclear,
             │        └────── answer ──────┘                       later while the answer is known and unwelcome
             └─ at most ``ASKING_MAX`` at once, the others wait

When others are asked, it is pinged once more itself: the first ping may have gone down with a link that was about to
break. If the link is known to have broken, that comes sooner; not at once, because the sockets of a process that is
being killed close one after the other, and its listener outlives its connections by some milliseconds.

One alarm per node carries this from step to step. When it rings much too late, this process slept, and the answer may
lie in a socket that was not read yet: the step is given more time instead.
"""

from random import Random
from typing import Final

from shoal_agent.core.detector import Detector
from shoal_agent.core.facts import Standing, StandingChanged, Symptom
from shoal_agent.core.health import LATE_S
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.pings import Pings
from shoal_agent.core.sight import PING_S, Sight, Step
from shoal_agent.core.suspicion import REFUSED, UNANSWERED
from shoal_agent.core.timers import ProbeDue, RelayDue, Timers
from shoal_agent.core.verdicts import Verdicts
from shoal_protocol.headers import Ping, PingReported, PingRequested
from shoal_protocol.ids import Instant, NodeId

HELP_S: Final = 0.25
"""Unanswered for so long, others are asked to try, while there is still time for them to answer."""
HELPERS: Final = 3
"""SWIM's k: three paths at once fail for one reason only, the target."""
ASKING_MAX: Final = 64
"""Nodes asked at once: a whole shard that fell silent with its switch."""
REFUSED_AGAIN_S: Final = 0.15
"""A refused ping is repeated so soon: one accident is not a death."""
BROKEN_AGAIN_S: Final = 0.1
"""So is one whose link broke."""
AGAIN_S: Final = 1.0
"""A node whose beats do not come, or that is slow, is asked every second instead."""
AGAIN_FAR_S: Final = 5.0
"""The same outside the circle: without brokers that is everybody, and nothing depends on them."""
REPAIR_S: Final = 10.0
"""A lost link to a node that is heard is tried again this often."""
GRACE_S: Final = 0.5
"""After our own sleep the sockets are read first."""
STRANGER_FAILURES: Final = 2
"""Unanswered pings after which a node that only left a record, from before our time, is dead: nobody misses it."""

Changes = tuple[StandingChanged, ...]


class Asking:
    """All questions under way."""

    def __init__(
        self, sights: dict[NodeId, Sight], timers: Timers, detector: Detector, verdicts: Verdicts, rng: Random
    ) -> None:
        self._sights = sights
        self._timers = timers
        self._detector = detector
        self._verdicts = verdicts
        self._rng = rng
        self.pings = Pings()

    def ask(self, sight: Sight, now: Instant, out: Outbox) -> None:
        """Ping it, unless too many are being pinged; then a little later."""
        under_way = sum(one.step is not Step.IDLE for one in self._sights.values())
        if sight.step is Step.IDLE and under_way >= ASKING_MAX:
            self.arm(sight, Instant(now + HELP_S))
            return
        sight.asked_at = now
        sight.vouched = False
        self._ping(sight, now, out)
        self.arm(sight, Instant(now + HELP_S), Step.ASKED)

    def _ping(self, sight: Sight, now: Instant, out: Outbox) -> None:
        sight.nonce = self.pings.ask(sight.node, now)
        sight.series = sight.series or sight.nonce
        out.send(sight.node, Ping(sight.nonce))

    def hurry(self, sight: Sight, now: Instant) -> None:
        """The link broke: a ping that was under way is lost, and is repeated soon."""
        if sight.step is Step.ASKED and sight.due > now + BROKEN_AGAIN_S:
            self.arm(sight, Instant(now + BROKEN_AGAIN_S), Step.ASKED)

    def hint(self, sight: Sight, spacing_s: float, now: Instant, out: Outbox) -> None:
        """Something may have happened to it: ask now, or as soon as it may be asked again."""
        if sight.over or sight.step is not Step.IDLE:
            return
        at = sight.asked_at + spacing_s
        if now >= at:
            self.ask(sight, now, out)
        elif ProbeDue(sight.node) not in self._timers or sight.due > at:
            self.arm(sight, Instant(at))

    def overslept(self, now: Instant) -> None:
        """Our alarms ring late: whatever took long may have been we."""
        self._verdicts.health.sicken(now)
        self.pings.overslept()
        for sight in self._sights.values():
            sight.brokered_at = now

    def arm(self, sight: Sight, at: Instant, step: Step = Step.IDLE) -> None:
        """The next step is due ``at``."""
        sight.step = step
        sight.due = at
        sight.calm = sight.is_settled()
        self._timers.set(ProbeDue(sight.node), at)

    def rest(self, sight: Sight, new: Standing, now: Instant) -> None:
        """It answered, and is ``new`` now: when to ask next, if at all."""
        if not self._detector.knows(sight.node):
            self._detector.expect(sight.node, now)
        silent = self._detector.is_silent(sight.node, now)
        if silent or new is Standing.SLOW:
            near = new is Standing.SLOW or sight.node in self._verdicts.circle
            self.arm(sight, Instant(now + (AGAIN_S if near else AGAIN_FAR_S)))
            return
        sight.step = Step.IDLE
        self._timers.clear(ProbeDue(sight.node))

    # --- no answer ------------------------------------------------------------------------------------------------

    def due(self, sight: Sight, now: Instant, out: Outbox) -> Changes:
        """Its alarm rang."""
        if sight.standing is Standing.LEFT:
            return ()
        if sight.step is Step.IDLE:
            self.ask(sight, now, out)
            return ()
        if now - sight.due > LATE_S:
            self.overslept(now)
            self.arm(sight, Instant(now + GRACE_S), sight.step)
            return ()
        if sight.step is Step.ASKED:
            self._ping(sight, now, out)
            self._help(sight, out)
            self.arm(sight, Instant(max(now, sight.asked_at + sight.patience_s)), Step.HELPED)
            return ()
        return self._unanswered(sight, now, out)

    def _help(self, sight: Sight, out: Outbox) -> None:
        """Ask others to try; those first to whom links exist."""
        near = [node for node in self._verdicts.circle if self._can_help(node, sight)]
        far = [node for node in self._sights if node not in near and self._can_help(node, sight)]
        chosen = self._rng.sample(near, min(HELPERS, len(near)))
        chosen += self._rng.sample(far, min(HELPERS - len(chosen), len(far)))
        for helper in chosen:
            out.send(helper, PingRequested(sight.nonce, sight.node))

    def _can_help(self, node: NodeId, sight: Sight) -> bool:
        if node == sight.node or node not in self._sights:
            return False
        return self._sights[node].standing in (Standing.ALIVE, Standing.MQTT_LOST)

    def _unanswered(self, sight: Sight, now: Instant, out: Outbox) -> Changes:
        verdict = sight.after_no_answer(silent=self._detector.is_silent(sight.node, now))
        sight.step = Step.IDLE
        if sight.standing is Standing.DEAD:
            return ()
        if verdict is Standing.LINK_LOST and (sight.word_at > sight.asked_at or sight.believe_hearsay(now)):
            return self.link_lost(sight, now)
        changes: Changes = ()
        if sight.standing is Standing.UNKNOWN:
            if sight.failures >= STRANGER_FAILURES:
                return self._verdicts.stand(sight, Standing.DEAD, sight.symptom(), now, "left a record only")
        elif verdict in (Standing.SUSPECT, Standing.LINK_LOST):
            detail = f"phi {self._detector.phi(sight.node, now):.1f}"
            changes = self._verdicts.suspect(sight, UNANSWERED, detail, now, out)
        self.ask(sight, now, out)
        return changes

    def link_lost(self, sight: Sight, now: Instant) -> Changes:
        """It lives, but the link to it does not."""
        sight.link_lost = True
        self._verdicts.spare(sight, now)
        silent = self._detector.is_silent(sight.node, now)
        self.arm(sight, Instant(now + (AGAIN_S if silent else REPAIR_S)))
        return self._verdicts.stand(sight, Standing.LINK_LOST, Symptom.LINK, now)

    def refused(self, sight: Sight, now: Instant, out: Outbox) -> Changes:
        """Its machine says that nobody listens there."""
        if sight.over or sight.refusal_void:
            return ()
        if sight.step is Step.IDLE:
            self.hint(sight, REFUSED_AGAIN_S, now, out)
            return ()
        sight.refused_at = now
        sight.failures += 1
        if sight.standing is Standing.UNKNOWN:
            self.arm(sight, now)
            return self._verdicts.stand(sight, Standing.DEAD, Symptom.KILLED, now, "left a record only")
        if sight.step is Step.ASKED:
            self._help(sight, out)
        self.arm(sight, Instant(now + REFUSED_AGAIN_S))
        return self._verdicts.suspect(sight, REFUSED, "nobody listens there", now, out)

    # --- for others -----------------------------------------------------------------------------------------------

    def relay(self, asker: NodeId, request: PingRequested, now: Instant, out: Outbox) -> None:
        """Ping somebody in the place of ``asker``; the question is a hint to us as well."""
        target = request.target
        if target == out.node or not self.pings.relay(target, asker, request.nonce):
            return
        if RelayDue(target) not in self._timers:
            self._timers.set(RelayDue(target), Instant(now + PING_S))
        sight = self._sights.get(target)
        if sight is None or sight.over:
            out.send(target, Ping(self.pings.ask(target, now)))
        else:
            # Asked a moment ago, and refused: to ask again at once would send the helpers round in circles.
            self.hint(sight, REFUSED_AGAIN_S, now, out)

    def settle(self, target: NodeId, out: Outbox, *, reached: bool) -> None:
        """Tell those who waited."""
        self._timers.clear(RelayDue(target))
        for asker in self.pings.settle(target):
            out.send(asker.node, PingReported(asker.nonce, target, reached))
        if target not in self._sights:
            self.pings.forget(target)

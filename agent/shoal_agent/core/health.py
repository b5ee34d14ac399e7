"""Is it they, or is it me? A watcher's doubt of itself.

Whoever finds many others silent at once is more likely deaf than they are dead: its own link, broker or scheduler
explains everything with one cause. So before anybody is accused, the watcher counts whom it still has::

    isolated  when  itself and the peers that give any sign  are less than half of  itself and its living peers

Exactly half counts as isolated as well if no broker is connected: then nothing speaks for our own side. (Counting
ourselves makes one silent peer of two a finding and not a doubt: a cluster of three must be able to lose one.) The
dead and those who said goodbye are no longer counted, so slow attrition never looks like isolation. A peer whose
machine answers that nobody listens there is not silent: our link works, and brings bad news.

Doubt ends. If it lasts ``ISOLATED_S_MAX`` and somebody still talks with us, half of the cluster really is gone, say
with one power strip, and the rest must act. With nobody to talk to it never ends, and nothing could come of acting.

``multiplier`` is Lifeguard's local health: 0 is well; it grows with each sign that we are the sick one, and shrinks
with each ping that is answered in time and every ``HEAL_S`` without such a sign. Suspicions last (1 + multiplier)
times as long.
"""

from typing import Final

from shoal_protocol.ids import Instant, NodeId

HEALTH_MAX: Final = 8
"""Lifeguard's: more would only make a sick node useless for longer."""
HEAL_S: Final = 5.0
"""A few seconds on time: what made us late has passed."""
ISOLATED_S_MAX: Final = 20.0
"""A switch that restarts, a cable that is moved: longer than what passes by itself on a LAN."""
LATE_S: Final = 0.3
"""An alarm that rings so late says that this process slept, or starves: what it did not hear may be in its sockets."""


class Health:
    """What this node thinks of itself as a witness."""

    def __init__(self) -> None:
        self.multiplier = 0
        self._living: dict[NodeId, None] = {}
        self._silent: dict[NodeId, None] = {}
        self._since: Instant | None = None
        self._isolated = False
        self._changed_at = Instant(0.0)
        """When the multiplier last changed by a sign of sickness, or by time."""

    @property
    def isolated(self) -> bool:
        """Whether to accuse nobody and to propose nothing."""
        return self._isolated

    @property
    def living_count(self) -> int:
        """Peers heard in this life and not known to be gone."""
        return len(self._living)

    def is_living(self, node: NodeId) -> bool:
        """Whether ``node`` is one of them."""
        return node in self._living

    def lives(self, node: NodeId) -> None:
        """``node`` gave a sign of life."""
        self._living[node] = None
        self._silent.pop(node, None)

    def silent(self, node: NodeId) -> None:
        """``node`` gives no sign on any road, and no reason."""
        if node in self._living:
            self._silent[node] = None

    def explained(self, node: NodeId) -> None:
        """``node`` is silent for a reason of its own."""
        self._silent.pop(node, None)

    def gone(self, node: NodeId) -> None:
        """``node`` is dead, left or not watched any more."""
        self._living.pop(node, None)
        self._silent.pop(node, None)

    def weigh(self, now: Instant, *, broker_up: bool) -> bool:
        """Judge again whether we are isolated; True if that began just now."""
        living, silent = len(self._living), len(self._silent)
        balance = 2 * (1 + living - silent) - (1 + living)
        if not silent or balance > 0 or (balance == 0 and broker_up):
            self._since = None
            self._isolated = False
            return False
        began = self._since is None
        since = now if self._since is None else self._since
        self._since = since
        in_touch = broker_up or silent < living
        self._isolated = now - since < ISOLATED_S_MAX or not in_touch
        if began:
            self.sicken(now)
        return began

    def sicken(self, now: Instant) -> None:
        """A sign that we are the sick one."""
        self._changed_at = now
        self.multiplier = min(self.multiplier + 1, HEALTH_MAX)

    def on_time(self, now: Instant) -> None:
        """An alarm rang when it should."""
        if self.multiplier and now - self._changed_at >= HEAL_S:
            self._changed_at = now
            self.heal()

    def heal(self) -> None:
        """A sign that we are well."""
        self.multiplier = max(self.multiplier - 1, 0)

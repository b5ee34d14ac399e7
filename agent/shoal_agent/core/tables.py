"""The tables that the conductors of a node share: what it believes, holds and waits for.

A conductor writes what is its own and reads the rest: gossip and watch write the membership, staging the tenures, and
nobody asks another conductor a question that a table can answer.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from shoal_agent.core.budgets import NO_TERMS, Budgets
from shoal_agent.core.demand import Demands
from shoal_agent.core.digests import Digests
from shoal_agent.core.facts import ModelFacts
from shoal_agent.core.fading import FADE_S, FadingByName
from shoal_agent.core.lateness import Lateness
from shoal_agent.core.membership import Membership
from shoal_agent.core.pace import Pace
from shoal_agent.core.service_classes import Classes
from shoal_agent.core.story import Story
from shoal_agent.core.tenure import Tenures
from shoal_agent.core.timers import Routine, Timers
from shoal_agent.core.zones import Zones
from shoal_protocol.ids import Digest, Instant, NodeId
from shoal_protocol.limits import LINKS_MAX
from shoal_protocol.measured import LinkMeasured
from shoal_protocol.messages import NodePhase, NodeState

RECORD_SPACING_S: Final = 0.5
"""At most two records a second, however fast things change."""


@dataclass(slots=True)
class Tables:
    """What one node knows."""

    zones: Zones = field(default_factory=lambda: Zones({}))
    membership: Membership = field(default_factory=Membership)
    tenures: Tenures = field(default_factory=Tenures)
    models: dict[Digest, ModelFacts] = field(default_factory=dict)
    services: tuple[str, ...] = ()
    links: tuple[LinkMeasured, ...] = ()
    """The links of this node as it measured them, by peer."""
    digests: Digests = field(default_factory=Digests)
    """How busy others' light services are."""
    abroad: FadingByName = field(default_factory=lambda: FadingByName(FADE_S))
    """How long calls of services that this node has not got take, there and back, for each KiB."""
    relayed: set[NodeId] = field(default_factory=set)
    """Peers that our frames reach through brokers only."""
    isolated: bool = False
    """Half of the living are silent at once: rather this node is cut off, and proposes nothing."""
    pace: Pace = field(default_factory=Pace)
    """How long this node's stages take."""
    budgets: Budgets = field(default_factory=lambda: Budgets(NO_TERMS))
    """What this node draws and costs, over what it may."""
    classes: Classes = field(default_factory=lambda: Classes(()))
    """What it promised its own clients, and how it is kept."""
    lateness: Lateness = field(default_factory=Lateness)
    """How many of this node's own clients waited too long."""
    demands: Demands = field(default_factory=Demands)
    """What they ask for."""
    stage_permille: int = 0
    """What it says of that: measured over predicted time; 0: nothing is known."""
    locked: bool = False
    """Its operator postpones changes."""
    phase: NodePhase = NodePhase.STARTING
    restored: Instant | None = None
    """When this life took up the plans of an earlier one."""
    state: NodeState | None = None
    """This node's own record, as last published."""
    rejected: Counter[str] = field(default_factory=Counter)
    brokers: dict[str, bool] = field(default_factory=dict)
    """Every broker ever connected, and whether it is now."""
    timers: Timers = field(default_factory=Timers)
    story: Story = field(default_factory=Story)

    @property
    def leaving(self) -> bool:
        """Asked to stop, or gone but for its last words: nothing is begun any more."""
        return self.phase in (NodePhase.DRAINING, NodePhase.DISCONNECTED)

    def link(self, trips: Iterable[tuple[NodeId, int | None]]) -> None:
        """Round trips were measured, of some nodes none: these are the links."""
        links = (LinkMeasured(node, rtt_us, node in self.relayed) for node, rtt_us in trips if rtt_us)
        self.links = tuple(links)[:LINKS_MAX]

    def changed(self, now: Instant) -> None:
        """Something that this node's record tells has changed: publish it soon."""
        if Routine.RECORD_SOON not in self.timers:
            self.timers.set(Routine.RECORD_SOON, Instant(now + RECORD_SPACING_S))

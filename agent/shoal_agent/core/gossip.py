"""What a node tells of itself: a heartbeat every second, and its capacity record when it changes.

Saying things again is the repair: brokers lose messages they acknowledged, so state is repeated until it is replaced,
and repeating it is harmless.
"""

from dataclasses import replace
from random import Random
from typing import Final

from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import stage_of
from shoal_agent.core.tables import Tables
from shoal_agent.core.timers import Routine
from shoal_agent.core.voice import CoreConfig, Voice
from shoal_protocol.ids import Instant
from shoal_protocol.messages import DeploymentPhase, Heartbeat, HostedStage, NodeState

HEARTBEAT_S: Final = 1.0
"""A dead node is missed within seconds; a beat costs each hearer about 0.2 ms."""
HEARTBEAT_JITTER: Final = 0.1
"""+-10 %: a cluster that was started at once does not beat at once."""
RECORD_S: Final = 10.0
"""Records and phases are repeated this often even if nothing changed."""


class Gossiper:
    """This node's part in what everybody believes."""

    def __init__(self, config: CoreConfig, tables: Tables, voice: Voice, rng: Random) -> None:
        self._config = config
        self._tables = tables
        self._voice = voice
        self._rng = rng
        self._beat = 0

    def begin(self, now: Instant) -> None:
        """Arm the clock of what is said regularly."""
        self._tables.timers.set(Routine.HEARTBEAT, now)
        self._tables.timers.set(Routine.RECORD, now)

    def beat(self, now: Instant, out: Outbox) -> None:
        """Say: I am here."""
        jitter = 1 + HEARTBEAT_JITTER * (2 * self._rng.random() - 1)
        self._tables.timers.set(Routine.HEARTBEAT, Instant(now + HEARTBEAT_S * jitter))
        if self._tables.state is not None:
            self._beat += 1
            self._voice.say(Heartbeat(self._beat, self._tables.state.version), now, out)

    def publish(self, sessions: int, kv_bytes: int, now: Instant, out: Outbox) -> None:
        """Say everything this node says about itself."""
        tables, sampled = self._tables, self._voice.sampled
        tables.timers.set(Routine.RECORD, Instant(now + RECORD_S))
        tables.timers.clear(Routine.RECORD_SOON)
        tables.state = NodeState(
            version=1 if tables.state is None else tables.state.version + 1,
            phase=tables.phase,
            data=self._config.data,
            api=self._config.api,
            capacity=sampled.capacity,
            load=replace(sampled.load, session_count=sessions, kv_bytes=kv_bytes),
            hosted=tuple(self._hosted()),
            models=tuple(sorted(tables.models)),
            services=tables.services,
            software=self._config.software,
        )
        self._voice.say(tables.state, now, out, retain=True)

    def _hosted(self) -> list[HostedStage]:
        held = []
        for tenure in self._tables.tenures.all():
            stage = stage_of(tenure.plan, self._voice.identity.node)
            if stage is not None and tenure.mine in (DeploymentPhase.READY, DeploymentPhase.ACTIVE):
                part = tenure.plan.stages[stage]
                held.append(HostedStage(tenure.plan.deployment, tenure.plan.epoch, part.first_block, part.last_block))
        return held

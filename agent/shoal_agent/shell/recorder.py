"""Writes a node's flight recording while it lives.

Stands between the runtime and the node, and sees what passes: each event with its instant, each signature, the mark of
each list of effects. Made only where ``node.flight_bytes_max`` is set, because it holds what clients said. Writing is
buffered by the operating system alone: a killed process loses nothing of it, a lost machine the last seconds, and no
token waits for a disk.
"""

from pathlib import Path
from typing import Final

from shoal_agent.core.effects import Effect
from shoal_agent.core.events import Event
from shoal_agent.core.flight import Departure, Step, WillAsked, mark_of, write
from shoal_agent.core.node import Node
from shoal_agent.shell.files import create_private
from shoal_protocol.ids import Instant
from shoal_protocol.sealing import Sealer

FLIGHT_FILE: Final = "flight"


class RecordingSealer:
    """Signs as the node's own sealer does, and remembers what was signed since it was last asked."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._signatures: list[bytes] = []

    @property
    def public_key(self) -> bytes:
        """The node's."""
        return self._sealer.public_key

    def sign(self, pae: bytes) -> bytes:
        """The node's signature."""
        signature = self._sealer.sign(pae)
        self._signatures.append(signature)
        return signature

    def collect(self) -> tuple[bytes, ...]:
        """The signatures made since the last call."""
        made, self._signatures = tuple(self._signatures), []
        return made


class Recorder:
    """A node with a recording of it."""

    def __init__(self, node: Node, sealer: RecordingSealer, departure: Departure, file: Path, bytes_max: int) -> None:
        self._node = node
        self._sealer = sealer
        self._stream = create_private(file)
        self._bytes_left = bytes_max
        self._write(write(departure))

    def handle(self, event: Event, now: Instant) -> list[Effect]:
        """As the node's."""
        effects = self._node.handle(event, now)
        self._write(write(Step(now, event, self._sealer.collect(), mark_of(effects))))
        return effects

    def deadline(self) -> Instant | None:
        """As the node's."""
        return self._node.deadline()

    def check(self) -> None:
        """As the node's."""
        self._node.check()

    def will(self, broker: str, connection: int, now: Instant) -> tuple[str, bytes]:
        """As the node's."""
        will = self._node.will(broker, connection, now)
        self._write(write(Step(now, WillAsked(broker, connection), self._sealer.collect(), b"")))
        return will

    def close(self) -> None:
        """Nothing more will be recorded."""
        self._stream.close()

    def _write(self, data: bytes) -> None:
        """The recording ends, whole, where it would grow too long; the node lives on."""
        if self._bytes_left >= len(data):
            self._bytes_left -= len(data)
            self._stream.write(data)
        else:
            self._bytes_left = 0

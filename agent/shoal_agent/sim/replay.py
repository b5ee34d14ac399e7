"""A recorded life, lived again: the same node, the same events, the same steps.

The recording says how the node began and what happened to it; the node itself is this machine's code. If every step
gives the effects whose mark was recorded, the code that runs here is the code that ran there, and whatever it did can
be watched as slowly as one likes. The first step that differs is reported and ends the replay, because nothing after it
means anything.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final

from shoal_agent.core.flight import Departure, Step, UnreadableFlight, WillAsked, mark_of, read
from shoal_agent.core.node import Node
from shoal_agent.core.story import Entry
from shoal_agent.core.voice import Identity
from shoal_protocol.errors import RemoteProtocolError
from shoal_protocol.ids import Instant
from shoal_protocol.roster import TrustedRoster

CHUNK_BYTES: Final = 1024 * 1024
DIFFERENCE_CHARS: Final = 2000
"""Of the effects of a step that differs: enough to see which."""


class RecordedSealer:
    """Signs with the signatures that were recorded, in their order; the key stayed where it was."""

    def __init__(self, public_key: bytes) -> None:
        self._public_key = public_key
        self._waiting: list[bytes] = []

    @property
    def public_key(self) -> bytes:
        """The recorded node's."""
        return self._public_key

    def expect(self, signatures: Iterable[bytes]) -> None:
        """What the next step signed when it was recorded."""
        self._waiting = list(signatures)

    def sign(self, pae: bytes) -> bytes:
        """The next of them; a step that signs more than was recorded is not the same step."""
        if not self._waiting:
            raise UnreadableFlight(f"this step signs more than was recorded: {pae[:60]!r}")
        return self._waiting.pop(0)


@dataclass(slots=True)
class Replay:
    """What came of it. ``difference`` is None if every step was the recorded one."""

    departure: Departure
    steps: int = 0
    seconds: float = 0.0
    events: Counter[str] = field(default_factory=Counter)
    difference: str | None = None
    story: tuple[Entry, ...] = ()


def replay(file: Path, steps_max: int | None = None) -> Replay:
    """Live the recording in ``file`` again, the first ``steps_max`` steps of it; UnreadableFlight if it is none."""
    with file.open("rb") as stream:
        values = read(iter(lambda: stream.read(CHUNK_BYTES), b""))
        departure = next(values)
        assert isinstance(departure, Departure), "the reader promises it"
        return _live(departure, islice(values, steps_max))


def _live(departure: Departure, steps: Iterator[Departure | Step]) -> Replay:
    sealer = RecordedSealer(departure.public_key)
    node = _born(departure, sealer)
    result = Replay(departure)
    for step in steps:
        assert isinstance(step, Step), "the reader promises it"
        sealer.expect(step.signatures)
        result.steps += 1
        result.seconds = step.now - departure.now
        result.events[type(step.event).__name__] += 1
        result.difference = _differs(node, step, result.steps)
        if result.difference is not None:
            break
    result.story = node.story().entries()
    return result


def _born(departure: Departure, sealer: RecordedSealer) -> Node:
    try:
        roster = TrustedRoster.open(
            departure.roster, departure.root_keys, departure.root_threshold, departure.roster_unix_s
        )
    except RemoteProtocolError as fault:
        raise UnreadableFlight(f"its roster is not what its root keys signed: {fault}") from fault
    identity = Identity(departure.node, departure.incarnation, sealer, roster)
    return Node(departure.config, identity, Random(departure.seed), departure.now)  # noqa: S311 - the recorded chance, not new


def _differs(node: Node, step: Step, number: int) -> str | None:
    """What this step does that the recorded one did not; None if nothing."""
    try:
        if isinstance(step.event, WillAsked):
            node.will(step.event.broker, step.event.connection, Instant(step.now))
            return None
        effects = node.handle(step.event, Instant(step.now))
    except UnreadableFlight as fault:
        return f"step {number}, {type(step.event).__name__}: {fault}"
    if mark_of(effects) == step.mark:
        return None
    return f"step {number}, {step.event!r:.{DIFFERENCE_CHARS}}: now gives {effects!r:.{DIFFERENCE_CHARS}}"

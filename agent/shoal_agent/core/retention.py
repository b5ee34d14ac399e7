"""Outputs a stage has sent and could send again.

When the stage after it is lost, whoever takes its place lacks the last few positions, and needs as input just what this
stage has sent already. To keep that costs memory for a while; to compute it again would cost this stage, and every one
before it, its runs.

Outputs of one session's stage are kept in order and without a gap, so that "from here on" is one number. The oldest go
first when a session's or the node's bytes are used up; each session's newest stays whatever it takes, because it is the
one most likely on its way when a link breaks. Every operation of a token costs the same however much is kept: sessions
stand in a deque each, and all outputs together in one dict, oldest first.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from shoal_agent.core.facts import SessionStage, TensorHandle
from shoal_protocol.limits import RETAINED_BYTES_ALL_MAX, RETAINED_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Output:
    """What one run gave, for positions ``position .. end-1``; ``last`` as its input had it."""

    position: int
    token_count: int
    last: bool
    shape: tuple[int, ...]
    handle: TensorHandle
    byte_count: int

    @property
    def end(self) -> int:
        """The first position after it."""
        return self.position + self.token_count


class Retention:
    """All outputs that one node keeps. What a method returns is kept no longer, and is the caller's to release."""

    def __init__(self, bytes_max: int = RETAINED_BYTES_MAX, bytes_all_max: int = RETAINED_BYTES_ALL_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes_all_max = bytes_all_max
        self._kept: dict[SessionStage, deque[Output]] = {}
        self._bytes: dict[SessionStage, int] = {}
        self._oldest: dict[TensorHandle, SessionStage] = {}
        self._total = 0

    @property
    def byte_count(self) -> int:
        """Bytes kept now."""
        return self._total

    def keep(self, key: SessionStage, output: Output) -> list[TensorHandle]:
        """Keep ``output``, the newest of ``key``; what it replaces, or what would leave a gap before it, goes."""
        gone = self.rewind(key, output.position) if self._ends(key) > output.position else []
        if self._ends(key) != output.position:
            gone += self.drop(key)
        self._kept.setdefault(key, deque()).append(output)
        self._bytes[key] = self._bytes.get(key, 0) + output.byte_count
        self._oldest[output.handle] = key
        self._total += output.byte_count
        while self._bytes[key] > self._bytes_max and len(self._kept[key]) > 1:
            gone.append(self._forget_first(key))
        while self._total > self._bytes_all_max and (crowded := self._oldest_to_spare()) is not None:
            gone.append(self._forget_first(crowded))
        return gone

    def reaches_back(self, key: SessionStage, position: int) -> int:
        """From where on outputs up to ``position`` could be sent again; ``position`` itself: none could."""
        kept = self._kept.get(key)
        return kept[0].position if kept and kept[-1].end == position else position

    def since(self, key: SessionStage, position: int) -> Iterator[Output]:
        """The outputs that reach beyond ``position``, in order."""
        return (output for output in tuple(self._kept.get(key, ())) if output.end > position)

    def rewind(self, key: SessionStage, position: int) -> list[TensorHandle]:
        """Positions from ``position`` on are going to be run again: forget outputs that reach beyond it."""
        kept = self._kept.get(key)
        gone = []
        while kept and kept[-1].end > position:
            gone.append(self._forgotten(key, kept.pop()))
        return gone

    def drop(self, key: SessionStage) -> list[TensorHandle]:
        """Forget all of ``key``."""
        gone = [self._forgotten(key, output) for output in self._kept.pop(key, ())]
        self._bytes.pop(key, None)
        return gone

    def _ends(self, key: SessionStage) -> int:
        kept = self._kept.get(key)
        return kept[-1].end if kept else -1

    def _oldest_to_spare(self) -> SessionStage | None:
        return next((key for key in self._oldest.values() if len(self._kept[key]) > 1), None)

    def _forget_first(self, key: SessionStage) -> TensorHandle:
        return self._forgotten(key, self._kept[key].popleft())

    def _forgotten(self, key: SessionStage, output: Output) -> TensorHandle:
        self._bytes[key] -= output.byte_count
        self._total -= output.byte_count
        del self._oldest[output.handle]
        return output.handle

    def sessions(self) -> tuple[SessionStage, ...]:
        """Whose outputs are here."""
        return tuple(self._kept)

    def check(self) -> None:
        """Assert that the books balance, and that nobody keeps more than is allowed but for its newest."""
        assert self._total == sum(self._bytes.values())
        assert len(self._oldest) == sum(len(kept) for kept in self._kept.values())
        assert self._total <= self._bytes_all_max or all(len(kept) <= 1 for kept in self._kept.values())
        for key, kept in self._kept.items():
            assert self._bytes[key] <= self._bytes_max or len(kept) == 1
            assert kept or not self._bytes[key]

"""How many sessions fit: a budget of KV bytes.

A session's KV is reserved whole when it opens (its longest possible length times the bytes per token of the blocks
it uses here), so a generation that was admitted can never be stopped by another one's growth. That wastes what
short answers do not use; paying it keeps the promise simple: an admitted session finishes.
"""

from shoal_agent.core.facts import SessionStage
from shoal_protocol.limits import SESSIONS_MAX


class KvBudget:
    """Bytes of KV promised to open sessions, at most ``bytes_max`` in all."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._reserved: dict[SessionStage, int] = {}
        self._total = 0

    @property
    def bytes_reserved(self) -> int:
        """Bytes promised now."""
        return self._total

    @property
    def bytes_max(self) -> int:
        """Bytes that may be promised."""
        return self._bytes_max

    def __len__(self) -> int:
        return len(self._reserved)

    def reserved(self, key: SessionStage) -> int:
        """Bytes promised to ``key``."""
        return self._reserved[key]

    def fits(self, kv_bytes: int) -> bool:
        """Whether a session of ``kv_bytes`` could be admitted now."""
        return self._total + kv_bytes <= self._bytes_max

    def crowded(self) -> bool:
        """Whether there are as many sessions as one host keeps, whatever their size."""
        return len(self._reserved) >= SESSIONS_MAX

    def reserve(self, key: SessionStage, kv_bytes: int) -> None:
        """Promise ``kv_bytes`` to ``key``; the caller asked ``fits`` first."""
        assert key not in self._reserved, "a session reserves once per stage"
        assert self.fits(kv_bytes), "reserve without asking"
        self._reserved[key] = kv_bytes
        self._total += kv_bytes

    def free(self, key: SessionStage) -> None:
        """Take the promise to ``key`` back."""
        self._total -= self._reserved.pop(key)

    def check(self) -> None:
        """Assert that the books balance."""
        assert self._total == sum(self._reserved.values())
        assert 0 <= self._total <= self._bytes_max
        assert len(self._reserved) <= SESSIONS_MAX

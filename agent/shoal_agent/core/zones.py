"""Trust zones: which nodes stand in one, by the roster.

An operator puts every member into a zone when it admits it (ADR 5 says who signs that). What a client says to an
ingress may be known in the ingress's own zone; in no other.
"""

from collections.abc import Mapping

from shoal_protocol.ids import NodeId


class Zones:
    """The zone of every member."""

    def __init__(self, zones: Mapping[NodeId, str]) -> None:
        self._zones = zones

    def shared(self, one: NodeId, other: NodeId) -> bool:
        """Whether both are members of one zone."""
        zone = self._zones.get(one)
        return zone is not None and zone == self._zones.get(other)

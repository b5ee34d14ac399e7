"""What is worth saying of oneself: news at once, drift now and then, noise never.

A record is heard by everybody in the share, opened by everybody and kept by everybody, so a node does not publish
every reading of its sensors. What others must act on is **news**: its phase, where it listens, what it hosts, has and
can do, whether its operator holds it. What moves all the time has **drifted** when it has moved by 5 % of its full
scale since it was last told: measured from the last told value, not by rounding both, so that a reading on the edge
of a step does not flicker. What clients ask for is told in steps that do not either (``demand``).
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from shoal_protocol.ids import NodeId
from shoal_protocol.limits import BYTES_PER_S_MAX
from shoal_protocol.measured import LinkMeasured
from shoal_protocol.messages import NodeState

STEPS: Final = 20
"""A reading moves in steps of one in so many of its full scale: 5 %."""
RATE_SHARE: Final = 4
"""What a link carries has drifted when it changed by one part in so many."""
TEMPERATURE_SCALE: Final = 100_000
"""Millidegrees between ice and steam: a step is five degrees."""
OWED_SCALE_S: Final = 600
"""Ten minutes of a budget: a step is half a minute."""
RTT_SHARE: Final = 2
"""A link has drifted when its round trip changed by one part in so many ..."""
RTT_STEP_US: Final = 500
"""... and by so much: below this it is the scheduler's noise."""


def has_news(told: NodeState, state: NodeState) -> bool:
    """Whether ``state`` says something that others may have to act on and ``told`` did not."""
    capacity = replace(state.capacity, disk_free_bytes=told.capacity.disk_free_bytes)
    like_told = replace(
        state,
        version=told.version,
        capacity=capacity,
        load=told.load,
        links=told.links,
        stage_permille=told.stage_permille,
        demands=told.demands,
    )
    return like_told != told


def has_drifted(told: NodeState, state: NodeState) -> bool:
    """Whether some reading of ``state`` is a step away from ``told``."""
    if told.load.session_count != state.load.session_count or told.demands != state.demands:
        return True
    if _links_drifted(told.links, state.links):
        return True
    return any(abs(was - is_now) * STEPS >= scale for was, is_now, scale in _readings(told, state))


def _readings(told: NodeState, state: NodeState) -> Iterator[tuple[int, int, int]]:
    """Each reading as it was told, as it is, and its full scale."""
    was, is_now, capacity = told.load, state.load, told.capacity
    yield was.cpu_permille, is_now.cpu_permille, 1000
    yield was.foreign_permille, is_now.foreign_permille, 1000
    yield told.stage_permille, state.stage_permille, 1000
    yield was.moved_owed_s, is_now.moved_owed_s, OWED_SCALE_S
    yield was.memory_available_bytes, is_now.memory_available_bytes, max(1, capacity.memory_total_bytes)
    yield was.kv_bytes, is_now.kv_bytes, max(1, capacity.memory_bytes)
    yield capacity.disk_free_bytes, state.capacity.disk_free_bytes, max(1, capacity.disk_free_bytes)
    if was.temperature_millicelsius is not None and is_now.temperature_millicelsius is not None:
        yield was.temperature_millicelsius, is_now.temperature_millicelsius, TEMPERATURE_SCALE


def _links_drifted(told: tuple[LinkMeasured, ...], links: tuple[LinkMeasured, ...]) -> bool:
    if [(link.peer, link.relayed) for link in told] != [(link.peer, link.relayed) for link in links]:
        return True
    pairs = list(zip(told, links, strict=True))
    if any(abs(was.bytes_per_s - link.bytes_per_s) * RATE_SHARE > was.bytes_per_s for was, link in pairs):
        return True
    return any(abs(was.rtt_us - link.rtt_us) >= max(RTT_STEP_US, was.rtt_us // RTT_SHARE) for was, link in pairs)


def paced(links: tuple[LinkMeasured, ...], rates: Iterable[tuple[NodeId, int]]) -> tuple[LinkMeasured, ...]:
    """``links`` with how fast their peers' bytes come in; what no field could hold is not told."""
    known = {peer: min(rate, BYTES_PER_S_MAX) for peer, rate in rates if rate > 0}
    return tuple(replace(link, bytes_per_s=known.get(link.peer, 0)) for link in links)

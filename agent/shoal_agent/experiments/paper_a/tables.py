"""Table I, the four pipelines of Fig. 1 and the machines of Fig. 2, as the paper prints them.

Resources are CPU, RAM, GPU, VRAM, in this order. A pair is the ends of a uniform distribution.
"""

from typing import Final

Range = tuple[float, float]

CORES: Final = (4, 5, 6, 8, 10, 11)
"""Encoders of text, image and audio, projection, fusion, reasoning."""
LIGHTS: Final = (1, 2, 3, 7, 9, 12, 13, 14, 15)

CORE_NEEDS: Final[tuple[Range, ...]] = ((2, 16), (1, 4), (4, 32), (4, 32))
CORE_WORK_MB: Final[Range] = (2, 16)
CORE_OUTPUT_MB: Final[Range] = (0.1, 1)
CORE_RATE: Final[Range] = (8, 32)
"""MB/ms, constant."""
CORE_BOOT: Final = 20.0
CORE_RUN: Final = 4.0
"""Per instance and slot."""

LIGHT_NEEDS: Final[tuple[Range, ...]] = ((0.5, 2), (0, 0.5), (0.25, 4), (0, 1))
LIGHT_WORK_MB: Final[Range] = (0.5, 2)
LIGHT_OUTPUT_MB: Final[Range] = (0.25, 1.5)
LIGHT_SHAPE: Final[Range] = (1, 2)
"""Of the Gamma distribution of a slot's rate; its scale belongs to the regime."""
LIGHT_BOOT: Final = 4.0
LIGHT_RUN: Final = 1.5
"""Maintenance 1 and parallelism 0.5, which (7) charges per instance."""

DEVICE_ROOM: Final[tuple[Range, ...]] = ((1, 64), (1, 32), (0, 64), (0, 64))
SERVER_ROOM: Final[tuple[Range, ...]] = ((128, 256), (64, 128), (1024, 2048), (256, 512))
LINK_MB_PER_MS: Final[Range] = (0.1, 1)
TASKS_PER_MS: Final[Range] = (0.15, 1.5)
INPUT_MB: Final[Range] = (0.5, 4)
DEADLINE_MS: Final[Range] = (50, 100)
NAKAGAMI_M: Final[Range] = (1.5, 3)
NAKAGAMI_OMEGA: Final[Range] = (0.5, 1)

DEVICES: Final = 7
SERVERS: Final = 3
SERVER_OF: Final = (0, 0, 0, 1, 1, 2, 2)
"""Which server a device hangs on; servers are linked with each other, and every user has one device."""

PIPELINES: Final[tuple[dict[int, tuple[int, ...]], ...]] = (
    {1: (), 4: (1,), 8: (4,), 11: (8,), 12: (11,)},
    {1: (), 2: (), 4: (1,), 5: (2,), 8: (4, 5), 10: (8,), 13: (10,)},
    {2: (), 5: (2,), 9: (5,), 11: (9,), 14: (11,)},
    {2: (), 3: (), 5: (2,), 6: (3,), 7: (6,), 8: (5, 7), 10: (8,), 15: (10,)},
)
"""Service -> services whose output it needs, parents first: open questions, cross-modal, classification, driving."""

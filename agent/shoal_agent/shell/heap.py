"""The C heap under the weights: in one piece, on huge pages, and given back.

A decode step reads every weight once. In pages of 4 KiB the 180 MB of a small model are 45,000 addresses to look up,
more than any processor remembers; in pages of 2 MiB they are 90, and the step took 8.6 ms instead of 12.8. (A prompt
takes as long as before: its arithmetic hides the looking up.)

The kernel makes a huge page only of memory that lies in one piece. glibc scatters what onnxruntime allocates: a large
piece gets a mapping of its own, and each thread a heap of its own. So there is one heap, nothing is mapped apart, and
once blocks are open the kernel is asked to collapse it into huge pages (Linux 6.1; 0.1 s for 180 MB).

A free end of the heap goes back to the system only above ``SLACK_BYTES``: giving it back after each prompt would cost
17,000 page faults in the next one. Holes go back when asked: without that, 130 of 180 MB stayed after the blocks that
had filled them were closed.

All of this is asked for, never needed: another C library or an older kernel refuses, and things are only slower.
"""

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import Final

MAPPED_APART_BYTES_MIN: Final = 2**30
"""Larger than any weight of a model for these devices."""
SLACK_BYTES: Final = 64 * 2**20
"""More than a prompt chunk needs at a time."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_MADV_COLLAPSE: Final = 25
_WISHES: Final = (
    (_M_ARENA_MAX, 1),
    (_M_MMAP_THRESHOLD, MAPPED_APART_BYTES_MIN),
    (_M_TRIM_THRESHOLD, SLACK_BYTES),
)


def keep_together() -> bool:
    """From now on, one heap for everything. Whether the C library can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(option, value) for option, value in _WISHES)


def use_huge_pages() -> bool:
    """Collapse the heap into huge pages, as far as it fills them. Whether the kernel could; takes 0.5 ms per MB."""
    start, end = _heap()
    failed = ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)
    return end > start and not failed


def trim() -> bool:
    """Give holes back to the system; takes milliseconds. Whether there were any, and the C library can."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim is not None and bool(malloc_trim(ctypes.c_size_t(0)))


def _heap() -> tuple[int, int]:
    """Where the heap lies: first address, and the one after the last; (0, 0) if there is none to be seen."""
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith("[heap]"):
                start, end = line.split(maxsplit=1)[0].split("-")
                return int(start, 16), int(end, 16)
    return 0, 0

"""A wall clock that a test may set: first on the path of an agent's process, this is run before anything else.

The seconds by which it is wrong stand in a file ``skew`` beside the agent's configuration; no file, no error. The
monotonic clock is left alone, as it is when somebody sets a machine's clock.
"""

import sys
import time
from pathlib import Path

_true_time_ns = time.time_ns


def _skew_ns() -> int:
    try:
        return int(float((Path(sys.orig_argv[-1]).parent / "skew").read_text()) * 1e9)
    except (OSError, ValueError):
        return 0


def _time_ns() -> int:
    return _true_time_ns() + _skew_ns()


time.time_ns = _time_ns
time.time = lambda: _time_ns() / 1e9

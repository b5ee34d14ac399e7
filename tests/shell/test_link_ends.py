import asyncio
import inspect

import pytest

from shoal_agent.shell.circuit import Circuit
from shoal_agent.shell.link_ends import Pace, Wire


@pytest.mark.parametrize("wire", [asyncio.Transport, Circuit])
def test_both_kinds_of_wire_take_what_a_link_gives(wire):
    """A link casts asyncio's transport to a Wire, so nobody else would notice a parameter of another name."""
    for name in ("write", "set_write_buffer_limits", "close", "abort"):
        wanted = [each for each in inspect.signature(getattr(Wire, name)).parameters if each != "self"]
        given = [each for each in inspect.signature(getattr(wire, name)).parameters if each != "self"]
        assert given[: len(wanted)] == wanted


def test_a_link_looks_at_the_clock_often_enough_for_every_time_it_judges():
    pace = Pace()
    assert 2 * pace.tick_s <= min(pace.hello_s, pace.quiet_s, pace.silence_s)
    assert 2 * pace.quiet_s < pace.silence_s, "a probe has time to be answered"

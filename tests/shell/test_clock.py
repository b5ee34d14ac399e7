import time

from shoal_agent.shell.clock import Clock, unix_s, wall_ms


def test_time_never_goes_back():
    readings = iter([10.0, 11.0, 9.0, 10.5, 12.0])
    clock = Clock(lambda: next(readings))
    assert [clock.now() for _ in range(4)] == [11.0, 11.0, 11.0, 12.0]


def test_the_machines_clock_moves():
    clock = Clock()
    first = clock.now()
    while clock.now() == first:
        pass
    assert 0 < clock.now() - first < 5.0


def test_wall_time_is_unix_time_in_its_units():
    assert abs(wall_ms() - time.time() * 1000) < 5000
    assert abs(unix_s() - time.time()) < 5

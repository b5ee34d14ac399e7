import os
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest

from shoal_agent.shell import sensors as module
from shoal_agent.shell.cgroup import Limits
from shoal_agent.shell.sensors import MEMORY_SHARE_PERCENT, Foreign, Sensors, cores


def test_capacity_is_this_machines(tmp_path):
    capacity = Sensors(tmp_path, 1 << 30).capacity(5_000_000_000, ("CPUExecutionProvider",))
    assert capacity.memory_bytes == 1 << 30
    assert capacity.memory_total_bytes == psutil.virtual_memory().total
    assert 0 < capacity.disk_free_bytes <= psutil.disk_usage(str(tmp_path)).total
    assert (capacity.speed_macs_per_s, capacity.providers) == (5_000_000_000, ("CPUExecutionProvider",))
    assert capacity.cores == cores()


def test_without_a_bound_a_share_of_what_is_free_is_offered(tmp_path):
    offered = Sensors(tmp_path, None).memory_bytes
    assert 0 < offered < psutil.virtual_memory().total * MEMORY_SHARE_PERCENT / 100


def test_what_the_group_allows_bounds_the_offer(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "limits", lambda: Limits(1, 1_000_000))
    sensors = Sensors(tmp_path, None)
    assert sensors.memory_bytes == 1_000_000 * MEMORY_SHARE_PERCENT // 100
    assert sensors.load().memory_available_bytes == 1_000_000
    assert cores() == 1


def test_cores_are_those_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_the_disk_counts_where_the_store_will_be(tmp_path):
    here = Sensors(tmp_path, 1).capacity(1, ()).disk_free_bytes
    later = Sensors(tmp_path / "not" / "yet", 1).capacity(1, ()).disk_free_bytes
    assert abs(here - later) < 1 << 30


def test_load_is_in_its_bounds_and_never_blocks(tmp_path, monkeypatch):
    asked = []

    def percent(interval):
        asked.append(interval)
        return 250.0

    monkeypatch.setattr(psutil, "cpu_percent", percent)
    load = Sensors(tmp_path, 1).load()
    assert load.cpu_permille == 1000
    assert 0 < load.memory_available_bytes <= psutil.virtual_memory().total
    assert (load.session_count, load.kv_bytes) == (0, 0)
    assert set(asked) == {None}, "an interval would make it wait"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ({}, None),
        ({"nvme": [30.0]}, None),
        ({"cpu_thermal": [48.312]}, 48_312),
        ({"acpitz": [20.0], "coretemp": [61.5, 70.0]}, 61_500),
        ({"coretemp": [None], "acpitz": [27.8]}, 27_800),
    ],
)
def test_the_temperature_is_the_processors_or_none(tmp_path, monkeypatch, groups, expected):
    found = {name: [SimpleNamespace(current=value) for value in values] for name, values in groups.items()}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: found, raising=False)
    assert Sensors(tmp_path, 1).load().temperature_millicelsius == expected


def test_where_temperatures_cannot_be_asked_there_is_none(tmp_path, monkeypatch):
    monkeypatch.delattr(psutil, "sensors_temperatures", raising=False)
    assert Sensors(tmp_path, 1).load().temperature_millicelsius is None


class Times(NamedTuple):
    user: float
    idle: float
    iowait: float
    guest: float


class Machine:
    """A machine whose processors' books can be written by hand."""

    def __init__(self, monkeypatch, processors, usable):
        self.now, self.busy, self.idle, self.own = 0.0, 0.0, 0.0, 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(psutil, "cpu_count", lambda: processors)
        monkeypatch.setattr(psutil, "cpu_times", self.times)
        monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_times=self.own_times))
        monkeypatch.setattr(module, "cores", lambda: usable)
        self.processors = processors

    def times(self):
        return Times(self.busy, self.idle, 0.0, 0.0)

    def own_times(self):
        return SimpleNamespace(user=self.own, system=0.0)

    def work(self, own, others, seconds=10.0):
        self.now += seconds
        self.own += own * seconds
        self.busy += (own + others) * seconds
        self.idle += (self.processors - own - others) * seconds


@pytest.mark.parametrize(
    ("usable", "own", "others", "permille"),
    [
        pytest.param(4, 0.0, 0.0, 0, id="idle"),
        pytest.param(4, 3.0, 0.0, 0, id="our own work"),
        pytest.param(4, 1.0, 2.0, 500, id="half of it is others'"),
        pytest.param(4, 0.0, 4.0, 1000, id="all of it is others'"),
        pytest.param(2, 1.0, 2.0, 0, id="there are processors we may not use"),
        pytest.param(2, 1.0, 3.0, 500, id="others spill over onto ours"),
    ],
)
def test_what_others_take_is_the_machines_work_less_ours(monkeypatch, usable, own, others, permille):
    machine = Machine(monkeypatch, 4, usable)
    foreign = Foreign()
    machine.work(own, others)
    assert foreign.permille() == permille
    machine.work(own, 0.0)
    assert foreign.permille() == 0, "since the last reading"


def test_two_readings_at_once_say_nothing(monkeypatch):
    Machine(monkeypatch, 4, 4)
    assert Foreign().permille() == 0

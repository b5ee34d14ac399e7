import pytest

from shoal_agent.core.budgets import PowerModel
from shoal_agent.shell.power import Meter

MODEL = PowerModel(idle_w=4.0, busy_w=10.0)


def package(root, name, microjoules, around=1_000_000_000):
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{around}\n")


def test_what_the_packages_count_is_what_was_drawn(tmp_path):
    package(tmp_path, "intel-rapl:0", 5_000_000)
    package(tmp_path, "intel-rapl:1", 1_000_000)
    package(tmp_path, "intel-rapl:0:0", 700_000_000)  # part of the first package, and counted there
    meter = Meter(MODEL, 100.0, tmp_path)
    package(tmp_path, "intel-rapl:0", 35_000_000)
    package(tmp_path, "intel-rapl:1", 11_000_000)
    assert meter.read(1.0, 105.0) == (pytest.approx(40.0), 5.0)
    assert meter.read(1.0, 110.0) == (0.0, 5.0)


def test_a_counter_that_ran_over_goes_on(tmp_path):
    package(tmp_path, "intel-rapl:0", 990_000_000)
    meter = Meter(None, 0.0, tmp_path)
    package(tmp_path, "intel-rapl:0", 20_000_000)
    assert meter.read(0.0, 5.0) == (pytest.approx(30.0), 5.0)


@pytest.mark.parametrize("text", ["", "many\n", "-4\n", "3.5"])
def test_a_counter_that_says_nonsense_is_none(tmp_path, text):
    package(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text(text)
    assert Meter(MODEL, 0.0, tmp_path).read(0.5, 2.0) == (14.0, 2.0)


def test_a_counter_that_disappears_is_replaced_by_the_model_and_may_come_back(tmp_path):
    package(tmp_path, "intel-rapl:0", 1_000_000)
    meter = Meter(MODEL, 0.0, tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.read(0.0, 1.0) == (4.0, 1.0)
    package(tmp_path, "intel-rapl:0", 9_000_000)
    assert meter.read(0.0, 2.0) == (4.0, 1.0), "since when it counts is not known"
    package(tmp_path, "intel-rapl:0", 19_000_000)
    assert meter.read(0.0, 3.0) == (pytest.approx(10.0), 1.0)


def test_by_the_model_where_nothing_counts(tmp_path):
    meter = Meter(MODEL, 10.0, tmp_path / "not" / "there")
    assert meter.read(0.5, 12.0) == (14.0, 2.0)
    assert meter.read(0.0, 11.0) == (0.0, 0.0), "a clock that goes back is no time"


def test_with_neither_only_the_time_is_told(tmp_path):
    assert Meter(None, 10.0, tmp_path).read(0.5, 12.0) == (None, 2.0)

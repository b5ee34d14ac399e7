import subprocess
import sys

from shoal_agent.sim.seeds import generator, seed_bytes


def test_a_path_names_one_generator():
    assert generator(1, "node", 3).random() == generator(1, "node", 3).random()


def test_generators_do_not_know_each_other():
    draws = [generator(*path).random() for path in ((1, "node", 3), (1, "node", 4), (2, "node", 3), (1, "network"))]
    assert len(set(draws)) == 4


def test_a_draw_more_in_one_place_shifts_nothing_elsewhere():
    first = generator(7, "network")
    expected = generator(7, "faults").random()
    first.random()
    assert generator(7, "faults").random() == expected


def test_the_hash_seed_has_no_part_in_it():
    code = "from shoal_agent.sim.seeds import generator; print(generator(3, 'a').random())"
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_seed_bytes_are_sixteen():
    assert len(seed_bytes("x")) == 16

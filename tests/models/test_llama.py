"""Rotation tables against the definition."""

import math

import pytest

from shoal_models.importers.gguf import read_llama
from shoal_models.importers.gguf_file import read_gguf
from shoal_models.llama import rotation_tables


@pytest.mark.parametrize(("position", "pair"), [(0, 0), (1, 0), (5, 3), (511, 7)])
def test_angle_is_position_times_frequency(tiny_gguf, position, pair):
    source = read_llama(read_gguf(tiny_gguf))
    cosines, sines = rotation_tables(source)
    assert cosines.shape == sines.shape == (512, 8)
    angle = position * 10_000.0 ** (-2 * pair / 16)
    assert cosines[position, pair] == pytest.approx(math.cos(angle), abs=1e-7)
    assert sines[position, pair] == pytest.approx(math.sin(angle), abs=1e-7)

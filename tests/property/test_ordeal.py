"""Whatever happens to the machines, in whatever order, every answer that was begun is the answer of the whole model."""

from collections import Counter

import pytest

from tests.support.ordeal import ordeal


def test_short_ordeals():
    """They are worth the name: sessions come back in each exact way, and move."""
    counts: Counter[tuple[str, str]] = Counter()
    for seed in range(30):
        for cell in ordeal(seed, steps=8).world.cells.values():
            counts.update(cell.counts)
    for name in (("sessions_resumed", "kv"), ("sessions_resumed", "replay"), ("sessions_migrated", "toy")):
        assert counts[name] >= 3, name


@pytest.mark.long
@pytest.mark.parametrize("batch", range(50))
def test_long_ordeals(batch):
    for seed in range(10 * batch, 10 * batch + 10):
        ordeal(seed, steps=25)

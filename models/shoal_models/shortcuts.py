"""What leaving blocks out costs a model, measured when it is imported: the shortcuts of its manifest.

A layer of a llama adds to the value that passes through it; leave a run of layers out, and the value of the layer
before goes straight to the layer after. That saves their work, their weights' way through memory, and their KV. What
the answers lose by it is measured as for narrow activations (``certify``), and stands in the manifest for each run that
loses at most ``LOSS_MAX``. Two kinds are tried, of 1, 2, 4, ... layers each:

- *exits*: the last layers, so that what they would have refined goes to the head as it is (Elhoushi et al., LayerSkip,
  arXiv 2404.16710). Models that were not trained for it lose much: their last layers turn the value towards the
  tokens.
- *runs within*: neighbouring layers in the middle repeat each other most (Men et al., ShortGPT, arXiv 2403.03853). The
  best single layer is looked for among FIRST_MAX from the first to the last, and a longer run among those that contain
  the best one of half its length: so 2 + 3 + 5 + ... runs more, instead of all of each length.

Longer ones are not tried once all of one length lose too much.

SmolLM2-135M (int8, 30 layers), micronats lost and permille of a token's work saved: layer 18 123,000 for 20 to 27,
layers 17 and 18 198,000 for 41 to 55, layers 17 to 20 536,000 for 83 to 111. Eight lose 1,300,000 and are not
certified, nor is any exit: the last layer alone costs 1,870,000. For scale: 4-bit weights cost 190,000, one nat is
1,000,000. It is a small model, and needs each of its layers; deeper ones are said to repeat themselves more.

The search looks at every STRIDE-th position, the certificate at all of them; so a run that was lucky where it was found
is not certified by its luck alone. Time: some 35 times half a chain, for 96 tokens (4 s of one core).
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil, inf, isfinite
from pathlib import Path
from typing import Final

import numpy as np

from shoal_models.blocks import BuiltBlock
from shoal_models.manifest import Cost, Shortcut
from shoal_models.ports import BlockRunner, FloatArray, Progress
from shoal_models.rehearsal import Rehearsal, agreement_of, ids_of, loss_of
from shoal_protocol.limits import SHORTCUTS_MAX

LOSS_MAX: Final = 1_000_000
"""Micronats: one nat. Beyond it a smaller model is the better answer."""
LAYERS_MIN: Final = 2
"""One of them stays."""
FIRST_MAX: Final = 16
"""Single layers that are tried: of more, every second one or fewer, evenly."""

Run = tuple[int, int]
"""First and last block left out."""


def certify_shortcuts(
    blocks: tuple[BuiltBlock, ...],
    costs: Sequence[Cost],
    blobs: Path,
    tokenizer_json: bytes,
    context_tokens_max: int,
    runner: BlockRunner,
    progress: Progress,
) -> tuple[Shortcut, ...]:
    """The runs of blocks that this model may do without, the shortest first; ``blobs`` holds its shards."""
    ids = ids_of(tokenizer_json, context_tokens_max)
    layers = len(blocks) - 2
    if ids is None or layers < LAYERS_MIN:
        return ()
    trial = _Trial(Rehearsal(blocks, blobs, ids, runner), layers, progress)
    within = _grown(trial, _spread(layers), partial(_containing, layers=layers), layers)
    exits = _grown(trial, [(layers, layers)], lambda _, length: [(layers - length + 1, layers)], layers)
    found = sorted({*within, *exits}, key=lambda run: (run[1] - run[0], run))
    work_us = sum(cost.decode_us for cost in costs)
    listed = [
        Shortcut(
            first_block=first,
            last_block=last,
            loss_micronats=loss,
            agreement_permille=agreement,
            saved_permille=1000 * sum(cost.decode_us for cost in costs[first : last + 1]) // work_us,
        )
        for first, last in found
        for loss, agreement in trial.certificate(first, last)
    ]
    progress("shortcuts measured", trial.tried, trial.tried)
    return tuple(listed[:SHORTCUTS_MAX])


class _Trial:
    """Runs left out, one after the other."""

    def __init__(self, rehearsal: Rehearsal, layers: int, progress: Progress) -> None:
        self._rehearsal = rehearsal
        self._progress = progress
        self._coarse = rehearsal.likely(rehearsal.necks[-1])
        self._fine = rehearsal.likely(rehearsal.necks[-1], 1)
        self._expected = min(FIRST_MAX, layers) + layers + layers.bit_length()
        self.tried = 0

    def best(self, runs: Sequence[Run]) -> Run | None:
        """The one that loses the least; None if all lose too much."""
        loss, run = min((self._loss(*run), run) for run in runs)
        return run if loss * 1e6 <= LOSS_MAX else None

    def certificate(self, first: int, last: int) -> list[tuple[int, int]]:
        """Loss and agreement over all positions; nothing if it loses too much after all."""
        found = self._rehearsal.likely(self._without(first, last), 1)
        loss = max(1, ceil(loss_of(self._fine, found) * 1e6))
        return [(loss, int(1000 * agreement_of(self._fine, found)))] if loss <= LOSS_MAX else []

    def _loss(self, first: int, last: int) -> float:
        """In nats, where it was looked; infinite if it is no number."""
        self.tried += 1
        self._progress("shortcuts measured", self.tried, max(self._expected, self.tried + 1))
        loss = loss_of(self._coarse, self._rehearsal.likely(self._without(first, last)))
        return loss if isfinite(loss) else inf

    def _without(self, first: int, last: int) -> FloatArray:
        """What comes to the head without these blocks."""
        return self._rehearsal.onward(last + 1, self._rehearsal.necks[first - 1])


def _grown(trial: _Trial, first: Sequence[Run], longer: Callable[[Run, int], Sequence[Run]], layers: int) -> list[Run]:
    """The best of ``first``, and the best ``longer`` ones, each twice as long, while they lose little enough."""
    found: list[Run] = []
    length, best = 1, trial.best(first)
    while best is not None:
        found.append(best)
        length *= 2
        best = trial.best(longer(best, length)) if length < layers else None
    return found


def _spread(layers: int) -> list[Run]:
    """Single layers, FIRST_MAX of them at the most."""
    places = sorted(set(np.linspace(1, layers, min(layers, FIRST_MAX)).round().astype(int).tolist()))
    return [(place, place) for place in places]


def _containing(run: Run, length: int, layers: int) -> list[Run]:
    """Every run of ``length`` layers that contains ``run``."""
    first, last = run
    starts = range(max(1, last - length + 1), min(first, layers - length + 1) + 1)
    return [(start, start + length - 1) for start in starts]

"""What narrow activations cost a model, measured when it is imported: the certificates of its manifest.

A width is as good as the answers behind it. So a text is run through the whole chain as it is, once (``rehearsal``).
For each width, the value at some necks is narrowed, widened and run on to the end; what is compared is the distribution
of the next token, at every STRIDE-th position:

    loss(width) = max over the necks of  mean over positions of  KL(p || q),     KL = sum p ln(p / q), in micronats

with p of the chain as it is. The greatest, because a plan may cut anywhere. Losses of several cuts are added up by
whoever plans, which is what small independent errors do to this KL, and more than they do here: in a model with 8-bit
weights the smallest error already turns some roundings of its products, and does not turn them twice. Seven cuts of
SmolLM2 in i8x32 cost 12,800 micronats together, two of i8 64,000.

SmolLM2-135M (int8): f16 4,554, i8x32 8,138, i8 72,807 micronats a cut. One nat is 1,000,000. For scale: the 8-bit
weights themselves cost 4,000 against the exact ones (see ``quantize``), 4-bit ones 190,000; hence CERTIFIED_MAX. A few
necks stand for all: of 13 of SmolLM2's 31, over other text, the loss of i8 is 5,000 at first, 75,000 to 92,000 where a
few values are thousands of times the others (blocks 12 to 27), and 12,000 at the end; that of f16 falls from 4,300 to
12, that of i8x32 lies between 3,000 and 9,000.

It takes as much memory as ``costs``, which runs the same opened blocks, and some seconds for a model of 135 M.
"""

from math import ceil, isfinite
from pathlib import Path
from typing import Final

import numpy as np

from shoal_models.blocks import BuiltBlock
from shoal_models.manifest import Certificate, NarrowWidth
from shoal_models.ports import BlockRunner, Progress
from shoal_models.rehearsal import Rehearsal, ids_of, loss_of
from shoal_protocol.tensors import payload_of
from shoal_protocol.widths import ActivationWidth, narrow, widen

NECKS: Final = 5
"""From the first to the last, evenly."""
CERTIFIED_MAX: Final = 200_000
"""Micronats a cut. What costs more is no width to offer: 4-bit weights, which nobody gets unasked, cost less."""
_WIDTHS: Final[dict[NarrowWidth, ActivationWidth]] = {
    "f16": ActivationWidth.F16,
    "i8x32": ActivationWidth.I8X32,
    "i8": ActivationWidth.I8,
}


def certify(
    blocks: tuple[BuiltBlock, ...],
    blobs: Path,
    tokenizer_json: bytes,
    context_tokens_max: int,
    runner: BlockRunner,
    progress: Progress,
) -> tuple[Certificate, ...]:
    """One certificate for each width that costs this model little enough; ``blobs`` holds its shards."""
    ids = ids_of(tokenizer_json, context_tokens_max)
    if ids is None:
        return ()
    rehearsal = Rehearsal(blocks, blobs, ids, runner)
    necks = rehearsal.necks
    wanted = rehearsal.likely(necks[-1])
    probes = sorted(set(np.linspace(0, len(necks) - 1, NECKS).round().astype(int).tolist()))
    worst = dict.fromkeys(_WIDTHS, 0.0)
    for done, at in enumerate(probes, 1):
        for name, width in _WIDTHS.items():
            came = widen(payload_of(narrow(necks[at], width)), width, necks[at].shape)
            found = rehearsal.likely(rehearsal.onward(at + 1, came))
            worst[name] = float(np.maximum(worst[name], loss_of(wanted, found)))  # what is no number stays none
        progress("widths measured", done, len(probes))
    losses = {name: max(1, ceil(kl * 1e6)) for name, kl in worst.items() if isfinite(kl)}
    return tuple(Certificate(width=name, loss_micronats=loss) for name, loss in losses.items() if loss <= CERTIFIED_MAX)

"""What narrow activations cost a model, measured when it is imported: the certificates of its manifest.

A width is as good as the answers behind it. So a text is run through the whole chain as it is, once, and the value at
some necks is kept. For each width, each of these is narrowed, widened and run on to the end; what is compared is the
distribution of the next token, at every STRIDE-th position:

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
import numpy.typing as npt
from tokenizers import Tokenizer

from shoal_models.blocks import BuiltBlock
from shoal_models.costs import feeds_of
from shoal_models.manifest import Certificate, NarrowWidth
from shoal_models.ports import BlockRunner, BlockSession, FloatArray, Progress
from shoal_protocol.tensors import payload_of
from shoal_protocol.widths import ActivationWidth, narrow, widen

TEXT: Final = """The ferry left at 7:40, ten minutes late, with eleven passengers and a crate of lemons.
"Will it rain?" asked the boy. The captain looked at the sky, then at his watch. "Not before noon."
def area(width, height):
    return width * height
- Milk, 2 litres
- Bread (rye), 1 loaf
Water boils at 100 degrees Celsius at sea level, and at about 93 degrees in the mountains."""
"""Talk, a list, numbers and a program: what a chat model is asked about."""
TOKENS: Final = 96
STRIDE: Final = 4
NECKS: Final = 5
"""From the first to the last, evenly."""
TOKENS_MIN: Final = 8
"""A tokenizer that makes fewer of the text cannot read it, and the model is not measured."""
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
    tokens = Tokenizer.from_str(tokenizer_json.decode()).encode(TEXT).ids[: min(TOKENS, context_tokens_max)]
    if len(tokens) < TOKENS_MIN:
        return ()
    chain = _Chain(blocks, [runner.open(block.graph, blobs) for block in blocks], len(tokens))
    necks = chain.necks(np.array([tokens], np.int64))
    wanted = chain.likely(necks[-1])
    probes = sorted(set(np.linspace(0, len(necks) - 1, NECKS).round().astype(int).tolist()))
    worst = dict.fromkeys(_WIDTHS, 0.0)
    for done, at in enumerate(probes, 1):
        for name, width in _WIDTHS.items():
            came = widen(payload_of(narrow(necks[at], width)), width, necks[at].shape)
            found = chain.likely(chain.onward(at + 1, came))
            worst[name] = float(np.maximum(worst[name], _kl(wanted, found)))  # what is no number stays none
        progress("widths measured", done, len(probes))
    losses = {name: max(1, ceil(kl * 1e6)) for name, kl in worst.items() if isfinite(kl)}
    return tuple(Certificate(width=name, loss_micronats=loss) for name, loss in losses.items() if loss <= CERTIFIED_MAX)


class _Chain:
    """All blocks, for one text that is run at once."""

    def __init__(self, blocks: tuple[BuiltBlock, ...], sessions: list[BlockSession], tokens: int) -> None:
        self._blocks = blocks
        self._sessions = sessions
        self._tokens = tokens

    def necks(self, ids: npt.NDArray[np.int64]) -> list[FloatArray]:
        """What leaves each block but the head."""
        found: list[FloatArray] = []
        for index in range(len(self._blocks) - 1):
            found.append(self._step(index, found[-1] if found else ids))
        return found

    def onward(self, first: int, value: FloatArray) -> FloatArray:
        """What comes to the head if ``value`` comes to block ``first``."""
        for index in range(first, len(self._blocks) - 1):
            value = self._step(index, value)
        return value

    def likely(self, hidden: FloatArray) -> npt.NDArray[np.float64]:
        """Logarithms of what is likely after every STRIDE-th position."""
        rows = [self._step(len(self._blocks) - 1, hidden[:, at : at + 1]) for at in range(0, self._tokens, STRIDE)]
        logits = np.concatenate(rows, axis=1)[0].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))

    def _step(self, index: int, value: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> FloatArray:
        block = self._blocks[index]
        feeds = {**feeds_of(block, self._tokens), block.inputs[0].name: value}
        return np.asarray(self._sessions[index].run(feeds)[block.outputs[0].name], np.float32)


def _kl(wanted: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> float:
    """How far ``found`` is from ``wanted``, in nats, on average."""
    return float((np.exp(wanted) * (wanted - found)).sum(axis=-1).mean())

"""A text through a whole model as it is, to compare with: what any shortcut costs is measured against that.

The text is run at once, from its first position. What is kept is the value at each neck, and what the model thinks
likely at every STRIDE-th position. Whoever changes something on the way (a narrower value, blocks left out) runs on
from there, and is told how far what comes out has moved:

    loss = mean over positions of KL(p || q),   KL = sum p ln(p / q),   in nats        p: of the model as it is
    agreement = share of the positions whose most likely token is the same

It takes as much memory as ``costs``, which runs the same opened blocks.
"""

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from shoal_models.blocks import BuiltBlock
from shoal_models.costs import feeds_of
from shoal_models.ports import BlockRunner, FloatArray

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
TOKENS_MIN: Final = 8
"""A tokenizer that makes fewer of the text cannot read it, and the model is not measured."""

LogLikely = npt.NDArray[np.float64]


def ids_of(tokenizer_json: bytes, context_tokens_max: int) -> list[int] | None:
    """TEXT as the model reads it; None if it cannot."""
    ids = Tokenizer.from_str(tokenizer_json.decode()).encode(TEXT).ids[: min(TOKENS, context_tokens_max)]
    return ids if len(ids) >= TOKENS_MIN else None


class Rehearsal:
    """All blocks, for one text that is run at once."""

    def __init__(self, blocks: tuple[BuiltBlock, ...], blobs: Path, ids: list[int], runner: BlockRunner) -> None:
        self._blocks = blocks
        self._sessions = [runner.open(block.graph, blobs) for block in blocks]
        self._tokens = len(ids)
        self.necks: list[FloatArray] = []
        """What leaves each block but the head."""
        for index in range(len(blocks) - 1):
            self.necks.append(self._step(index, self.necks[-1] if self.necks else np.array([ids], np.int64)))

    def onward(self, first: int, value: FloatArray) -> FloatArray:
        """What comes to the head if ``value`` comes to block ``first``."""
        for index in range(first, len(self._blocks) - 1):
            value = self._step(index, value)
        return value

    def likely(self, hidden: FloatArray, stride: int = STRIDE) -> LogLikely:
        """Logarithms of what is likely after every ``stride``-th position."""
        rows = [self._step(len(self._blocks) - 1, hidden[:, at : at + 1]) for at in range(0, self._tokens, stride)]
        logits = np.concatenate(rows, axis=1)[0].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        return np.asarray(logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))

    def _step(self, index: int, value: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> FloatArray:
        block = self._blocks[index]
        feeds = {**feeds_of(block, self._tokens), block.inputs[0].name: value}
        return np.asarray(self._sessions[index].run(feeds)[block.outputs[0].name], np.float32)


def loss_of(wanted: LogLikely, found: LogLikely) -> float:
    """How far ``found`` is from ``wanted``, in nats, on average; what is no number stays none."""
    return float((np.exp(wanted) * (wanted - found)).sum(axis=-1).mean())


def agreement_of(wanted: LogLikely, found: LogLikely) -> float:
    """Where both have the same most likely token."""
    return float((wanted.argmax(axis=-1) == found.argmax(axis=-1)).mean())

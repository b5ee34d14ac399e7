"""The tensors of a GGUF file as :class:`~shoal_models.source_tensors.SourceTensor`.

Five of ggml's types are converted; every other is refused by its name (see ``importers.gguf``).
"""

from typing import Final

import numpy as np

from shoal_models.errors import UnreadableModel
from shoal_models.importers.gguf_file import GgufFile, TensorEntry
from shoal_models.source_tensors import BLOCK_BYTES, BLOCK_VALUES, ITEM_BYTES, SourceTensor, TensorType

TYPE_CODES: Final = {0: TensorType.F32, 1: TensorType.F16, 2: TensorType.Q4_0, 3: TensorType.Q4_1, 8: TensorType.Q8_0}
OTHER_TYPES: Final = {
    6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K",
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
"""Names of what we refuse, so that the refusal can say them."""


def source_tensor(file: GgufFile, entry: TensorEntry, rotary_heads: int = 0) -> SourceTensor:
    """The tensor's bytes in ``file``; its type is one of TYPE_CODES. UnreadableModel if they are not all there."""
    kind = TYPE_CODES[entry.type_code]
    columns = entry.shape[-1]
    rows = int(np.prod(entry.shape[:-1], dtype=object)) if len(entry.shape) > 1 else 1
    if kind in BLOCK_BYTES and columns % BLOCK_VALUES:
        raise UnreadableModel(f"tensor {entry.name} ({kind}) has {columns} columns, not a multiple of {BLOCK_VALUES}")
    blocks = columns // BLOCK_VALUES
    row_bytes = blocks * BLOCK_BYTES[kind] if kind in BLOCK_BYTES else columns * ITEM_BYTES[kind]
    end = entry.offset + rows * row_bytes
    if rows * row_bytes == 0 or end > len(file.data):
        raise UnreadableModel(f"truncated GGUF file: tensor {entry.name} ends at byte {end} of {len(file.data)}")
    raw = file.data[entry.offset : end].reshape(rows, row_bytes)
    return SourceTensor(entry.name, kind, rows, columns, raw, rotary_heads)

"""Token ids to one vector: the mean of the model's token embeddings, of length 1.

A bag of words, in the model's own space: near texts share words, or words the model uses alike; their order counts for
nothing. It needs one block of the package, the first, and no session: so any node that has it can do it, and every
call stands alone. Every text costs a look-up for each of its tokens.

    v = sum of E[token] / |sum of E[token]|
"""

from collections.abc import Callable
from typing import Final

import numpy as np

from shoal_agent.core.services import EmbedAnswer, EmbedRequest
from shoal_agent.shell.ort import BlockSession
from shoal_agent.shell.services.sessions import ServiceError
from shoal_models.manifest import Block

CHUNK_TOKENS: Final = 512
"""Looked up at a time: a few megabytes of rows."""
Opened = tuple[Block, BlockSession]


class Embedder:
    """One model's token embeddings. Safe to use from several threads."""

    def __init__(self, open_embedding: Callable[[], Opened], vocabulary: int) -> None:
        block, self._session = open_embedding()
        self._vocabulary = vocabulary
        self._input = block.inputs[0].name
        self._output = block.outputs[0].name

    def embed(self, request: EmbedRequest) -> EmbedAnswer:
        """The vector; ServiceError if there is nothing to embed, or a token that the model does not know."""
        tokens = np.asarray(request.tokens, np.int64)
        if not tokens.size:
            raise ServiceError("there is no token to embed")
        if int(tokens.max()) >= self._vocabulary:
            raise ServiceError(f"token {int(tokens.max())} is not below {self._vocabulary}")
        total = None
        for begin in range(0, tokens.size, CHUNK_TOKENS):
            rows = self._session.run({self._input: tokens[None, begin : begin + CHUNK_TOKENS]})[self._output]
            part = rows.astype(np.float64).sum(axis=(0, 1))
            total = part if total is None else total + part
        assert total is not None, "there is at least one chunk"
        length = float(np.linalg.norm(total))
        if not np.isfinite(length) or length == 0.0:
            raise ServiceError("the embeddings of these tokens add up to nothing")
        return EmbedAnswer(tuple((total / length).astype(np.float32).tolist()), len(request.tokens))

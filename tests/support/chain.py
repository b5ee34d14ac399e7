"""Runs a whole package in one process, block after block: what every split of it must agree with."""

import numpy as np

from shoal_agent.shell import ort
from shoal_models.manifest import Manifest
from shoal_models.package import Store


class Chain:
    """One text at a time. ``feed`` continues it and returns the logits after its last token."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        ort.configure(1)
        self._blocks = manifest.blocks
        opened = [store.open_block(manifest, index) for index in range(len(manifest.blocks))]
        self._sessions = [ort.open_block(block.graph, block.blobs) for block in opened]
        self.restart()

    def restart(self) -> None:
        self._position = 0
        self._state = [
            {pair.past: np.zeros((1, pair.shape[1], 0, pair.shape[3]), np.float32) for pair in block.state}
            for block in self._blocks
        ]

    def feed(self, tokens) -> np.ndarray:
        """[vocabulary]."""
        return self._head(self._hidden(tokens))

    def all_logits(self, tokens) -> np.ndarray:
        """[tokens, vocabulary], one token at a time from the start, as in decoding."""
        self.restart()
        return np.stack([self.feed([token]) for token in tokens])

    def all_logits_at_once(self, tokens) -> np.ndarray:
        """[tokens, vocabulary], all tokens in one run of each layer, as in prefill."""
        self.restart()
        hidden = self._hidden(tokens)
        return np.stack([self._head(hidden[:, at : at + 1]) for at in range(len(tokens))])

    def _hidden(self, tokens) -> np.ndarray:
        """What the last layer hands to the head: [1, tokens, hidden]."""
        self._position += len(tokens)
        value = np.array([tokens], np.int64)
        for block, session, state in zip(self._blocks[:-1], self._sessions, self._state, strict=False):
            feeds = {block.inputs[0].name: value, **state}
            if block.state:
                feeds["seqlens_k"] = np.array([self._position - 1], np.int32)
                feeds["total_sequence_length"] = np.array(self._position, np.int32)
            results = session.run(feeds)
            value = results[block.outputs[0].name]
            state.update({pair.past: results[pair.present] for pair in block.state})
        return value

    def _head(self, hidden) -> np.ndarray:
        head = self._blocks[-1]
        return self._sessions[-1].run({head.inputs[0].name: hidden})[head.outputs[0].name][0, 0]

"""A second opinion: a llama in a few lines of numpy, sharing no code with the product.

Reads the file with the `gguf` package, dequantises with it, and rotates neighbours (0,1), (2,3), ... as the file's row
order means it, where the product reorders rows and rotates halves.
"""

from pathlib import Path

import gguf
import numpy as np


class NumpyLlama:
    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.w = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
        f = {key: field.contents() for key, field in reader.fields.items() if key.startswith("llama.")}
        self.layers, self.heads = f["llama.block_count"], f["llama.attention.head_count"]
        self.kv_heads, self.epsilon = f["llama.attention.head_count_kv"], f["llama.attention.layer_norm_rms_epsilon"]
        self.head_dim = f["llama.embedding_length"] // self.heads
        self.frequencies = f["llama.rope.freq_base"] ** (-np.arange(0, self.head_dim, 2) / self.head_dim)
        if "rope_freqs.weight" in self.w:
            self.frequencies = self.frequencies / self.w["rope_freqs.weight"]

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.w[name]

    def rotate(self, x):
        """[tokens, heads, head_dim], positions 0..."""
        angles = np.arange(len(x))[:, None] * self.frequencies
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[:, None, :]
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape).astype(np.float32)

    def attention(self, x, prefix):
        n = len(x)
        q, k, v = (x @ self.w[f"{prefix}attn_{part}.weight"].T for part in "qkv")
        q = self.rotate(q.reshape(n, self.heads, self.head_dim))
        k = self.rotate(k.reshape(n, self.kv_heads, self.head_dim))
        v = v.reshape(n, self.kv_heads, self.head_dim)
        k, v = (np.repeat(part, self.heads // self.kv_heads, axis=1) for part in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.head_dim)
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", scores, v).reshape(n, -1) @ self.w[f"{prefix}attn_output.weight"].T

    def logits(self, tokens) -> np.ndarray:
        """[tokens, vocabulary]."""
        x = self.w["token_embd.weight"][tokens]
        for index in range(self.layers):
            prefix = f"blk.{index}."
            x = x + self.attention(self.norm(x, f"{prefix}attn_norm.weight"), prefix)
            y = self.norm(x, f"{prefix}ffn_norm.weight")
            gate = y @ self.w[f"{prefix}ffn_gate.weight"].T
            up = y @ self.w[f"{prefix}ffn_up.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.w[f"{prefix}ffn_down.weight"].T
        output = self.w.get("output.weight", self.w["token_embd.weight"])
        return self.norm(x, "output_norm.weight") @ output.T

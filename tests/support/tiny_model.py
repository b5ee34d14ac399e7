"""A tiny llama with random weights, as a GGUF file: what every room runs when a real model would be too much.

Written with the `gguf` package, which the product does not use: reading it back is a test of our own reader. The
tokenizer is a real byte-level BPE, trained on the prose below, so text survives the round trip byte by byte. Equal
arguments give equal files.
"""

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'"
    " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PROSE = (
    "a shoal moves as one and has no leader; every fish watches its neighbours and turns when they turn. "
    "the user asks and the assistant answers: what is the capital of france? the capital of france is paris. "
    "one two three four five six seven eight nine ten. the quick brown fox jumps over the lazy dog."
)


@dataclass(frozen=True, slots=True)
class TinyLlama:
    """What to write. Sizes must stay multiples of 32."""

    layers: int = 4
    hidden: int = 64
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 128
    vocabulary: int = 320
    context: int = 512
    seed: int = 1
    matrix_type: str = "Q4_1"
    table_type: str = "Q8_0"
    tied: bool = True
    rope_factors: bool = False
    architecture: str = "llama"
    pre: str = "smollm"
    bos: bool = False


def train_tokenizer(size: int) -> tuple[list[str], list[str]]:
    """Tokens (special ones first) and merges of a byte-level BPE with exactly ``size`` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([PROSE], trainer)
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) == size, "the prose is too short for so many merges"
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    known = set(ordered[: len(SPECIAL) + len(alphabet)])
    merges = []
    for token in ordered[len(known) :]:
        left = next(token[:cut] for cut in range(len(token) - 1, 0, -1) if {token[:cut], token[cut:]} <= known)
        merges.append(f"{left} {token[len(left) :]}")
        known.add(token)
    return ordered, merges


def weights(spec: TinyLlama) -> dict[str, np.ndarray]:
    """float32 weights by GGUF name, Q and K rows in the file's (interleaved) order."""
    random = np.random.default_rng(spec.seed)
    width, kv_width = spec.hidden, spec.hidden // spec.heads * spec.kv_heads

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * 1.5 / np.sqrt(columns)).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + 0.1 * random.standard_normal(spec.hidden)).astype(np.float32)

    tensors = {"token_embd.weight": matrix(spec.vocabulary, spec.hidden) * np.float32(2), "output_norm.weight": norm()}
    if not spec.tied:
        tensors["output.weight"] = matrix(spec.vocabulary, spec.hidden) * np.float32(2)
    if spec.rope_factors:
        tensors["rope_freqs.weight"] = np.linspace(1, 4, spec.hidden // spec.heads // 2, dtype=np.float32)
    for index in range(spec.layers):
        shapes = {
            "attn_q": (width, width),
            "attn_k": (kv_width, width),
            "attn_v": (kv_width, width),
            "attn_output": (width, width),
            "ffn_gate": (spec.feed_forward, width),
            "ffn_up": (spec.feed_forward, width),
            "ffn_down": (width, spec.feed_forward),
        }
        tensors |= {f"blk.{index}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        tensors |= {f"blk.{index}.{name}.weight": norm() for name in ("attn_norm", "ffn_norm")}
    return tensors


def tensor_type(name: str, spec: TinyLlama) -> gguf.GGMLQuantizationType:
    if "norm" in name or "rope" in name:
        return gguf.GGMLQuantizationType.F32
    kind = spec.table_type if name in ("token_embd.weight", "output.weight") else spec.matrix_type
    return gguf.GGMLQuantizationType[kind]


def write_tiny_llama(path: Path, spec: TinyLlama) -> Path:
    """Write the file; returns ``path``."""
    writer = gguf.GGUFWriter(path, spec.architecture)
    writer.add_block_count(spec.layers)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(spec.feed_forward)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(spec.hidden // spec.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(spec.vocabulary)
    tokens, merges = train_tokenizer(spec.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(spec.pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(spec.bos)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, value in weights(spec).items():
        kind = tensor_type(name, spec)
        writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

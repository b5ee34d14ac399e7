"""The tokenizer of a model file, as a ``tokenizer.json`` any node can load in milliseconds.

A GGUF file carries the vocabulary, the merges and the *name* of the rule that cuts text before merging (``pre``). The
rule itself is not in the file, so each name must be known here; an unknown one is refused, because a wrong cut gives
plausible, different tokens and slightly worse answers that nobody would trace back.

``smollm``: every digit stands alone, then the byte-level rule of GPT-2.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from shoal_models.errors import UnreadableModel, UnsupportedModel
from shoal_models.importers.gguf_file import Scalar, Value
from shoal_models.manifest import SpecialTokens
from shoal_protocol.limits import CHAT_TEMPLATE_BYTES_MAX

_MODEL: Final = "gpt2"
_PRE: Final = "smollm"
_CONTROL: Final = 3
"""Token type of special tokens; 4 is user-defined, matched whole as well but printed."""
_USER_DEFINED: Final = 4
_TURN_ENDS: Final = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>")
"""Control tokens that always end a turn, whichever of them the file names as its end token."""
_END_FIELDS: Final = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


@dataclass(frozen=True, slots=True)
class TextInterface:
    """How text becomes tokens and back."""

    tokenizer_json: bytes
    chat_template: str | None
    special_tokens: SpecialTokens


def read_text_interface(fields: Mapping[str, Value], vocabulary: int) -> TextInterface:
    """The tokenizer in a file's metadata. UnsupportedModel for a kind not known here, UnreadableModel for damage."""
    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre")
    if kind != _MODEL:
        raise UnsupportedModel(f"tokenizer model {kind!r}; only {_MODEL!r} (byte-level BPE) is converted")
    if pre != _PRE:
        raise UnsupportedModel(f"pre-tokenizer {pre!r}; only {_PRE!r} is converted")
    tokens = _strings(fields, "tokenizer.ggml.tokens")
    types = fields.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if len(tokens) != vocabulary or len(set(tokens)) != vocabulary:
        raise UnreadableModel(f"{len(set(tokens))} different tokens for a vocabulary of {vocabulary}")
    if not isinstance(types, list) or len(types) != vocabulary:
        raise UnreadableModel("tokenizer.ggml.token_type does not have one entry per token")
    special = _special_tokens(fields, tokens, types)
    merges = _merges(_strings(fields, "tokenizer.ggml.merges"), set(tokens))
    tokenizer = _build(tokens, types, merges)
    if special.bos is not None:
        bos = tokens[special.bos]
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", None, [(bos, special.bos)])
    template = fields.get("tokenizer.chat_template")
    if template is not None and (
        not isinstance(template, str) or not 0 < len(template.encode()) <= CHAT_TEMPLATE_BYTES_MAX
    ):
        raise UnreadableModel(f"tokenizer.chat_template is no text of 1 to {CHAT_TEMPLATE_BYTES_MAX} bytes")
    return TextInterface(tokenizer.to_str().encode(), template, special)


def _build(tokens: list[str], types: list[Scalar], merges: list[tuple[str, str]]) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for kind, is_special in ((_CONTROL, True), (_USER_DEFINED, False)):
        added = [
            AddedToken(token, special=is_special, normalized=False)
            for token, token_kind in zip(tokens, types, strict=True)
            if token_kind == kind
        ]
        (tokenizer.add_special_tokens if is_special else tokenizer.add_tokens)(added)
    return tokenizer


def _special_tokens(fields: Mapping[str, Value], tokens: list[str], types: list[Scalar]) -> SpecialTokens:
    ends = {_token_id(fields, key, len(tokens)) for key in _END_FIELDS if key in fields}
    ends |= {index for index, token in enumerate(tokens) if token in _TURN_ENDS and types[index] == _CONTROL}
    if not ends:
        raise UnreadableModel("the file names no token that ends a turn")
    wants_bos = fields.get("tokenizer.ggml.add_bos_token", False) is True
    bos = _token_id(fields, "tokenizer.ggml.bos_token_id", len(tokens)) if wants_bos else None
    return SpecialTokens(bos=bos, eos=tuple(sorted(ends)))


def _token_id(fields: Mapping[str, Value], key: str, vocabulary: int) -> int:
    value = fields.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocabulary:
        raise UnreadableModel(f"field {key} is {value!r}, not a token")
    return value


def _strings(fields: Mapping[str, Value], key: str) -> list[str]:
    value = fields.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UnreadableModel(f"field {key} is not a list of strings")
    return [str(item) for item in value]


def _merges(lines: list[str], tokens: set[str]) -> list[tuple[str, str]]:
    merges = []
    for line in lines:
        left, _, right = line.partition(" ")
        if left not in tokens or right not in tokens or left + right not in tokens:
            raise UnreadableModel(f"merge {line!r} does not join two tokens to a third")
        merges.append((left, right))
    return merges

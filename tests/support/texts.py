"""A small tokenizer and a chat template, as a package would carry them."""

from functools import cache
from typing import Final

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from shoal_agent.shell.services.host import ModelAssets
from shoal_protocol.ids import Digest

MODEL: Final = Digest(bytes(range(32)))
BOS: Final = 0
EOS: Final = 1
MARKERS: Final = ("<|im_start|>", "<|im_end|>", "<|im_start|>system")
TEMPLATE: Final = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ bos_token + 'system\nYou are helpful.' + eos_token + '\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS: Final = (
    "the quick brown fox jumps over the lazy dog and the dog sleeps",
    "system user assistant content message héllo wörld naïve façade 日本語 emoji 🐟🐟 tests",
    "for i in range(10): print(i)  # 0123456789",
)


@cache
def library_tokenizer() -> tokenizers.Tokenizer:
    """About 400 byte-level tokens; the first three are special, and one is added but not special."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[tokenizers.AddedToken(text, special=True, normalized=False) for text in MARKERS],
        show_progress=False,
    )
    library.train_from_iterator(_CORPUS, trainer)
    library.add_tokens([tokenizers.AddedToken("<tool>", special=False, normalized=False)])
    return library


@cache
def tokenizer_json() -> bytes:
    return library_tokenizer().to_str().encode()


def vocabulary() -> int:
    return library_tokenizer().get_vocab_size()


def assets(*, chat_template: str | None = TEMPLATE, bos: int | None = None) -> ModelAssets:
    return ModelAssets(MODEL, tokenizer_json(), chat_template, vocabulary(), bos, (EOS,))

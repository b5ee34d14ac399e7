"""Text to token ids and back to bytes, by the ``tokenizer.json`` of a package.

The library object is told, once, to treat special-token strings as text; where a rendered template holds real markers
this module splits the text at them itself and puts their ids in between. So one object (some megabytes for a large
vocabulary) serves both kinds of text, the two can never be confused by a flag left over from another thread, and a
``MARKER_BREAK`` can be dropped between the splitting and the encoding. Splitting at the leftmost, longest marker and
encoding the rest piece by piece is what the library does too: the ids are the same.

A bare prompt is preceded by the model's ``bos`` if it has one; a rendered template writes its own.

Only byte-level vocabularies are read (GPT-2's alphabet: one printable character for each of the 256 bytes), which is
what every published model of the supported families uses. Others are refused by name.
"""

import re
from typing import Final

import tokenizers
from tokenizers.decoders import ByteLevel

from shoal_agent.core.services import MARKER_BREAK, CheckRequest, EncodeAnswer, EncodeRequest
from shoal_agent.shell.services.sessions import ServiceError
from shoal_protocol.limits import TOKENIZER_BYTES_MAX


class Tokenizer:
    """One model's vocabulary. Safe to use from several threads; ServiceError if ``data`` cannot be used.

    ``vocabulary``: ids the model knows are below it. ``bos``: what a bare prompt begins with, if anything.
    """

    def __init__(self, data: bytes, vocabulary: int, bos: int | None) -> None:
        if len(data) > TOKENIZER_BYTES_MAX:
            raise ServiceError(f"tokenizer.json is larger than {TOKENIZER_BYTES_MAX} bytes")
        self._vocabulary = vocabulary
        self._bos = bos
        try:
            self._library = tokenizers.Tokenizer.from_buffer(data)
        except Exception as fault:  # noqa: BLE001 - the library raises nothing narrower
            raise ServiceError(f"the package's tokenizer.json is broken: {fault}") from None
        if not isinstance(self._library.decoder, ByteLevel):
            kind = type(self._library.decoder).__name__
            raise ServiceError(f"a tokenizer with decoder {kind} is not supported: only ByteLevel is")
        self._library.no_truncation()
        self._library.no_padding()
        self._library.encode_special_tokens = True
        special = {n: token for n, token in self._library.get_added_tokens_decoder().items() if token.special}
        self._marker_ids = {token.content: number for number, token in special.items()}
        self._marker_numbers = frozenset(special)
        self._eat_before = frozenset(token.content for token in special.values() if token.lstrip)
        self._eat_after = frozenset(token.content for token in special.values() if token.rstrip)
        self._splitter = _splitter(list(special.values()))

    @property
    def markers(self) -> tuple[str, ...]:
        """The strings that stand for special tokens."""
        return tuple(self._marker_ids)

    def marker(self, token: int | None) -> str:
        """The string of special token ``token``; empty if there is none."""
        return next((text for text, number in self._marker_ids.items() if number == token), "")

    def encode(self, request: EncodeRequest) -> EncodeAnswer:
        """The ids of a text. About 0.3 us per character."""
        ids = self._encode_marked(request.text) if request.special else self._encode_bare(request.text)
        if max(ids, default=0) >= self._vocabulary:
            raise ServiceError("the text holds a token that the model does not have")
        return EncodeAnswer(tuple(ids))

    def check(self, request: CheckRequest) -> EncodeAnswer:
        """The same ids, if the model has them all."""
        for token in request.tokens:
            if token >= self._vocabulary:
                raise ServiceError(f"token {token} is not in the vocabulary of {self._vocabulary}")
        return EncodeAnswer(request.tokens)

    def bytes_of(self, token: int) -> bytes:
        """What ``token`` adds to a text, byte for byte (a special token: its marker)."""
        text = self._library.id_to_token(token) if token < self._vocabulary else None
        if text is None:
            raise ServiceError(f"token {token} is not in the vocabulary of {self._vocabulary}")
        try:
            return bytes(_BYTE_OF[character] for character in text)
        except KeyError:
            return text.encode()

    def is_marker(self, token: int) -> bool:
        """Whether ``token`` is special: structure, not text."""
        return token in self._marker_numbers

    def _encode_bare(self, text: str) -> list[int]:
        ids = self._encode_plain(text)
        return ids if self._bos is None else [self._bos, *ids]

    def _encode_marked(self, text: str) -> list[int]:
        if self._splitter is None:
            return self._encode_plain(text.replace(MARKER_BREAK, ""))
        ids: list[int] = []
        # The pattern has one group, so texts and markers alternate, and a text comes first and last.
        parts = self._splitter.split(text)
        for index in range(0, len(parts), 2):
            plain = parts[index]
            if index > 0:
                ids.append(self._marker_ids[parts[index - 1]])
                plain = plain.lstrip() if parts[index - 1] in self._eat_after else plain
            if index + 1 < len(parts) and parts[index + 1] in self._eat_before:
                plain = plain.rstrip()
            if plain:
                ids.extend(self._encode_plain(plain.replace(MARKER_BREAK, "")))
        return ids

    def _encode_plain(self, text: str) -> list[int]:
        # A batch of one: unlike ``encode`` it lets other threads run meanwhile, and does not compute offsets.
        [encoding] = self._library.encode_batch_fast([text], add_special_tokens=False)
        return list(encoding.ids)


def _splitter(markers: list[tokenizers.AddedToken]) -> re.Pattern[str] | None:
    """Splits a text at markers, the longest first where several begin; None if there are none."""
    for token in markers:
        if token.single_word:
            raise ServiceError(f"special token {token.content!r} wants word boundaries, which is not supported")
    texts = sorted((token.content for token in markers), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, texts))})") if texts else None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: bytes that print stand for themselves, the others follow from U+0100 on."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


_BYTE_OF: Final = _byte_alphabet()

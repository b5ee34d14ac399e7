"""The journal of a session: what another ingress needs to go on with it, kept by a peer that cannot read it.

    ingress ── JournalWritten(page 0, 1, ...) ──► keeper ◄── JournalRequested ── another ingress of the same trust zone
                                                         ── JournalServed ────►

A page is a :class:`Page` in a secretbox (XSalsa20-Poly1305). Its key comes from what the *client* has, its API key and
its request id: whoever keeps pages knows neither, and whoever is asked by the client to go on knows both. So a journal
is of no use to anybody but an ingress that the client itself turned to.

The nonce is a keyed hash of the page (a synthetic nonce): no randomness is needed, and a request id that is used twice
gives two different nonces for two different pages, so nothing can be learned from both. A page that was altered, or
belongs to another session, does not open.

    box = nonce || secretbox(page, nonce, key)      nonce = BLAKE2b-192(page, key, "shoal-page")
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from nacl.bindings import crypto_secretbox, crypto_secretbox_NONCEBYTES, crypto_secretbox_open
from nacl.exceptions import CryptoError

from shoal_protocol.errors import BadSignature
from shoal_protocol.fields import decode, encode, record
from shoal_protocol.ids import Epoch, NodeId, SessionId
from shoal_protocol.limits import JOURNAL_PAGES_MAX

JOURNAL_KEY_BYTES: Final = 32
_PERSON: Final = b"shoal-page"


@dataclass(frozen=True, slots=True)
class JournalWritten:
    """Ingress to a peer of its trust zone: keep the payload, a sealed page, for ``deadline_ms``.

    ``page`` counts the pages of a session; 0 begins anew, and whatever was kept before is to be forgotten. Unanswered.
    """

    session: SessionId
    page: int
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class JournalRequested:
    """Ingress to peers of its trust zone: tell me what you keep of ``session``, or have of it as its ingress."""

    session: SessionId


@dataclass(frozen=True, slots=True)
class JournalServed:
    """Answer to JournalRequested: the pages ``writer`` wrote are the payload; None and no payload if nothing is here.

    ``deadline_ms``: until then the session was to be over.
    """

    session: SessionId
    writer: NodeId | None
    deadline_ms: int


JournalHeader = JournalWritten | JournalRequested | JournalServed


@dataclass(frozen=True, slots=True)
class Page:
    """What is written at once. All of it but the tokens stands for the one of the page before.

    ``runs`` are the chunks in which positions were computed, as (begin, step); ``token_ids`` (int64) stand at
    ``position`` and after it; ``ended``: the model ended its turn, or may say no more, or a stop string came.
    ``left_out``: the blocks that this session does without.
    """

    intent: bytes
    epoch: Epoch
    attempt: int
    prompt_tokens: int
    tokens_max: int
    runs: tuple[tuple[int, int], ...]
    position: int
    ended: bool
    token_ids: bytes
    left_out: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Pages:
    pages: tuple[bytes, ...]


_PAGE: Final = record(Page, signed=False)
_PAGES: Final = record(_Pages, signed=False)


def seal_page(key: bytes, page: Page) -> bytes:
    """``page`` for whoever has ``key``; some 10 us."""
    plain = encode(_PAGE, page)
    nonce = hashlib.blake2b(plain, key=key, person=_PERSON, digest_size=crypto_secretbox_NONCEBYTES).digest()
    return nonce + crypto_secretbox(plain, nonce, key)


def open_page(key: bytes, box: bytes) -> Page:
    """The page in ``box``; RemoteProtocolError if it is none, or not under ``key``."""
    nonce, sealed = box[:crypto_secretbox_NONCEBYTES], box[crypto_secretbox_NONCEBYTES:]
    try:
        plain = crypto_secretbox_open(sealed, nonce, key)
    except (CryptoError, ValueError) as fault:
        raise BadSignature("a page of a journal that does not open") from fault
    return cast("Page", decode(_PAGE, plain))


def bind_pages(pages: Sequence[bytes]) -> bytes:
    """Sealed pages as one payload."""
    return encode(_PAGES, _Pages(tuple(pages)))


def unbind_pages(data: bytes) -> tuple[bytes, ...]:
    """The sealed pages in a payload; RemoteProtocolError if it is none."""
    return cast("_Pages", decode(_PAGES, data, JOURNAL_PAGES_MAX)).pages

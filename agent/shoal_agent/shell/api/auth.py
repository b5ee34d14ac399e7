"""Bearer keys: 256 random bits, of which only the BLAKE2b-256 hash is kept.

A slow password hash would protect guessable secrets; these cannot be guessed, so one fast hash is enough, and whoever
reads the configuration of a node learns no key. All hashes are compared, each in constant time: how long a refusal
takes tells nothing.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Final

from starlette.requests import Request

from shoal_agent.shell.api.errors import unauthorized
from shoal_protocol.limits import API_KEYS_MAX

_PREFIX: Final = "sk-shoal-"
_KEY_BYTES: Final = 32
_KEY_CHARS_MAX: Final = 256
"""No key of ours is longer; nothing longer is hashed."""


def new_key() -> str:
    """A fresh key, to be shown once."""
    return _PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def hash_key(key: str) -> str:
    """What is kept of ``key``: 64 hexadecimal characters."""
    return hashlib.blake2b(key.encode(), digest_size=32).hexdigest()


class ApiKeys:
    """The hashes of the keys that may use this node's API."""

    def __init__(self, hashes: Iterable[str]) -> None:
        self._hashes = tuple(bytes.fromhex(text) for text in hashes)
        if len(self._hashes) > API_KEYS_MAX:
            raise ValueError(f"{len(self._hashes)} API keys, at most {API_KEYS_MAX}")

    def holder(self, authorization: str | None) -> bytes | None:
        """The hash of the key that an ``Authorization`` header holds, if it is one of ours: who asks."""
        scheme, _, key = (authorization or "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not 0 < len(key) <= _KEY_CHARS_MAX:
            return None
        offered = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=32).digest()
        matches = [hmac.compare_digest(offered, kept) for kept in self._hashes]
        return offered if any(matches) else None


def authorized(request: Request, keys: ApiKeys) -> bytes:
    """Who asks, for every path that needs a key; ApiError for who has none."""
    holder = keys.holder(request.headers.get("authorization"))
    if holder is None:
        raise unauthorized()
    return holder

"""What a client shows to come back for the rest of a stream: its API key, its request id, and the same request.

    secret  = BLAKE2b-512(model || 0 || request id, key = hash of the API key)
    session = secret[0:16]     the stream's name within the cluster
    key     = secret[16:48]    opens what was written down of it (``shoal_protocol.journal``)
    seed    = secret[48:56]    of the sampler, if the client gave none
    intent  = BLAKE2b-256(kind || the request as it was understood)

Every ingress that knows the API key computes the same, so the client may come back through any of them, and nobody else
can, who does not know both. So a request id must not be guessable by other holders of the key, nor be used twice: with
the same key, id and request somebody is the same client, coming back. Ids this node makes have 128 random bits.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.facts import Claim
from shoal_agent.shell.api.errors import ApiError
from shoal_protocol.ids import SESSION_ID_BYTES, SessionId
from shoal_protocol.journal import JOURNAL_KEY_BYTES
from shoal_protocol.limits import INTEGER_MAX, INTENT_BYTES, TOKENS_MAX

_HARMLESS: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_CLAIMABLE: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")
_SEED_BYTES: Final = 8
_PERSON: Final = b"shoal-session"


@dataclass(frozen=True, slots=True)
class RequestId:
    """What a request is called. ``named``: by its client, in a form that lets it come back."""

    text: str
    named: bool


@dataclass(frozen=True, slots=True)
class Secrets:
    """All that follows from a request and who asks."""

    session: SessionId
    seed: int
    claim: Claim | None


def request_id_of(offered: str) -> RequestId:
    """The client's own name for its request if it is harmless, else a fresh one."""
    if _HARMLESS.fullmatch(offered):
        return RequestId(offered, bool(_CLAIMABLE.fullmatch(offered)))
    return RequestId(f"req_{secrets.token_hex(SESSION_ID_BYTES)}", named=False)


def seen_of(last_event_id: str | None, request_id: RequestId) -> int | None:
    """How many events' worth a client that comes back has; None if it does not."""
    if last_event_id is None:
        return None
    if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > len(str(TOKENS_MAX)):
        raise ApiError(
            400, "Last-Event-ID is not the id of an event of ours.", param="Last-Event-ID", code="invalid_value"
        )
    if not request_id.named:
        message = "Last-Event-ID goes with the X-Request-Id of the stream, 16 to 64 characters of A-Z a-z 0-9 _ -."
        raise ApiError(400, message, param="X-Request-Id", code="invalid_value")
    return int(last_event_id)


def secrets_of(request_id: RequestId, key_hash: bytes, model: str, request: bytes, seen: int | None) -> Secrets:
    """What every ingress finds for this client, model and id; nothing to come back with if the id is no good for it."""
    if not _CLAIMABLE.fullmatch(request_id.text):
        return lone()
    data = model.encode() + b"\0" + request_id.text.encode()
    secret = hashlib.blake2b(data, key=key_hash, person=_PERSON).digest()
    session, rest = SessionId(secret[:SESSION_ID_BYTES]), secret[SESSION_ID_BYTES:]
    key, rest = rest[:JOURNAL_KEY_BYTES], rest[JOURNAL_KEY_BYTES:]
    intent = hashlib.blake2b(request, digest_size=INTENT_BYTES).digest()
    return Secrets(session, int.from_bytes(rest[:_SEED_BYTES]) & INTEGER_MAX, Claim(key, intent, seen))


def lone() -> Secrets:
    """For a request that cannot be claimed."""
    return Secrets(SessionId(secrets.token_bytes(SESSION_ID_BYTES)), secrets.randbelow(INTEGER_MAX), None)

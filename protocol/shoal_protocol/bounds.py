"""What a field may hold beyond what its type says, by the field's name.

A name means the same everywhere: ``stage`` is a stage's index in any message, ``plan`` the bytes of a plan. So a
bound is given once, for the name, and holds for every message that will ever use it; whoever reads a message knows its
limits without looking for them. A field with a name that is not here has only the bound of its type.
"""

from collections.abc import Mapping
from typing import Final

from shoal_protocol.ids import NODE_KEY_BYTES
from shoal_protocol.limits import (
    ATTEMPTS_MAX,
    BLOCKS_MAX,
    CERTIFICATE_BYTES_MAX,
    CIRCUIT_BYTES,
    CONTENT_CHUNK_BYTES,
    CREDIT_BYTES_MAX,
    DELTA_BYTES_MAX,
    DELTAS_MAX,
    ENVELOPE_BYTES_MAX,
    EPHEMERAL_BYTES,
    EVIDENCE_BYTES_MAX,
    INTENT_BYTES,
    JOURNAL_BYTES_MAX,
    JOURNAL_PAGES_MAX,
    LINKS_MAX,
    PAYLOAD_BYTES_MAX,
    PLAN_BYTES_MAX,
    PREFILL_CHUNK_TOKENS,
    ROOT_BYTES,
    ROOT_KEYS_MAX,
    ROSTER_BYTES_MAX,
    ROUNDS_MAX,
    RUNS_MAX,
    SENDERS_MAX,
    SESSIONS_MAX,
    SIGNATURE_BYTES,
    STAGES_MAX,
    STAGING_MS_MAX,
    STANDBYS_MAX,
    TENSOR_RANK_MAX,
    TOKENS_MAX,
    TOP_LOGPROBS_MAX,
    TTL_MS_MAX,
    VOTERS_MAX,
)

INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    "answer_tokens": (1, TOKENS_MAX),
    "attempt": (0, ATTEMPTS_MAX),
    "byte_count": (1, CONTENT_CHUNK_BYTES),
    "context_tokens_max": (1, TOKENS_MAX),
    "cpu_permille": (0, 1000),
    "credit_bytes": (1, CREDIT_BYTES_MAX),
    "faulty": (0, (VOTERS_MAX - 1) // 3),
    "foreign_permille": (0, 1000),
    "first_block": (0, BLOCKS_MAX - 1),
    "gain_permille": (0, 1000),
    "health": (0, 8),
    "kind": (1, 255),
    "last_block": (0, BLOCKS_MAX - 1),
    "operators_min": (1, ROOT_KEYS_MAX),
    "page": (0, JOURNAL_PAGES_MAX - 1),
    "port": (0, 65_535),
    "position": (0, TOKENS_MAX),
    "prompt_tokens": (1, TOKENS_MAX),
    "replay_from": (0, TOKENS_MAX),
    "retained_from": (0, TOKENS_MAX),
    "root_threshold": (1, ROOT_KEYS_MAX),
    "shape": (0, PAYLOAD_BYTES_MAX),
    "round": (0, ROUNDS_MAX),
    "runs": (0, TOKENS_MAX),
    "sessions": (1, SESSIONS_MAX),
    "stage": (0, STAGES_MAX - 1),
    "stage_permille": (0, 1_000_000),
    "stages_max": (1, STAGES_MAX),
    "stages_min": (1, STAGES_MAX),
    "staging_ms": (0, STAGING_MS_MAX),
    "standbys": (0, STANDBYS_MAX),
    "standing_by": (0, STAGES_MAX - 1),
    "temperature_millicelsius": (-273_150, 1_000_000),
    "token": (0, TOKENS_MAX),
    "token_count": (1, PREFILL_CHUNK_TOKENS),
    "tokens_max": (1, TOKENS_MAX),
    "top": (0, TOKENS_MAX),
    "top_k": (0, TOKENS_MAX),
    "top_logprobs": (-1, TOP_LOGPROBS_MAX),
    "ttl_ms": (0, TTL_MS_MAX),
    "valid_round": (0, ROUNDS_MAX),
}
"""Lowest and highest value by field name; any other integer is 0..INTEGER_MAX."""

FLOATS: Final[Mapping[str, tuple[float, float]]] = {
    "repetition_penalty": (0.01, 100.0),
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
}
"""Lowest and highest value by field name; any other float is only finite."""

ITEMS: Final[Mapping[str, int]] = {
    "approvals": ROOT_KEYS_MAX,
    "ballots": VOTERS_MAX,
    "deltas": DELTAS_MAX,
    "links": LINKS_MAX,
    "members": SENDERS_MAX,
    "pages": JOURNAL_PAGES_MAX,
    "root_keys": ROOT_KEYS_MAX,
    "route": STAGES_MAX,
    "runs": RUNS_MAX,
    "shape": TENSOR_RANK_MAX,
    "signatures": ROOT_KEYS_MAX,
    "stages": STAGES_MAX,
    "standbys": STANDBYS_MAX,
    "standing_by": STAGES_MAX,
    "support": VOTERS_MAX,
    "voters": VOTERS_MAX,
    "top": TOP_LOGPROBS_MAX,
}
"""Longest list by field name; any other is LIST_ITEMS_MAX."""

BYTES: Final[Mapping[str, tuple[int, int]]] = {
    "answers": (EPHEMERAL_BYTES, EPHEMERAL_BYTES),
    "body": (0, ENVELOPE_BYTES_MAX),
    "circuit": (CIRCUIT_BYTES, CIRCUIT_BYTES),
    "deltas": (0, DELTA_BYTES_MAX),
    "ephemeral": (EPHEMERAL_BYTES, EPHEMERAL_BYTES),
    "first": (0, EVIDENCE_BYTES_MAX),
    "second": (0, EVIDENCE_BYTES_MAX),
    "intent": (0, INTENT_BYTES),
    "pages": (0, JOURNAL_BYTES_MAX),
    "root": (ROOT_BYTES, ROOT_BYTES),
    "certificate": (0, CERTIFICATE_BYTES_MAX),
    "plan": (0, PLAN_BYTES_MAX),
    "public_key": (NODE_KEY_BYTES, NODE_KEY_BYTES),
    "root_keys": (NODE_KEY_BYTES, NODE_KEY_BYTES),
    "roster": (0, ROSTER_BYTES_MAX),
    "signature": (SIGNATURE_BYTES, SIGNATURE_BYTES),
    "statement": (0, ENVELOPE_BYTES_MAX),
    "token_ids": (0, JOURNAL_BYTES_MAX),
}
"""Least and most bytes by field name: a byte string without an entry has no bound and is a mistake of ours."""

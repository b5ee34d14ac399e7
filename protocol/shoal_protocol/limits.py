"""Every bound of the wire and of the agent, each with its unit in its name and its reason beside it.

A bound protects memory, time or another node; none is a tuning knob. What an operator may set lives in
``shoal_agent.config`` and is checked against these.
"""

from typing import Final

# --- control plane ---------------------------------------------------------------------------------------------
ENVELOPE_BYTES_MAX: Final = 256 * 1024
"""One MQTT payload. Brokers drop the link above their own limit (mosquitto template: 1 MiB), so refuse well below it."""
TTL_MS_MAX: Final = 3650 * 24 * 3600 * 1000
"""A plan stands until the next epoch, however long that takes; ten years is the life of a data-plane certificate."""
CLOCK_SKEW_MS_MAX: Final = 120_000
"""A sender never heard before may be this far off our wall clock; afterwards only (incarnation, sequence) count."""
REPLAY_WINDOW_BITS: Final = 1024
"""Out-of-order envelopes remembered per sender: two brokers reorder by far less than 1024 messages."""
SENDERS_MAX: Final = 16_384
"""Replay windows kept: the largest cluster we simulate (10,000) and its operators."""
TEXT_BYTES_MAX: Final = 1024
"""Any single text field: a URL, a reason, a version."""
LIST_ITEMS_MAX: Final = 1024
"""Any list in a message."""
STAGES_MAX: Final = 64
"""Stages of one plan: more hops than this cost more than any model gains."""
BLOCKS_MAX: Final = 1024
"""Blocks of one model: the deepest published decoder has a fifth of this."""

# --- data plane -------------------------------------------------------------------------------------------------
HEADER_BYTES_MAX: Final = 16 * 1024
"""msgpack header of a frame; the largest real one (20 top logprobs) is below 400 bytes."""
PAYLOAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""One tensor: 512 tokens x 16,384 wide x 4 bytes is 32 MiB."""
CREDIT_BYTES: Final = 16 * 1024 * 1024
"""Bytes a peer may have in flight to us on one connection: several prefill chunks, a bounded amount of memory."""
SEND_QUEUE_FRAMES_MAX: Final = 1024
"""Frames waiting for credit on one connection; beyond it the link counts as lost."""
TENSOR_RANK_MAX: Final = 8
"""ONNX tensors in practice have rank <= 5."""
TOP_LOGPROBS_MAX: Final = 20
"""What the OpenAI API allows."""

# --- sessions ---------------------------------------------------------------------------------------------------
PREFILL_CHUNK_TOKENS: Final = 256
"""Positions per activation frame: long enough to keep MatMul efficient, short enough to pipeline and to cancel."""
SESSIONS_MAX: Final = 256
"""Sessions one host keeps open, whatever their size."""
REQUESTS_MAX: Final = 256
"""Requests one ingress has in flight."""
STAGE_QUEUE_MAX: Final = 64
"""Prompt chunks of one session waiting at one stage: 64 x 256 tokens is beyond any context we serve."""
SERVICE_CALLS_MAX: Final = 1024
"""Light-service calls one node has under way for others."""
STOP_STRINGS_MAX: Final = 4
"""What the OpenAI API allows."""
STOP_STRING_BYTES_MAX: Final = 256
"""Held back from the stream while undecided, so it bounds latency too."""

# --- light services and the API ---------------------------------------------------------------------------------
SEED_MAX: Final = 2**63 - 1
"""A sampler's seed: what every language's signed integer holds, and one word of the generator's key."""

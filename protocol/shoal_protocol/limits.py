"""Every bound of the wire and of the agent, each with its unit in its name and its reason beside it.

A bound protects memory, time or another node; none is a tuning knob. What an operator may set lives in
``shoal_agent.config`` and is checked against these.
"""

from typing import Final

# --- control plane ---------------------------------------------------------------------------------------------
ENVELOPE_BYTES_MAX: Final = 256 * 1024
"""One MQTT payload. Brokers drop the link above their own limit (mosquitto template: 1 MiB): stay well below it."""
TTL_MS_MAX: Final = 3650 * 24 * 3600 * 1000
"""A plan stands until the next epoch, however long that takes; ten years is the life of a data-plane certificate."""
CLOCK_SKEW_MS_MAX: Final = 120_000
"""Two clocks may differ by this: how far ahead a stranger may be, and how long past its ttl anybody is still heard."""
REPLAY_WINDOW_BITS: Final = 1024
"""Out-of-order envelopes remembered per sender and slot: two brokers reorder by far less than 1024 messages."""
SENDERS_MAX: Final = 16_384
"""Members of a roster, hence senders remembered: the largest cluster we simulate (10,000) and its operators."""
REPLAY_SLOTS_MAX: Final = 256
"""Replay windows per sender, one for each thing it speaks about: nine kinds, and five windows per deployment."""
TOPIC_BYTES_MAX: Final = 256
"""The longest topic of the tree has 142 characters."""
SHARDS_MAX: Final = 1024
"""Shares of the nodes; the largest roster, all agents, makes 327 of SHARD_NODES each."""
INTEGER_MAX: Final = 2**63 - 1
"""Any integer field: what every language's signed 64-bit integer holds."""
TEXT_BYTES_MAX: Final = 1024
"""Any single text field: a URL, a reason, a version."""
REASON_CHARS_MAX: Final = 200
"""What we say of a failure, whose words may be anybody's: one line; four bytes a character stay in TEXT_BYTES_MAX."""
LIST_ITEMS_MAX: Final = 1024
"""Any list in a message."""
PLAN_BYTES_MAX: Final = 64 * 1024
"""One plan: 64 stages are 2 KiB, the rest is room for standbys; an envelope carries four of them."""
STAGES_MAX: Final = 64
"""Stages of one plan: more hops than this cost more than any model gains."""
BLOCKS_MAX: Final = 1024
"""Blocks of one model: the deepest published decoder has a fifth of this."""
LOSS_MICRONATS_MAX: Final = 10_000_000
"""Of the quality that narrow activations, or blocks left out, may cost: ten nats are no answer any more."""
SHORTCUTS_MAX: Final = 16
"""Runs of blocks that one model may do without: of 1, 2, 4, ... layers, within and at the end."""
STANDBYS_MAX: Final = 3
"""Standbys of one stage: each takes the stage's memory and its KV again; three survive more than a plan is asked to."""
VOTERS_MAX: Final = 7
"""Voters of one epoch: seven survive three crashes, or two liars; more only make agreement slower."""
ROUNDS_MAX: Final = 1 << 16
"""Rounds of one agreement; with growing time-outs that is years away, so a higher number is somebody's nonsense."""
STAGING_MS_MAX: Final = 24 * 3600 * 1000
"""A plan whose hosts are not ready after a day never will be."""
EPOCH_LEAP: Final = 1 << 20
"""A recovery skips this many epochs, so that whatever the lost voters may still decide stays below it."""
RECOVERY_EPOCH_MAX: Final = 1 << 52
"""The highest epoch a recovery may leap to: 2^32 leaps. What follows counts by ones, so it never comes to the end."""
EVIDENCE_BYTES_MAX: Final = PLAN_BYTES_MAX + 4096
"""One of the two envelopes of a proof: a proposal with the largest plan and the support of all voters."""
DELTAS_MAX: Final = 256
"""Envelopes in one answer of anti-entropy."""
DELTA_BYTES_MAX: Final = ENVELOPE_BYTES_MAX // 2
"""All envelopes in one answer of anti-entropy, with room for the digests; what does not fit follows in the next."""
LINKS_MAX: Final = 64
"""Links a node tells of: its shard's peers, or those it shares a deployment with."""
BYTES_PER_S_MAX: Final = 10**12
"""What a link carries: a terabyte a second, more than any."""
DEMANDS_MAX: Final = 64
"""Deployments whose requests a node tells of: as many as it has phases in."""
TOKENS_PER_KS_MAX: Final = 10**9
"""Tokens asked through one node in a thousand seconds: a million a second, more than any cluster of these answers."""
RECORD_BYTES_MAX: Final = EVIDENCE_BYTES_MAX
"""One record as it travels: a thousand models and all links are half of it, and two of them fit into a proof."""
RECORD_SLOTS_MAX: Final = 64
"""Records of one node: its state, and its phase in 63 deployments."""
RECORDS_BYTES_MAX: Final = 64 * 1024 * 1024
"""All records a node keeps: 600 bytes each of the few hundred nodes it listens to are far below."""
ROOT_BYTES: Final = 16
"""A heartbeat's root is a hint, checked by the exchange that follows: 128 bits do."""
SHARD_NODES: Final = 50
"""Nodes that hear each other's heartbeats: 50 beats a second cost 1 % of a core, and hold more hosts than any plan."""
CONTENT_CHUNK_BYTES: Final = 256 * 1024
"""One piece of a shard between peers: 10 ms of a slow link, so that tokens on the same link do not wait for it."""
BULK_FRAMES_MAX: Final = 16
"""Pieces that wait on one link: 4 MB; nobody honest has so many on order from one node."""
CONTENT_ORDERS_MAX: Final = 2
"""Pieces one node has on order from one peer: one on its way while the next is read from the disk."""
CONTENT_PEERS_MAX: Final = 4
"""Peers one node fetches from at once: together they fill its link, and are eight pieces of memory."""
CONTENT_QUEUE_MAX: Final = 64
"""Requests for pieces that wait at one node; they are small, and who is refused asks somebody else."""
CONTENT_WAIT_S_MAX: Final = 5.0
"""A node whose pieces would leave later than this says that it is busy."""
CONTENT_ANSWER_S_MAX: Final = 20.0
"""From a request for a piece to the piece: to connect, to wait in line, and 256 KiB over 25 KB/s."""
CONTENT_STRIKES_MAX: Final = 3
"""Requests in a row that one peer may leave without an answer before others take over."""
CONTENT_BUSY_MAX: Final = 16
"""Times in a row that one peer may say it is busy; with growing pauses that is two minutes."""
SIGNATURE_BYTES: Final = 64
"""Ed25519."""
CERTIFICATE_BYTES_MAX: Final = 4096
"""One self-signed P-256 certificate in DER is below 500 bytes."""
ROSTER_BYTES_MAX: Final = 16 * 1024 * 1024
"""A signed roster: 16,384 members of 600 bytes (key, roles, zone, certificate) are 10 MB."""
ROOT_KEYS_MAX: Final = 32
"""Root keys, and signatures on a roster: more people than ever sign together."""
BROADCASTS_WAITING_MAX: Final = 256
"""Messages waiting for one broker: retained topics of a node are a handful, and older heartbeats are worth nothing."""
MQTT_PACKET_BYTES_MAX: Final = 1024 * 1024
"""What we let a broker send in one packet: its own limit in our template, four envelopes."""
MQTT_IN_FLIGHT_MAX: Final = 64
"""Unacknowledged QoS 1 messages in either direction, as in the broker template."""
MQTT_SESSION_S: Final = 120
"""A broker keeps our session over a reboot of a switch, not over a day off."""
MQTT_KEEPALIVE_S: Final = 5
"""A broker tells others of our death after 1.5 times this."""
BROKER_ANSWER_S_MAX: Final = 5.0
"""One connection step or one publication; on a healthy link it takes milliseconds."""
BROKER_PROBE_S: Final = 2.0
"""How often a link is asked for a sign of life; unanswered for as long again, it is down. Two heartbeats."""
BROKER_RETRY_S_MIN: Final = 0.5
"""The first attempt to connect again comes within this time, at random."""
BROKER_RETRY_S_MAX: Final = 30.0
"""Later attempts come within this, at random, so that a broker that restarts is not met by everybody at once."""
BROKER_REFUSED_S: Final = 60.0
"""A broker that does not accept our name or certificate will not change its mind soon."""
BROKER_STABLE_S: Final = 30.0
"""A link that lasted so long was a good one: the next attempts begin quickly again."""

# --- data plane -------------------------------------------------------------------------------------------------
HEADER_BYTES_MAX: Final = 16 * 1024
"""msgpack header of a frame; the largest real one (20 top logprobs) is below 400 bytes."""
PAYLOAD_BYTES_MAX: Final = 64 * 1024 * 1024
"""One tensor: 512 tokens x 16,384 wide x 4 bytes is 32 MiB."""
CREDIT_BYTES: Final = 16 * 1024 * 1024
"""Bytes a peer may have in flight to us on one connection: several prefill chunks, a bounded amount of memory."""
CREDIT_BYTES_MAX: Final = 2**32 - 1
"""Any one grant of credit: nobody has a reason to let more than this be in flight to it."""
SEND_QUEUE_FRAMES_MAX: Final = 1024
"""Frames waiting for credit on one connection; beyond it the link counts as lost."""
URGENT_FRAMES_MAX: Final = 64
"""Pings and answers waiting on one connection; older ones are dropped, the question will be asked again."""
SEND_QUEUE_BYTES_MAX: Final = 128 * 1024 * 1024
"""Payloads waiting on one connection: two of the largest; whoever is that far behind will not catch up."""
LINK_CONNECT_S_MAX: Final = 8.0
"""Name look-up, TCP and TLS handshake of a connection we open: three lost SYNs; then the peer counts as lost."""
LINK_HANDSHAKE_S_MAX: Final = 5.0
"""TLS handshake of a connection somebody opened to us: 10 ms on a LAN, a second on the slowest device."""
LINK_HANDSHAKES_MAX: Final = 64
"""Strangers in the middle of a TLS handshake; more are hung up on, so that they cannot fill memory."""
LINK_HELLO_S_MAX: Final = 5.0
"""From the end of the handshake to the peer's Hello."""
LINK_QUIET_S: Final = 2.0
"""Nothing heard for so long on a link we opened: probe it. Two heartbeats."""
LINK_SILENCE_S_MAX: Final = 6.0
"""Nothing heard for so long, probes unanswered: the peer is gone, though TCP may not say so for minutes."""
LINK_CLOSE_S_MAX: Final = 2.0
"""Time for the last frames to leave when a node shuts down."""
CIRCUIT_BYTES: Final = 16
"""The name of a relayed link, drawn at random by who opens it."""
EPHEMERAL_BYTES: Final = 32
"""An X25519 public key."""
RELAY_MESSAGE_BYTES_MAX: Final = ENVELOPE_BYTES_MAX
"""One MQTT payload of a relayed link, sealed: no larger than what brokers carry for us anyway."""
RELAY_WINDOW_BYTES_MAX: Final = 2 * RELAY_MESSAGE_BYTES_MAX
"""Sent on one relayed link and not acknowledged: so much of it lies at a broker, before others' messages."""
RELAY_WINDOW_MESSAGES_MAX: Final = 64
"""The same in messages: an acknowledgement names each of them with a bit."""
RELAY_CREDIT_BYTES: Final = 2 * 1024 * 1024
"""Credit on a relayed link: a slow way needs a small one, and what is granted is held in memory."""
RELAYS_MAX: Final = 64
"""Relayed links of one node, in both directions together: 64 MiB at the worst; a rare neighbour needs two."""
RELAY_OPENINGS_MAX: Final = 4
"""Openings of one peer that wait for its first sealed message: whoever plays back old ones gets no further."""
RELAY_OPEN_S_MAX: Final = 3.0
"""From the first knock to the answer, by a broker that may be lost meanwhile."""
RELAY_WAITING_MAX: Final = 256
"""Relayed messages waiting for one broker; beyond it they are dropped, and sent again by whoever waits for them."""
RELAY_EXPIRY_S: Final = 5
"""A broker that could not deliver a relayed message in this time need not: it was sent again."""
TENSOR_RANK_MAX: Final = 8
"""ONNX tensors in practice have rank <= 5."""
TOP_LOGPROBS_MAX: Final = 20
"""What the OpenAI API allows."""
TOKENS_MAX: Final = 2**31 - 1
"""Any token id, position or count of tokens: ONNX graphs take them as int32."""

# --- sessions ---------------------------------------------------------------------------------------------------
PREFILL_CHUNK_TOKENS: Final = 256
"""Positions per activation frame: long enough to keep MatMul efficient, short enough to pipeline and to cancel."""
SESSIONS_MAX: Final = 256
"""Sessions one host keeps open, whatever their size."""
REQUESTS_MAX: Final = 256
"""Requests one ingress has in flight."""
STAGE_QUEUE_MAX: Final = 64
"""Prompt chunks of one session waiting at one stage: 64 x 256 tokens is beyond any context we serve."""
ATTEMPTS_MAX: Final = 4096
"""Times a session's route is laid anew: one every seventh of a second for as long as a request may last."""
KV_ROWS_BYTES_MAX: Final = 256 * 1024
"""Rows of KV in one frame, unless one position alone takes more: as long as a piece, so that no token waits longer."""
RETAINED_BYTES_MAX: Final = 2 * 1024 * 1024
"""Outputs one session's stage keeps to send again: 900 tokens of a small model, the last chunk of a large one."""
RETAINED_BYTES_ALL_MAX: Final = 128 * 1024 * 1024
"""And all sessions of one node together."""
ORPHAN_S_MAX: Final = 30.0
"""A session whose ingress is lost keeps its KV for so long: its client may come back through another ingress."""
JOURNAL_PAGES_MAX: Final = 256
"""Pages of one session's journal: then it is written anew, as one; a page is eight tokens or more."""
JOURNAL_BYTES_MAX: Final = 512 * 1024
"""One session's journal: 32,768 tokens as they are, and as much again for what surrounds them."""
INTENT_BYTES: Final = 32
"""A digest of what a client asked for: the same request id with another wish is another request."""
JOURNALS_MAX: Final = 1024
"""Sessions whose journal one node keeps for others: all requests of four ingresses."""
JOURNALS_BYTES_MAX: Final = 64 * 1024 * 1024
"""And all of them together."""
RUNS_MAX: Final = 64
"""Segments of different chunks in one session: two, and two more for every prefill after a loss."""
SERVICE_CALLS_MAX: Final = 1024
"""Light-service calls one node has under way for others."""
STOP_STRINGS_MAX: Final = 4
"""What the OpenAI API allows."""
STOP_STRING_BYTES_MAX: Final = 256
"""Held back from the stream while undecided, so it bounds latency too."""

# --- light services and the API ---------------------------------------------------------------------------------
SERVICE_SLOW_CALLS_MAX: Final = 64
"""Renderings and encodings waiting for the service workers: at a few milliseconds each, less than a second of work."""
INSTANCES_MAX: Final = 64
"""Instances of one light service on one node: one each for the cores of the largest machine we run on."""
LOADS_MAX: Final = 32
"""Light services a digest tells of: four of each of eight models; those that nobody calls are left out."""
WORK_MAX: Final = 1 << 24
"""KiB of requests that wait for one service: a thousand of the largest bodies are a sixteenth of it."""
LEVEL_MILLI_MAX: Final = 10**9
"""A level of a queue, in thousandths: a million requests behind is not a load any more but an outage."""
OWED_S_MAX: Final = 1_000_000
"""Seconds of a budget that may be owed: eleven days of it are as good as for ever."""
RATE_MILLI_MAX: Final = 10**12
"""Calls one instance serves in a thousand seconds: a microsecond for each."""
WAIT_US_MAX: Final = 3600 * 1000 * 1000
"""A wait that a node tells of: an hour, which nobody waits for."""
SERVICE_CALL_S_MAX: Final = 10.0
"""One light-service call; encoding a whole request body takes a quarter of a second."""
SERVICE_SESSION_IDLE_S_MAX: Final = 900.0
"""A sampler or detokenizer session nobody touched for longer than any deadline may be forgotten to make room."""
CHAT_MESSAGES_MAX: Final = 1024
"""Messages of one conversation: at four tokens of markup each, half of a small model's context."""
CHAT_TEXT_CHARS_MAX: Final = 4 * 1024 * 1024
"""A rendered conversation: the largest request body and its markup fit several times."""
REQUEST_DEADLINE_S_MAX: Final = 600.0
"""One generation, from arrival to the last token: what the OpenAI client waits by default."""
API_BODY_BYTES_MAX: Final = 1024 * 1024
"""One request body: ten times the text of the longest context we serve."""
API_BODY_S_MAX: Final = 20.0
"""A whole request body must have arrived: 50 KB/s for the largest."""
API_HEADERS_BYTES_MAX: Final = 16 * 1024
"""Request line and headers together; browsers and clients stay below 8 KB."""
API_HEADERS_S_MAX: Final = 10.0
"""From the first byte we may expect of a request to the end of its headers."""
API_IDLE_S_MAX: Final = 60.0
"""A kept-alive connection without a request."""
API_SEND_S_MAX: Final = 30.0
"""A client that takes no byte for so long is gone."""
API_CONNECTIONS_MAX: Final = 512
"""Connections to one node's API: every request in flight and as many that wait or only look."""
API_KEYS_MAX: Final = 64
"""Keys of one node's API; each is compared for every request."""
METRIC_LABELS_MAX: Final = 64
"""Values of one metric's label; beyond it they are counted together as "other"."""

FLIGHT_BYTES_MAX: Final = 1024 * 1024 * 1024
"""A flight recording ends here: weeks of a quiet node, hours of a busy one."""

# --- models -----------------------------------------------------------------------------------------------------
MANIFEST_BYTES_MAX: Final = 16 * 1024 * 1024
"""A manifest takes 2 KB per block and 67 bytes per piece of weights: a package of 50 GB in a thousand blocks."""
BLOCK_US_MAX: Final = 3600 * 1000 * 1000
"""One run of one block, as a manifest claims it: an hour, which nobody waits for."""
MACS_PER_S_MAX: Final = 10**18
"""Speed of a machine, as a manifest claims it: a thousand of the largest accelerators."""
SHARDS_PER_BLOCK_MAX: Final = 16
"""A layer needs two: its weights and the rotation tables all layers share."""
GRAPH_BYTES_MAX: Final = 4 * 1024 * 1024
"""The graph of one block, without weights: a transformer layer takes 4 KB."""
TOKENIZER_BYTES_MAX: Final = 64 * 1024 * 1024
"""A tokenizer.json; the largest published vocabularies (256,000 tokens) take 35 MB."""
CHAT_TEMPLATE_BYTES_MAX: Final = 64 * 1024
"""The text of a chat template; the longest published ones stay below 20 KB."""
GGUF_FIELDS_MAX: Final = 4096
"""Metadata entries of a model file; real ones have fewer than 100."""
GGUF_TENSORS_MAX: Final = 65_536
"""Tensors of a model file: BLOCKS_MAX layers of 64 tensors each."""
GGUF_ITEMS_MAX: Final = 4 * 1024 * 1024
"""Items of one metadata array: the largest vocabulary's merges are below half a million."""
DOWNLOAD_ATTEMPTS_MAX: Final = 5
"""Connections one download may break before we give up; each continues where the last one stopped."""
INDEX_PAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A package index's page about one project; the longest (thousands of wheels) are a few megabytes."""

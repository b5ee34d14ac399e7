"""What this node measures, in a Prometheus registry of its own. Every name begins with ``shoal_``.

Three kinds of source, and no other way in:

* the core counts by effect, ``Count(name, label)``, and drivers call ``count`` alike: each name is a row of
  ``FAMILIES`` and becomes ``shoal_<name>_total{<label>}``. Labels may come from other nodes' mistakes, so each family
  keeps a bounded number of label values and counts the rest as ``other``;
* the API observes requests, tokens and the two times a reader feels: to the first token, and between two tokens;
* gauges are read when somebody looks (``Readings``), so they cannot drift from what they measure.

Histogram buckets are geometric over what is humanly different: 5 ms is a fast device's token, 60 s nobody waits for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from shoal_protocol.light import ServiceLoad
from shoal_protocol.limits import METRIC_LABELS_MAX

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    "accusations_made": ("verdict", "Accusations this node made of others that are silent"),
    "accusations_of_us": ("accuser", "Accusations of this node by others, each of them refuted"),
    "activations_repeated": ("how", "Activations for positions a stage has, all of them or in part"),
    "activations_refused": ("reason", "Activations this node would not run"),
    "agreements": ("outcome", "What became of agreements this node took part in"),
    "answers": ("option", "Answers of classes that tolerate loss, by the blocks they are computed without"),
    "blocks_opened": ("deployment", "Blocks of a model that were opened here, and not open already"),
    "broadcasts_dropped": ("reason", "Broadcasts that no broker could take in time"),
    "broadcasts_refused": ("code", "Broadcasts a broker answered with an error"),
    "broker_links": ("change", "Times a link to a broker came up or went down"),
    "calls_sent": ("service", "Calls of light services that this node sent to others, because it is better there"),
    "calls_sent_again": ("why", "Calls of light services that another node did not do, and that went elsewhere"),
    "content_bytes": ("direction", "Bytes of packages served to peers (out) or taken from them and verified (in)"),
    "content_pieces_rejected": ("reason", "Pieces from peers that were not what the manifest says, or unasked for"),
    "pipelines_judged": ("word", "Runs of pipelines at the door: let in, or refused and why"),
    "errands_ended": ("how", "What became of calls of light services alone, as embeddings are"),
    "exchanges": ("part", "Anti-entropy: exchanges this node asked for, answered or declined"),
    "frames_dropped": ("kind", "Data-plane frames that no session here was waiting for"),
    "instances_started": ("service", "Instances of light services that this node started, beyond the first"),
    "instances_stopped": ("service", "Instances of light services that were idle, or whose calls went elsewhere"),
    "journal_bytes": ("direction", "Bytes of sealed journals written for this node's streams, or kept for others'"),
    "journals_dropped": ("why", "Journals kept for others that had to go: ROOM, oldest of too many; SIZE, too long"),
    "journals_refused": ("reason", "Journals, or pages of them, that were not kept, not given or not readable"),
    "journals_served": ("from", "Journals given to other ingresses: kept ones, or of this node's own streams"),
    "kv_bytes": ("direction", "Bytes of KV sent to standbys and heirs, and kept for others"),
    "kv_rows_refused": ("reason", "Rows of KV that were not taken, here or by others"),
    "last_wills": ("broker", "Last wills of other nodes: links of theirs that broke"),
    "links_lost": ("plane", "Data-plane links that broke"),
    "links_opened": ("plane", "Data-plane links that came up"),
    "members_convicted": ("node", "Members of whom two statements prove that they lie"),
    "messages_duplicate": ("broker", "Envelopes already accepted from another broker"),
    "messages_rejected": ("reason", "Envelopes refused at the gate or after it"),
    "moves_called_off": ("deployment", "Sessions that were about to move to another epoch, and stay"),
    "moves_refused": ("reason", "Refusals of hosts to hand over or to take up a session that was to move"),
    "outputs_forgotten": ("why", "Sessions whose oldest outputs a stage did not keep to send them again"),
    "paths_broken": ("neighbour", "Sessions suspended here because a neighbour on their route was lost"),
    "peers_misbehaved": ("reason", "Things received that no correct node sends"),
    "plans_disputed": ("deployment", "Two plans with proof for one epoch of a deployment"),
    "plans_rejected": ("reason", "Announced plans that are invalid, or equivocate"),
    "records": ("outcome", "Records of other nodes, by what they changed"),
    "records_refused": ("kind", "Stored votes and certificates that could not be read again"),
    "relay_bytes": ("direction", "Bytes of sealed messages published for peers behind brokers (out) or opened (in)"),
    "relay_refused": ("reason", "Relayed messages that were not what they claimed, or found no place"),
    "requests_finished": ("reason", "Requests that ended after they were accepted"),
    "requests_rejected": ("code", "Requests that were not begun"),
    "service_answers_rejected": ("reason", "Answers of light services that made no sense"),
    "service_probes_late": ("service", "Times that a node did not say in time how busy its light service is"),
    "sessions_orphaned": ("why", "Sessions suspended here because their ingress was lost"),
    "sessions_migrated": ("deployment", "Sessions of this node that moved to another epoch between two tokens"),
    "sessions_refused": ("reason", "Sessions this node's stages would not serve"),
    "sessions_resumed": ("way", "Sessions of this node that went on after a loss, by how their KV came back"),
    "sessions_revived": ("how", "Streams this node went on with because their clients came from another ingress"),
    "sessions_superseded": ("by", "Sessions this node no longer serves because another one does"),
    "shadows_dropped": ("why", "Copies of sessions that were not kept to their end"),
    "shadows_opened": ("by", "Sessions of which this node began to keep a copy"),
    "shortcuts_refused": ("node", "Stages whose package does not certify the blocks that an answer was to do without"),
    "stages_refused": ("reason", "Refusals of a stage that sessions of this node went round"),
    "staging_failed": ("deployment", "Plans that their hosts could not bring to life"),
}
"""Counters of the core and the drivers: name -> (label, help)."""

_FIRST_TOKEN_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_TOKEN_S: Final = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 5.0)
_STAGE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_OTHER: Final = "other"


SERVICE_GAUGES: Final[tuple[tuple[str, str, Callable[[ServiceLoad], float]], ...]] = (
    ("instances", "Instances of a light service that run here", lambda load: load.instances),
    ("backlog_kib", "Work that waits for a light service here, weighed by how long (Q + W)", lambda load: load.waiting),
    ("rate_kib_per_second", "What one instance does; 0: not measured", lambda load: load.rate_milli / 1000),
    ("wait_seconds", "Until the work that is there is done", lambda load: load.wait_us / 1e6),
)
"""Gauges of each light service: name, help, value."""


@dataclass(frozen=True, slots=True)
class Readings:
    """What the gauges show at one moment."""

    kv_bytes: int
    """KV cache reserved by the sessions of this node's stages."""
    sessions: int
    """Sessions open on this node's stages."""
    shadows: int
    """Sessions of which others keep a copy here."""
    tensors: int
    """Tensors in the table: 0 when nothing is under way."""
    requests: int
    """Requests in flight whose ingress is this node."""
    nodes: int
    """Nodes of the cluster that are present, this one included."""
    relays: int
    """Peers that this node's frames reach through the brokers only."""
    brokers: Mapping[str, bool]
    """Broker -> whether the link is up."""
    ready: bool
    tasks: int = 0
    """Tasks of the loop; their number at rest tells whether any were left behind."""
    budgets: Mapping[str, float] = field(default_factory=dict)
    """Budget -> what is owed to it, as a level."""
    watts: float = 0.0
    """What the machine draws; 0 if nothing measures or models it."""
    promises: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    """Request class -> requests that were late beyond what was promised (Z)."""
    loads: tuple[ServiceLoad, ...] = ()
    """How busy each light service is."""
    calls_away: int = 0
    """Calls of light services that other nodes have."""


class _Gauges(Collector):
    """Asks for the readings whenever the registry is read."""

    def __init__(self, read: Callable[[], Readings], version: str) -> None:
        self._read = read
        self._version = version

    def describe(self) -> Iterable[Metric]:
        """Named beforehand, so that registering does not read gauges that may not exist yet."""
        return [InfoMetricFamily("shoal_build", "The software that runs here")]

    def collect(self) -> Iterable[Metric]:
        now = self._read()
        yield InfoMetricFamily("shoal_build", "The software that runs here", {"version": self._version})
        yield _gauge("kv_bytes", "Bytes of KV cache reserved by open sessions", now.kv_bytes)
        yield _gauge("sessions", "Sessions open on the stages of this node", now.sessions)
        yield _gauge("shadows", "Sessions of which other nodes keep a copy here", now.shadows)
        yield _gauge("tensors", "Tensors held between two events", now.tensors)
        yield _gauge("requests", "Requests in flight that entered the cluster here", now.requests)
        yield _gauge("nodes", "Nodes of the cluster that are present", now.nodes)
        yield _gauge("relays_open", "Peers that frames reach through the brokers only", now.relays)
        yield _gauge("tasks", "Tasks of the agent's loop", now.tasks)
        yield _gauge("power_watts", "What the machine draws; 0 if nothing measures or models it", now.watts)
        yield _levels("budget_level", "What is owed to a budget; 0 while it is kept", "budget", now.budgets)
        yield _levels("class_loss_level", "Quality that a class lost beyond what it may (A)", "class", now.losses)
        yield _levels("class_level", "Late requests of a class beyond its promise (Z)", "class", now.promises)
        yield _gauge("ready", "1 if this node can serve a request", int(now.ready))
        yield _gauge("calls_away", "Calls of light services that other nodes have for this one", now.calls_away)
        yield from _services(now.loads)
        up = GaugeMetricFamily("shoal_broker_up", "1 if the link to the broker is up", labels=["broker"])
        for broker, connected in sorted(now.brokers.items()):
            up.add_metric([broker], int(connected))
        yield up


class Metrics:
    """All metrics of one node. ``read`` gives the gauges' values, ``version`` names the software."""

    def __init__(self, read: Callable[[], Readings], version: str) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(read, version))
        ProcessCollector(namespace="shoal", registry=self._registry)
        self._counters = {
            name: Counter(f"shoal_{name}", text, [label], registry=self._registry)
            for name, (label, text) in FAMILIES.items()
        }
        self._labels: dict[str, set[str]] = {name: set() for name in FAMILIES}
        self._answers = Counter(
            "shoal_api_responses", "HTTP responses by route and status", ["route", "status"], registry=self._registry
        )
        self._tokens = Counter(
            "shoal_tokens",
            "Tokens of requests that entered here, read (prompt) or written (completion)",
            ["kind"],
            registry=self._registry,
        )
        self._runs = Counter(
            "shoal_pipeline_runs", "Runs of pipelines that entered here", ["pipeline", "how"], registry=self._registry
        )
        self._run = Histogram(
            "shoal_pipeline_run_seconds",
            "From the arrival of a pipeline's request to its answer",
            ["pipeline"],
            buckets=_FIRST_TOKEN_S,
            registry=self._registry,
        )
        self._forecast = Histogram(
            "shoal_pipeline_forecast_seconds",
            "When runs of a pipeline would end, as foretold at the door",
            ["pipeline"],
            buckets=_FIRST_TOKEN_S,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "shoal_first_token_seconds",
            "From the arrival of a request to its first token",
            buckets=_FIRST_TOKEN_S,
            registry=self._registry,
        )
        self._inter_token = Histogram(
            "shoal_inter_token_seconds", "Between two tokens of one stream", buckets=_TOKEN_S, registry=self._registry
        )
        self._stage_run = Histogram(
            "shoal_stage_run_seconds", "One run of one stage on this node", buckets=_STAGE_S, registry=self._registry
        )

    def count(self, name: str, label: str, amount: int = 1) -> None:
        """Add to a counter. ``name`` is a row of ``FAMILIES``."""
        known = self._labels[name]
        if label not in known:
            if len(known) >= METRIC_LABELS_MAX:
                label = _OTHER
            known.add(label)
        self._counters[name].labels(label).inc(amount)

    def stage_run(self, seconds: float) -> None:
        """A stage of this node ran."""
        self._stage_run.observe(seconds)

    def answered(self, route: str, status: int) -> None:
        """The API began a response. ``route`` is one of the API's own paths, never a client's."""
        self._answers.labels(route, str(status)).inc()

    def run_foretold(self, pipeline: str, seconds: float) -> None:
        """A run of a pipeline was judged, refused or not."""
        self._forecast.labels(pipeline).observe(seconds)

    def run_ended(self, pipeline: str, how: str, seconds: float) -> None:
        """A run of a pipeline is over; only those that were answered tell how long it takes."""
        self._runs.labels(pipeline, how).inc()
        if how == "done":
            self._run.labels(pipeline).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """A stream's first token came."""
        self._first_token.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """A stream's next token came, so long after the one before."""
        self._inter_token.observe(seconds)

    def used(self, prompt_tokens: int, completion_tokens: int) -> None:
        """A stream is over."""
        self._tokens.labels("prompt").inc(prompt_tokens)
        self._tokens.labels("completion").inc(completion_tokens)

    def render(self) -> bytes:
        """Everything, in the text format that ``CONTENT_TYPE`` names."""
        return generate_latest(self._registry)


def _services(loads: Sequence[ServiceLoad]) -> Iterable[Metric]:
    """One row for each light service in each family."""
    for name, text, value in SERVICE_GAUGES:
        family = GaugeMetricFamily(f"shoal_service_{name}", text, labels=["service"])
        for load in loads[:METRIC_LABELS_MAX]:
            family.add_metric([load.service], value(load))
        yield family


def _levels(name: str, text: str, label: str, levels: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"shoal_{name}", text, labels=[label])
    for key, level in sorted(levels.items()):
        family.add_metric([key], level)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"shoal_{name}", text, value)

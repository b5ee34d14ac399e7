"""Every assumption of paper (b)'s experiment in a sentence: what the paper does not print, and what we took instead."""

from shoal_agent.core.decision import FETCH_BYTES_PER_S, OPEN_BYTES_PER_S
from shoal_agent.core.gossip import DRIFT_SPACING_S
from shoal_agent.experiments.paper_b import cluster, serving, trace
from shoal_agent.experiments.paper_b.adaptive import Rules


def assumptions(weather: str, width: str, seeds: int, length_s: float) -> list[str]:
    """For the report."""
    return [
        f"{seeds} seeds of {length_s:g} s, simulated; the paper's table is a projection without parameters or seeds",
        *_cluster(width),
        *_times(trace.WEATHERS[weather]),
        *_knowledge(),
    ]


def _cluster(width: str) -> list[str]:
    memory = "/".join(str(cluster.MEMORY_MB[node]) for node in cluster.EDGE)
    speed = "/".join(f"{cluster.SPEED[node]:g}" for node in cluster.EDGE)
    trusted = " and ".join(cluster.NODES[node] for node in cluster.TRUSTED)
    size = cluster.BLOCK_BYTES / 1e6
    return [
        f"model: {cluster.BLOCKS} equal blocks of {size:g} MB; a request is one pass of {cluster.TOKENS} tokens",
        f"a cut has {cluster.CUT_BYTES[width] / 1000:g} kB ({width}), converting is free; tokens go in and out",
        f"machines: {speed} blocks/s, each within {trace.PROFILE_ERROR:.0%} of its profile; memory {memory} MB",
        f"trusted: {trusted}; the first {cluster.PRIVATE_HEAD} blocks and the last run there; n0 is asked",
        f"links: {cluster.BANDWIDTH / 1e6:g} MB/s, at n0 {cluster.INGRESS_SHARE:.0%}; a hop {cluster.RTT_S} s",
        f"cloud: {cluster.SPEED[cluster.CLOUD]:g} blocks/s, {cluster.CLOUD_BANDWIDTH / 1e6:g} MB/s; for cloud-only",
        "single-node ignores privacy: no trusted machine holds the model",
    ]


def _times(sky: trace.Weather) -> list[str]:
    dead, silent, agreed = trace.FOUND_DEAD_S, trace.FOUND_SILENT_S, trace.AGREED_S
    return [
        f"others' load: levels {sky.busy}, each held {trace.BUSY_DWELL_S:g} s on average (exponential)",
        f"link factors: {sky.link}, {trace.LINK_DWELL_S:g} s on average; a link has the worse factor of its ends",
        f"failures: MTBF {sky.mtbf_s / 60:g} min a machine, repair {trace.REPAIR_S:g} + {trace.REOPEN_S:g} s",
        (
            f"found: {1 - trace.SILENT_SHARE:.0%} are dead processes, {dead[0]}-{dead[1]} s; the rest are silent, "
            f"{silent[0]}-{silent[1]} s (measured: docs/bench.md); the same for all but the oracle"
        ),
        f"agreed: {agreed[0]}-{agreed[1]} s (measured: docs/bench.md); n0 does not fail: with it goes the demand",
        (
            f"arrivals: Poisson {trace.RATE_PER_S:g}/s times the load, {trace.BURST:g} times that in every third "
            f"{trace.BURST_S:g} s; on time is {serving.SLO_S:g} s, failed is no answer in {serving.PATIENCE_S:g} s"
        ),
        (
            f"moving: fetch {FETCH_BYTES_PER_S / 1e6:g} MB/s (half of a node's links meanwhile), open "
            f"{OPEN_BYTES_PER_S / 1e6:g} MB/s; disks keep every block they had"
        ),
        "a request on a lost host begins anew once the loss is found; a stage is timed at the load at which it begins",
    ]


def _knowledge() -> list[str]:
    return [
        f"load and links are known as records tell them, at most every {DRIFT_SPACING_S:g} s, without noise",
        "the rate of requests is measured as agents measure it (core/demand); the minute before the trace was as usual",
        "the bandwidth of links is taken as known: agents know it of links over which something large went",
        (
            f"the operator asks {Rules().gain_permille / 10:g} % of a new plan and names a deadline of "
            f"{serving.DEADLINE_S:g} s, a fifth below the SLO; that it was missed is known when it passes; a request "
            f"is refused if it would take over {serving.PATIENCE_S:g} s, and a refusal is a failure"
        ),
        "standbys are found stage by stage; agents also ask a backbone where one is left bare, which is not here",
        "static is the same planner's best split under the mean conditions of the very trace it then meets",
        "central-rtt: its centre is 0.05 s away and fails as often as a machine; while it is away nothing is decided",
    ]

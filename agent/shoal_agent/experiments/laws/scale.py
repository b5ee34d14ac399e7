"""What one node's share costs as the network grows: work per decision, words on the wire, and how well it does.

A rule that is local must cost the same at 8 nodes and at 200: a node scores the digests of its neighbours, probes two,
and tells one digest a slot. The time of a decision is measured by a benchmark of the core; here its *number of things
looked at* is counted, which is the same on every machine, and the bytes of the messages as they really go on the wire
(``shoal_protocol``: a sealed envelope for a digest, frames for a probe's question and answer).
"""

from dataclasses import replace
from typing import Final

from shoal_agent.experiments.laws.bound import least_cost
from shoal_agent.experiments.laws.network import Control
from shoal_agent.experiments.laws.runs import Case, Figures, play_all, row
from shoal_agent.experiments.laws.setting import Setting, circle
from shoal_agent.experiments.options import Options, Progress
from shoal_agent.experiments.report import Band, Chart, Report, Row
from shoal_agent.experiments.statistics import mean
from shoal_agent.experiments.traces import trace_hash
from shoal_protocol.codec import encode_header, encode_message
from shoal_protocol.light import DigestTold, LoadAsked, LoadTold, ServiceLoad

SIZES: Final = (8, 24, 64, 200)
SERVICES_TOLD: Final = 8
"""In a digest: more than a text pipeline has."""
SEAL_BYTES: Final = 64 + 32
"""An Ed25519 signature; who, when and which message."""
V: Final = 2.0
SLOTS: Final = 300
WARM: Final = 100
FLAT_MAX: Final = 1.1
"""Of a figure per node at the largest size to that at the smallest."""


def setting(nodes: int, slots: int) -> Setting:
    """The same eight nodes again and again."""
    return replace(circle(nodes, slots + WARM), warm_slots=WARM)


def digest_bytes() -> int:
    """Of one digest, sealed."""
    load = ServiceLoad("tokenizer:0123456789abcdef", 3, 40, 900, 200_000)
    return len(encode_message(DigestTold((load,) * SERVICES_TOLD))[1]) + SEAL_BYTES


def probe_bytes() -> int:
    """Of a question and its answer."""
    load = ServiceLoad("tokenizer:0123456789abcdef", 3, 40, 900, 200_000)
    return sum(len(encode_header(one)[1]) for one in (LoadAsked(1, load.service), LoadTold(1, load)))


def run(options: Options, progress: Progress, slots: int = SLOTS) -> Report:
    """Ours at every size."""
    worlds = {nodes: setting(nodes, slots) for nodes in SIZES}
    cases = [Case("ours", worlds[nodes], seed, Control(v=V)) for nodes in SIZES for seed in range(options.seeds)]
    figures = play_all(cases, options, progress)
    runs = {nodes: figures[index * options.seeds :][: options.seeds] for index, nodes in enumerate(SIZES)}
    rows = [_row(worlds[nodes], runs[nodes]) for nodes in SIZES]
    return Report(
        "scale",
        trace_hash([one.digest for one in figures]),
        [
            f"nodes as in v-sweep, repeated, three neighbours each; V = {V:g}; {slots} slots after {WARM}",
            f"a digest every slot of {SERVICES_TOLD} services: {digest_bytes()} bytes; a probe: {probe_bytes()} bytes",
            "scored: offers looked at per node and slot; heard: bytes of digests and probes per node and slot",
            "gap: cost to the least cost of the same network (fractional instances, known rates, no starts)",
        ],
        rows,
        [_flat(rows, name) for name in ("scored", "heard_bytes", "gap")],
        [_chart(rows)],
    )


def _row(world: Setting, runs: list[Figures]) -> Row:
    nodes = world.nodes
    near = mean([float(len(some)) for some in world.neighbours])
    probes = mean([one.values["probes"] for one in runs]) / nodes
    tasks = sum(node[0] for node in world.loads) / nodes
    return row(
        "ours",
        runs,
        nodes=float(nodes),
        scored=tasks * (near + 1) + probes,
        heard_bytes=near * digest_bytes() + probes * probe_bytes(),
        gap=mean([one.values["cost"] for one in runs]) / least_cost(world),
    )


def _flat(rows: list[Row], name: str) -> Band:
    return Band(
        f"{name} per node at {SIZES[-1]} nodes to {SIZES[0]}",
        rows[-1].extra[name] / rows[0].extra[name],
        None,
        FLAT_MAX,
    )


def _chart(rows: list[Row]) -> Chart:
    lines = {
        name: [(one.extra["nodes"], one.extra[name] / rows[0].extra[name]) for one in rows]
        for name in ("scored", "heard_bytes", "gap")
    }
    return Chart("scale", "Per node, relative to 8 nodes", "nodes", "ratio", lines=lines, log_x=True)

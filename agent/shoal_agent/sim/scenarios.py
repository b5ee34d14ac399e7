"""Worlds with a name: which faults may strike in them, and how they are built.

A scenario only says what *may* go wrong; each seed draws a subset of it (``faults``). The table grows: a fault that
joins ``faults.FAULTS`` belongs into ``mixed`` as well.
"""

from dataclasses import dataclass
from typing import Final

from shoal_agent.sim.faults import FAULTS


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of world."""

    summary: str
    faults: tuple[str, ...]
    drift: float = 0.02
    """Clocks run at 1 +- this; the default is far worse than any quartz."""
    kv_bytes_max: int = 10**9
    bare_nodes: int = 0
    """So many nodes run no light service and call other nodes' for it."""
    faulty: int | None = None
    """How many voters may lie, by the terms; None: each seed draws 0 or 1, where there are enough nodes."""
    liars: int = 0
    """How many nodes do lie."""
    late: int = 0
    """So many nodes are not there in the beginning."""
    nodes_min: int = 2
    guarded: bool = False
    """The ends of the model may be at home only: one machine holds both, others what is between."""
    storm_s: float = 12.0
    """Faults strike for so long."""
    beyond: bool = False
    """More nodes lie than the terms allow for: safety may break, and the oracles are to say so."""
    crowd: bool = False
    """Nothing goes wrong and nothing is judged on the way: only counted (``scale``)."""


DRIFT: Final = 0.2

SCENARIOS: Final[dict[str, Scenario]] = {
    "calm": Scenario("nothing goes wrong; one node without light services", (), bare_nodes=1),
    "crowded": Scenario("KV for two or three sessions only", ("clog",), kv_bytes_max=8 * 64 * 512),
    "lossy": Scenario(
        "messages and connections are lost, late, doubled, out of order",
        ("message-loss", "duplicates", "reorder", "frame-loss", "clog"),
    ),
    "broker-loss": Scenario("brokers end or hang", ("broker-stop", "broker-freeze")),
    "broker-partition": Scenario("brokers are reached by some", ("broker-partition", "message-loss")),
    "brokers-dead": Scenario("no broker is left", ("brokers-dead", "crash")),
    "churn": Scenario("nodes crash and come back", ("crash",), bare_nodes=1),
    "leave": Scenario("agents are stopped and started", ("leave", "rolling-restart")),
    "pause": Scenario("processes are stopped and go on", ("pause",)),
    "partition": Scenario("nodes do not reach each other, in one direction or both", ("partition", "broker-partition")),
    "island": Scenario("the network falls in two, brokers and links together", ("island", "crash")),
    "flapping": Scenario("a link comes and goes", ("flapping-link", "frame-loss")),
    "slow": Scenario("disks and processors are slow", ("slow-disk", "slow-host")),
    "drift": Scenario("clocks run 20 % fast or slow", ("crash", "pause", "frame-loss"), drift=DRIFT),
    "amnesia": Scenario("nodes come back without anything they had persisted", ("amnesia", "crash")),
    "host-loss": Scenario("a host breaks for good", ("host-loss", "crash", "message-loss"), nodes_min=3),
    "staging-failure": Scenario(
        "blocks do not open while hosts come and go", ("staging-failure", "crash", "host-loss"), nodes_min=3
    ),
    "ballots": Scenario(
        "voters crash in the middle of it, messages are lost and late",
        ("voter-crash", "ballot-cut", "host-loss", "message-loss", "reorder", "clog", "pause"),
        nodes_min=3,
    ),
    "locks": Scenario(
        "who has decided cannot say so, and others come back", ("mute", "crash"), nodes_min=3, storm_s=24.0
    ),
    "u-shape": Scenario(
        "one node holds both ends of the model, which may not leave its zone",
        ("crash", "host-loss", "leave", "pause", "message-loss", "frame-loss"),
        nodes_min=4,
        guarded=True,
        storm_s=20.0,
    ),
    "voter-change": Scenario(
        "plans and voters change while the network falls apart", ("island", "host-loss", "crash"), nodes_min=3
    ),
    "join": Scenario("a machine joins", ("join", "crash", "message-loss"), late=1, nodes_min=3),
    "recovery": Scenario("a quorum is lost, operators help", ("voters-lost", "message-loss"), nodes_min=3, faulty=0),
    "liar": Scenario(
        "one of four voters lies to each half",
        ("crash", "message-loss", "duplicates", "reorder"),
        faulty=1,
        liars=1,
        nodes_min=4,
    ),
    "one-of-three-lies": Scenario(
        "a voter lies where none may",
        ("leave", "crash", "pause"),
        faulty=0,
        liars=1,
        nodes_min=3,
        storm_s=25.0,
        beyond=True,
    ),
    "two-of-four-lie": Scenario(
        "two voters lie where one may",
        ("leave", "crash", "pause"),
        faulty=1,
        liars=2,
        nodes_min=5,
        storm_s=25.0,
        beyond=True,
    ),
    "liar-lite": Scenario(
        "brokers forge and replay, peers repeat themselves and mistake the epoch",
        ("forgeries", "repeated-frames", "wrong-epoch", "duplicates"),
    ),
    "scale": Scenario("many nodes: what hearing each other costs", (), crowd=True),
    "mixed": Scenario("everything at once", tuple(FAULTS), drift=DRIFT, bare_nodes=1),
}
"""Every scenario by its name."""

ALL: Final = "all"
"""In place of a name: every scenario; what happens in those beyond the fault model is counted apart."""

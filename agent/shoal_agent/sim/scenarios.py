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
    crowd: bool = False
    """Nothing goes wrong and nothing is judged on the way: only counted (``scale``)."""


DRIFT: Final = 0.2

SCENARIOS: Final[dict[str, Scenario]] = {
    "calm": Scenario("nothing goes wrong; one node without light services", (), bare_nodes=1),
    "crowded": Scenario("KV for two or three sessions only", ("clog",), kv_bytes_max=12_000),
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
    "slow": Scenario(
        "disks and processors are slow", ("slow-disk", "slow-host")
    ),
    "drift": Scenario("clocks run 20 % fast or slow", ("crash", "pause", "frame-loss"), drift=DRIFT),
    "amnesia": Scenario("nodes come back without anything they had persisted", ("amnesia", "crash")),
    "liar-lite": Scenario(
        "brokers forge and replay, peers repeat themselves and mistake the epoch",
        ("forgeries", "repeated-frames", "wrong-epoch", "duplicates"),
    ),
    "scale": Scenario("many nodes: what hearing each other costs", (), crowd=True),
    "mixed": Scenario("everything at once", tuple(FAULTS), drift=DRIFT, bare_nodes=1),
}
"""Every scenario by its name."""

ALL: Final = "all"
"""In place of a name: every scenario."""

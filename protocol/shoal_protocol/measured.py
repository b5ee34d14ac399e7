"""What a node measures that others plan with, as its record tells it: its links, and what its clients ask for.

Both are its owner's word. They are rounded before anybody plans with them, and bounded here: what a liar claims makes a
plan worse, never impossible.
"""

from dataclasses import dataclass

from shoal_protocol.ids import DeploymentId, NodeId


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """The link to ``peer`` as its owner measured it, best of the last pings; ``relayed``: sealed, through brokers.

    ``bytes_per_s``: how fast large frames of ``peer`` come in; 0: not known.
    """

    peer: NodeId
    rtt_us: int
    relayed: bool = False
    bytes_per_s: int = 0


@dataclass(frozen=True, slots=True)
class DemandMeasured:
    """What the owner's own clients ask of ``deployment``: tokens brought and tokens answered in a thousand seconds."""

    deployment: DeploymentId
    prompt_tokens_per_ks: int
    answer_tokens_per_ks: int

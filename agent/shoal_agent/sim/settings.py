"""What a world and its machines are made of, and who belongs to it."""

from dataclasses import dataclass
from typing import Final

from shoal_agent.core.gate import Opener
from shoal_agent.core.voice import CoreConfig
from shoal_agent.sim.seeds import seed_bytes
from shoal_protocol.ids import ClusterId, DeploymentId, node_id_of
from shoal_protocol.roster import Member, Role, Roster, TrustedRoster, sign_roster
from shoal_protocol.sealing import Ed25519Sealer, Sealer

WALL_MS: Final = 1_700_000_000_000
"""Unix time at which every world begins."""
CLUSTER: Final = ClusterId("5c" * 16)
TOY: Final = DeploymentId("toy")
HOME: Final = "home"
"""The trust zone in which blocks may be hosted."""
AWAY: Final = "away"
MEMORY_BYTES: Final = 10**9
"""What a machine offers: room for whatever it may be asked to hold."""
GUARDED: Final = 1
"""So many blocks at either end stay at home, where the ends of the model are guarded."""
HOMES: Final = 2
"""So many machines are at home then: one that holds both ends, and one that can take its place."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a world is made of."""

    seed: int
    nodes: int
    hosts: int
    brokers: int = 2
    blocks: int = 8
    context_tokens: int = 512
    drift: float = 0.0
    """Clocks run at 1 +- this."""
    kv_bytes_max: int = 10**9
    bare_nodes: int = 0
    """So many of the last nodes run no light service."""
    faulty: int = 0
    """So many voters may lie; the terms of the deployment say so."""
    liars: int = 0
    """So many nodes do lie."""
    outsiders: int = 0
    """So many of the nodes that host nothing at first are in a zone in which nothing may be hosted."""
    late: int = 0
    """So many of the last nodes are switched on when somebody does so."""
    guarded: bool = False
    """The ends of the model may be at home only, where two machines are too small for all of it; all else anywhere."""
    bundle_s: float = 0.0
    """Nodes read their brokers' sockets this often; 0: whenever something comes."""
    check_every: int = 1
    """The invariants of a node are checked after so many of its events."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What stays the same over all lives of a machine."""

    config: CoreConfig
    sealer: Sealer
    rate: float
    """Seconds on this machine's clock per second of true time."""
    origin_s: float
    """What its monotonic clock says when the world begins."""
    skew_ms: int
    """How far its wall clock is off."""
    has_services: bool
    memory_bytes: int
    speed: float
    """Of its device, as a fraction of the machine that measured the package."""
    boasts: bool
    """It says it is a thousand times as fast, and opens no block."""
    opener: Opener
    """How its gate opens envelopes: a world shares what comes out."""
    check_every: int
    """Invariants are checked after so many events."""


def found(settings: Settings, keys: list[Ed25519Sealer], operator: Ed25519Sealer) -> TrustedRoster:
    """The roster of a world, signed by its root."""
    root = Ed25519Sealer(seed_bytes(f"{settings.seed}/root") * 2)
    outside = range(settings.hosts, min(settings.hosts + settings.outsiders, settings.nodes))
    if settings.guarded:
        outside = range(HOMES, settings.nodes)
    agents = tuple(
        Member(
            node_id_of(key.public_key),
            key.public_key,
            (Role.AGENT,),
            AWAY if index in outside else HOME,
            key.public_key,
        )
        for index, key in enumerate(keys)
    )
    orders = Member(node_id_of(operator.public_key), operator.public_key, (Role.OPERATOR,), HOME, b"")
    expires_s = WALL_MS // 1000 + 365 * 24 * 3600
    wire = sign_roster(Roster(CLUSTER, 1, expires_s, (root.public_key,), 1, (*agents, orders)), [root])
    return TrustedRoster.open(wire, (root.public_key,), 1, WALL_MS // 1000)

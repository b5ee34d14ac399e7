"""Where a light service runs.

The rule of this version is the shortest path: here if this node has it, else on a host of the plan (it holds the
package already), else on any present node that says it has it. Among equals a rendezvous hash of (session, node)
decides, so that many sessions spread without anybody counting; no node is special.
"""

import hashlib
from collections.abc import Container, Iterable, Sequence

from shoal_agent.core.membership import Membership
from shoal_protocol.ids import Instant, NodeId, SessionId


def rendezvous(session: SessionId, nodes: Iterable[NodeId]) -> NodeId | None:
    """The node with the highest hash together with ``session``; None if there is none."""
    return max(
        nodes,
        key=lambda node: hashlib.blake2b(session + node.encode("ascii"), digest_size=8).digest(),
        default=None,
    )


def place(
    service: str,
    session: SessionId,
    here: NodeId,
    mine: Sequence[str],
    membership: Membership,
    hosts: Sequence[NodeId],
    now: Instant,
    shunned: Container[NodeId] = (),
) -> NodeId | None:
    """The node that is to run ``service`` for ``session``; None if nobody can, the ``shunned`` left aside."""
    if service in mine:
        return here
    able = [
        peer.node
        for peer in membership.peers()
        if service in peer.state.services and peer.node not in shunned and membership.present(peer.node, now)
    ]
    return rendezvous(session, [node for node in able if node in hosts]) or rendezvous(session, able)

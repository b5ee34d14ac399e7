"""With whom a node has to do: the hosts and voters of the deployments it takes part in.

They are its **circle**: it listens to their shares of the nodes besides its own, and they hear from it directly when no
broker is left. A node takes part in a deployment if it hosts or votes in one of the two newest epochs it knows of it:
the one that serves and the one that is being staged, or was refused by its hosts a moment ago.
"""

from collections.abc import Iterable
from typing import Final

from shoal_agent.core.plan import concerned_by
from shoal_protocol.ids import DeploymentId, NodeId
from shoal_protocol.messages import Plan

EPOCHS: Final = 2
"""The plan in force and the one about to be."""


def circle_of(plans: Iterable[Plan], node: NodeId) -> tuple[NodeId, ...]:
    """The circle of ``node``, itself not included, by id; ``plans`` in the order of their epochs."""
    newest: dict[DeploymentId, list[Plan]] = {}
    for plan in plans:
        newest.setdefault(plan.deployment, []).append(plan)
    circle: dict[NodeId, None] = {}
    for epochs in newest.values():
        for plan in epochs[-EPOCHS:]:
            members = concerned_by(plan)
            if node in members:
                circle |= dict.fromkeys(members)
    circle.pop(node, None)
    return tuple(sorted(circle))

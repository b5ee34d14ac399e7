"""What others may see of a node: the API, the metrics, the data plane's address book.

Every answer is made from a fresh snapshot at the moment of asking, so nothing here can be out of date and nothing
needs to be kept in step.
"""

import asyncio
from typing import Any

from shoal_agent.core.node import Node
from shoal_agent.core.planner import split_model
from shoal_agent.core.view import DeploymentView, NodeView
from shoal_agent.shell.api.ports import Readiness, ServedModel
from shoal_agent.shell.clock import Clock, unix_s
from shoal_agent.shell.engine import Engine
from shoal_agent.shell.explanation import explanation_json
from shoal_agent.shell.metrics import Readings
from shoal_agent.shell.state import state_json
from shoal_agent.shell.tensors import Tensors
from shoal_protocol.ids import ClusterId, DeploymentId, Epoch, NodeId
from shoal_protocol.messages import Endpoint


class Window:
    """Looks in from outside."""

    def __init__(self, node: Node, clock: Clock, cluster: ClusterId, engine: Engine, tensors: Tensors) -> None:
        self._node = node
        self._clock = clock
        self._cluster = cluster
        self._engine = engine
        self._tensors = tensors
        self._explaining = asyncio.Semaphore(1)
        """The planner takes a whole core; one who asks at a time is enough."""
        self._first_seen: dict[DeploymentId, int] = {}

    def view(self) -> NodeView:
        """What the node believes now."""
        return self._node.snapshot(self._clock.now())

    def readings(self) -> Readings:
        """The gauges. KV is what exists, not what is promised: a terminated run's counts until it has ended."""
        view = self.view()
        return Readings(
            kv_bytes=self._engine.kv_bytes,
            sessions=view.sessions,
            shadows=view.shadows,
            tensors=len(self._tensors),
            requests=view.requests,
            nodes=sum(peer.present for peer in view.nodes),
            relays=sum(peer.relayed for peer in view.nodes),
            brokers=dict(view.brokers),
            ready=self._readiness(view).ready,
            tasks=len(asyncio.all_tasks()),
            budgets=dict(view.budgets),
            watts=view.watts,
            promises=dict(view.promises),
            losses=dict(view.losses),
            loads=view.loads,
            calls_away=view.calls_away,
        )

    def models(self) -> tuple[ServedModel, ...]:
        """The newest epoch of every deployment this node knows of; the serving one if there is one."""
        best: dict[DeploymentId, DeploymentView] = {}
        for each in self.view().deployments:
            known = best.get(each.deployment)
            if known is None or (each.serving, each.epoch) > (known.serving, known.epoch):
                best[each.deployment] = each
        return tuple(
            ServedModel(
                each.deployment,
                each.model,
                each.epoch,
                each.context_tokens_max,
                self._first_seen.setdefault(each.deployment, unix_s()),
            )
            for each in best.values()
        )

    def ready(self) -> Readiness:
        """Whether a request would be served now."""
        return self._readiness(self.view())

    @staticmethod
    def _readiness(view: NodeView) -> Readiness:
        reasons = []
        if not any(up for _, up in view.brokers):
            reasons.append("no broker is connected")
        if not view.deployments:
            reasons.append("no deployment is known")
        elif not any(each.serving for each in view.deployments):
            reasons.append("no deployment has all its stages ready")
        # A node that lost its brokers still serves: the data plane does not need them.
        return Readiness(any(each.serving for each in view.deployments), tuple(reasons))

    def state(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return state_json(self.view(), self._cluster)

    async def explain(self, deployment: DeploymentId | None, epoch: Epoch | None) -> dict[str, Any] | None:
        """Why a plan is as it is, as JSON; None if there is no such plan. The planner works beside the loop."""
        told = self._node.explain(deployment, epoch, self._clock.now())
        if told is None:
            return None
        async with self._explaining:
            best = None if told.problem is None else await asyncio.to_thread(split_model, told.problem)
        return explanation_json(told, best, self._clock.now())

    def resolve(self, node: NodeId) -> Endpoint | None:
        """Where ``node`` says its data plane listens."""
        return next((peer.state.data for peer in self.view().nodes if peer.node == node), None)

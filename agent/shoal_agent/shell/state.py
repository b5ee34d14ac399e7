"""The node's view as JSON: what `GET /shoal/v1/state` answers and `shoal status` shows.

Plain dictionaries of strings and numbers; digests and ids as text, times in seconds. Keys are only ever added.
"""

from typing import Any

from shoal_agent.core.view import DeploymentView, NodeView, PeerView
from shoal_protocol.ids import ClusterId
from shoal_protocol.messages import DeploymentPhase

Json = dict[str, Any]

_OPEN = (DeploymentPhase.READY, DeploymentPhase.ACTIVE)


def state_json(view: NodeView, cluster: ClusterId) -> Json:
    """``view`` as JSON."""
    return {
        "node": view.node,
        "cluster": cluster,
        "incarnation": view.incarnation,
        "brokers": [{"broker": broker, "up": up} for broker, up in view.brokers],
        "deployments": [_deployment(deployment) for deployment in view.deployments],
        "nodes": [_node(peer) for peer in view.nodes],
        "rejected": dict(view.rejected),
        "requests": view.requests,
        "sessions": view.sessions,
        "shadows": view.shadows,
        "kv_bytes": view.kv_bytes,
    }


def _deployment(deployment: DeploymentView) -> Json:
    phase = "SERVING" if deployment.serving else "WAITING"
    return {
        "deployment": deployment.deployment,
        "epoch": deployment.epoch,
        "plan": deployment.plan.hex(),
        "model": deployment.model.hex(),
        "context_tokens_max": deployment.context_tokens_max,
        "phase": phase,
        "route": None if deployment.route is None else list(deployment.route),
        "stages": [
            {
                "node": view.stage.node,
                "first_block": view.stage.first_block,
                "last_block": view.stage.last_block,
                "width": view.stage.width.name.lower(),
                "ready": view.phase in _OPEN,
                "phase": view.phase.name if view.phase is not None else None,
                "detail": view.detail,
                "standbys": [{"node": each.node, "open": each.open, "detail": each.detail} for each in view.standbys],
            }
            for view in deployment.stages
        ],
    }


def _node(peer: PeerView) -> Json:
    state = peer.state
    temperature = state.load.temperature_millicelsius
    return {
        "node": peer.node,
        "incarnation": peer.incarnation,
        "version": state.version,
        "phase": state.phase.name,
        "alive": peer.present,
        "silent_s": round(peer.silent_s, 3),
        "link": {"rtt_ms": None if peer.rtt_us is None else peer.rtt_us / 1000, "relayed": peer.relayed},
        "api": state.api,
        "data": {"host": state.data.host, "port": state.data.port},
        "capacity": {
            "cores": state.capacity.cores,
            "memory_bytes": state.capacity.memory_bytes,
            "memory_total_bytes": state.capacity.memory_total_bytes,
            "disk_free_bytes": state.capacity.disk_free_bytes,
            "speed_macs_per_s": state.capacity.speed_macs_per_s,
            "providers": list(state.capacity.providers),
        },
        "load": {
            "cpu": state.load.cpu_permille / 1000,
            "foreign": state.load.foreign_permille / 1000,
            "memory_available_bytes": state.load.memory_available_bytes,
            "temperature_celsius": None if temperature is None else temperature / 1000,
            "sessions": state.load.session_count,
            "kv_bytes": state.load.kv_bytes,
            "moved_owed_s": state.load.moved_owed_s,
        },
        "hosted": [
            {
                "deployment": held.deployment,
                "epoch": held.epoch,
                "first_block": held.first_block,
                "last_block": held.last_block,
            }
            for held in state.hosted
        ],
        "demands": [
            {
                "deployment": asked.deployment,
                "prompt_tokens_per_s": asked.prompt_tokens_per_ks / 1000,
                "answer_tokens_per_s": asked.answer_tokens_per_ks / 1000,
            }
            for asked in state.demands
        ],
        "locked": state.locked,
        "pace": state.stage_permille / 1000,
        "services": list(state.services),
        "software": state.software,
    }

"""What the API needs of the node behind it, and nothing more."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from shoal_agent.core.pipeline import Pipeline
from shoal_agent.core.service_classes import RequestClass
from shoal_agent.shell.api.auth import ApiKeys
from shoal_agent.shell.metrics import Metrics
from shoal_agent.shell.ports import Ingress
from shoal_protocol.ids import DeploymentId, Digest, Epoch


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One deployment that this node knows a plan of, as ``/v1/models`` lists it."""

    id: DeploymentId
    model: Digest
    epoch: Epoch
    context_tokens_max: int
    created_s: int
    """When this node first heard of it, Unix time."""

    @property
    def fingerprint(self) -> str:
        """Answers with equal fingerprints came from the same weights, split the same way."""
        return f"fp_{self.model[:4].hex()}_{self.epoch}"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests can be served now; if not, why."""

    ready: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ApiPorts:
    """The node, as its API sees it. All callables but ``explain`` return at once."""

    ingress: Ingress
    models: Callable[[], tuple[ServedModel, ...]]
    ready: Callable[[], Readiness]
    state: Callable[[], dict[str, Any]]
    explain: Callable[[DeploymentId | None, Epoch | None], Awaitable[dict[str, Any] | None]]
    """Why a plan is as it is: of a deployment (None: the only one) and an epoch (None: the newest)."""
    metrics: Metrics
    keys: ApiKeys
    classes: tuple[RequestClass, ...] = ()
    """Kinds of requests that clients may name."""
    pipelines: tuple[Pipeline, ...] = ()

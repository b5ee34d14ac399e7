"""Health, metrics and state: for probes, for Prometheus, for ``shoal status``.

The two probes need no key (an orchestrator has none) and say no more than whether, and why not. Metrics and state tell
who is in the cluster and what it does, so they need one.
"""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shoal_agent.shell.api.auth import authorized
from shoal_agent.shell.api.errors import invalid, unknown_plan
from shoal_agent.shell.api.ports import ApiPorts
from shoal_agent.shell.metrics import CONTENT_TYPE
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.ids import Epoch, parse_deployment_id
from shoal_protocol.limits import INTEGER_MAX


class Admin:
    """The endpoints."""

    def __init__(self, ports: ApiPorts) -> None:
        self._ports = ports

    def routes(self) -> list[Route]:
        """Every path of them."""
        return [
            Route("/healthz", self.live, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/shoal/v1/state", self.state, methods=["GET"]),
            Route("/shoal/v1/explain", self.explain, methods=["GET"]),
        ]

    async def live(self, _request: Request) -> Response:
        """The loop turns: whoever reads this was answered by it."""
        return JSONResponse({"live": True})

    async def ready(self, _request: Request) -> Response:
        """Whether a request would be served now; 503 and the reasons if not."""
        now = self._ports.ready()
        return JSONResponse({"ready": now.ready, "reasons": list(now.reasons)}, 200 if now.ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Everything measured, as Prometheus reads it."""
        authorized(request, self._ports.keys)
        return Response(self._ports.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def state(self, request: Request) -> Response:
        """What this node believes about the cluster."""
        authorized(request, self._ports.keys)
        return JSONResponse(self._ports.state())

    async def explain(self, request: Request) -> Response:
        """Why a plan is as it is: ``deployment`` may be left out where there is one, ``epoch`` means the newest."""
        authorized(request, self._ports.keys)
        deployment, epoch = request.query_params.get("deployment"), request.query_params.get("epoch")
        if epoch is not None and not (epoch.isascii() and epoch.isdigit() and int(epoch) <= INTEGER_MAX):
            raise invalid("epoch", f"{epoch[:40]!r} is no epoch")
        try:
            name = None if deployment is None else parse_deployment_id(deployment)
        except MalformedMessage as fault:
            raise invalid("deployment", str(fault)) from fault
        told = await self._ports.explain(name, None if epoch is None else Epoch(int(epoch)))
        if told is None:
            raise unknown_plan(
                f"no plan for {deployment or 'one deployment'}, {epoch or 'newest'} epoch, is known here"
            )
        return JSONResponse(told)

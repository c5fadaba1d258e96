"""/healthz, /readyz and /metrics, for the operator. They reveal nothing about tenants."""

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from services.api.dependencies import AppStateDep
from services.api.jobs.schemas import example
from services.api.openapi import plain_problems, raw
from services.metrics import PrometheusMetrics

router = APIRouter(tags=["operation"])
metrics_router = APIRouter(tags=["operation"])
"""The route that is left out where /metrics has a port of its own."""


class Health(BaseModel):
    """The process, or the service, is well."""

    model_config = example({"status": "ok"})

    status: str = "ok"


@router.get("/healthz", summary="Check that the process is alive")
async def healthz() -> Health:
    """Answer without the store: a restart of the process would not repair the store."""
    return Health()


@router.get("/readyz", summary="Check that requests can be served", responses=plain_problems(503))
async def readyz(state: AppStateDep) -> Health:
    """Check that the store answers."""
    await state.readiness.check()
    return Health()


@metrics_router.get(
    "/metrics",
    summary="Get the metrics for Prometheus",
    response_class=Response,
    responses={200: raw("text/plain", "The metrics in Prometheus' text format.", binary=False)},
)
async def metrics(state: AppStateDep) -> Response:
    """Return all metrics; `docs/how-to/operations.md` explains each of them."""
    if not isinstance(state.metrics, PrometheusMetrics):
        return Response(b"", media_type="text/plain")  # Another exporter has the metrics, or none.
    body, media_type = state.metrics.exposition()
    return Response(body, headers={"Content-Type": media_type})

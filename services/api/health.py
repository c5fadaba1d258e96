"""/healthz, /readyz and /metrics: for whoever runs the service. They show nothing of tenants."""

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel

from services.api.dependencies import AppStateDep
from services.api.jobs.schemas import example
from services.api.openapi import plain_problems, raw
from services.metrics import PrometheusMetrics

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """It is well."""

    model_config = example({"status": "ok"})

    status: str = "ok"


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> Health:
    """It says nothing of the store: to start the process anew would not mend that."""
    return Health()


@router.get("/readyz", summary="Whether requests can be served", responses=plain_problems(503))
async def readyz(here: AppStateDep) -> Health:
    """Whether the store answers."""
    await here.readiness.check()
    return Health()


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: raw("text/plain", "In Prometheus' text format.", binary=False)},
)
def metrics(here: AppStateDep) -> Response:
    """`docs/how-to/operations.md` says what each means."""
    if not isinstance(here.metrics, PrometheusMetrics):
        return Response(b"", media_type="text/plain")  # Counted by someone else, or not at all.
    body, media_type = here.metrics.exposition()
    return Response(body, headers={"Content-Type": media_type})

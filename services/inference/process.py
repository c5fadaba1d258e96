"""An engine as an ASGI app of its own, for a process without Ray."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.inference.answering import Desk
from services.inference.engine import Engine
from services.metrics import PrometheusMetrics


def create_app(engine: Engine, secret: str, exporter: PrometheusMetrics | None = None) -> Starlette:
    """Answers at any path that ends in /paint or /healthz, and at /metrics."""
    desk = Desk(engine, secret)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        yield
        await engine.stop()

    async def show_metrics(request: Request) -> Response:
        if exporter is None:
            return Response(status_code=404)
        body, media_type = exporter.exposition()
        return Response(body, media_type=media_type)

    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/metrics", show_metrics),
            Route("/{path:path}", desk.answer, methods=["GET", "POST"]),
        ],
    )

"""The HTTP interface of an engine: a request handler, and an ASGI app to run it without Ray."""

import hmac
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dti_engine.errors import ConfigurationError, DTIError
from services import logs
from services.contracts.generation import GenerateRequest, Rejection
from services.errors import NoEngineError, QueueFullError, UnknownKeyError
from services.inference.engine import Engine, Stream
from services.inference.metrics import count_refusal
from services.metrics import PrometheusMetrics

log = logs.logger(__name__)

MEDIA_TYPE = "application/x-ndjson"
_BODY_BYTES = 2**20
_STATUSES: tuple[tuple[type[DTIError], int], ...] = (
    (UnknownKeyError, 401),
    (QueueFullError, 429),
    (NoEngineError, 503),
)
"""The first that fits; all else is about what was asked: 422."""


class EngineHandler:
    """Answers requests for one engine."""

    def __init__(self, engine: Engine, secret: str) -> None:
        """secret: that the API shows; tenants never reach an engine themselves."""
        self._engine, self._secret = engine, secret

    async def answer(self, request: Request) -> Response:
        """To any request, by the last part of its path."""
        match request.method, request.url.path.rstrip("/").rpartition("/")[2]:
            case "GET", "healthz":
                trouble = self._engine.batcher.trouble()
                return Response(trouble or "ok", 503 if trouble else 200, media_type="text/plain")
            case "POST", "generate":
                try:
                    return await self._generate(request)
                except DTIError as error:
                    count_refusal(error)
                    return _refusal(error)
                except Exception as error:
                    log.exception("request failed")
                    return _refusal(DTIError(type(error).__name__), 500)
            case _:
                return Response("POST generate, or GET healthz", 404, media_type="text/plain")

    async def _generate(self, request: Request) -> Response:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            shown.encode(), self._secret.encode()
        ):
            raise UnknownKeyError(
                "this engine is for the API alone: give DTI_ENGINE_SECRET to both"
            )
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _BODY_BYTES:
                raise ConfigurationError(f"a request of more than {_BODY_BYTES} bytes")
        try:
            wanted = GenerateRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigurationError(f"{place}: {first['msg']}") from error
        with logs.bound(request=request.headers.get("x-request-id", ""), tenant=wanted.tenant):
            stream = await self._engine.begin(wanted)
        return _Telling(stream)


class _Telling(StreamingResponse):
    """The events of a stream, which is closed whatever comes of the answer."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        super().__init__(_lines(stream), media_type=MEDIA_TYPE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


async def _lines(stream: Stream) -> AsyncGenerator[str]:
    async for event in stream.events():
        yield event.model_dump_json() + "\n"


def _refusal(error: DTIError, status: int | None = None) -> Response:
    status = status or next((to for kind, to in _STATUSES if isinstance(error, kind)), 422)
    seconds = error.seconds if isinstance(error, NoEngineError) else None
    refused = Rejection(error=type(error).__name__, detail=str(error), retry_after_s=seconds)
    return JSONResponse(refused.model_dump(mode="json"), status)


def create_app(engine: Engine, secret: str, exporter: PrometheusMetrics | None = None) -> Starlette:
    """Answers at any path that ends in /generate or /healthz, and at /metrics."""
    desk = EngineHandler(engine, secret)

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

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
from services.contracts.generation import GenerateRequest, Rejection, split_secrets
from services.errors import NoEngineError, QueueFullError, UnknownKeyError
from services.inference.engine import Engine, EventStream
from services.inference.metrics import count_rejection
from services.metrics import PrometheusMetrics

log = logs.logger(__name__)

MEDIA_TYPE = "application/x-ndjson"

_MAX_BODY_BYTES = 2**20

_STATUSES: tuple[tuple[type[DTIError], int], ...] = (
    (UnknownKeyError, 401),
    (QueueFullError, 429),
    (NoEngineError, 503),
)
"""The status of a rejection by its class, first match first; any other is 422."""


class EngineHandler:
    """Handles the HTTP requests of one engine, in Ray Serve as well as without it."""

    def __init__(self, engine: Engine, secret: str) -> None:
        """Create a handler.

        Args:
            engine: The engine.
            secret: The secrets of the API and the dispatchers, by commas; any is accepted.
        """
        self._engine = engine
        self._secrets = [each.encode() for each in split_secrets(secret)]

    async def handle(self, request: Request) -> Response:
        """Route a request by the last part of its path, and return the response."""
        match request.method, request.url.path.rstrip("/").rpartition("/")[2]:
            case "GET", "healthz":
                reason = self._engine.scheduler.unhealthy_reason()
                return Response(reason or "ok", 503 if reason else 200, media_type="text/plain")
            case "POST", "generate":
                try:
                    return await self._generate(request)
                except DTIError as error:
                    count_rejection(error)
                    return _rejection(error)
                except Exception as error:
                    # The edge of the process towards its clients, in Ray Serve as well as without
                    # it: they read a Rejection in either.
                    log.exception("request failed")
                    return _rejection(DTIError(type(error).__name__), 500)
            case _:
                return Response("POST generate, or GET healthz", 404, media_type="text/plain")

    async def _generate(self, request: Request) -> Response:
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        # In constant time, so that the time does not tell how many characters were right.
        matches = [hmac.compare_digest(secret.encode(), known) for known in self._secrets]
        if scheme.lower() != "bearer" or not any(matches):
            raise UnknownKeyError(
                "this engine is for the API alone: give DTI_ENGINE_SECRET to both"
            )
        body = b""
        async for chunk in request.stream():
            body += chunk
            # Counted as it arrives: a chunked body announces no length.
            if len(body) > _MAX_BODY_BYTES:
                raise ConfigurationError(f"a request of more than {_MAX_BODY_BYTES} bytes")
        try:
            generate_request = GenerateRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            location = ".".join(map(str, first["loc"]))
            raise ConfigurationError(f"{location}: {first['msg']}") from error
        request_id = request.headers.get("x-request-id", "")
        with logs.bound(request=request_id, tenant=generate_request.tenant):
            stream = await self._engine.generate(generate_request)
        return _EventResponse(stream)


class _EventResponse(StreamingResponse):
    """A response of events, one line of JSON each.

    The stream is closed even if the client disconnects before the first event.
    """

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        super().__init__(_json_lines(stream), media_type=MEDIA_TYPE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._stream.close()


async def _json_lines(stream: EventStream) -> AsyncGenerator[str]:
    async for event in stream.events():
        yield event.model_dump_json() + "\n"


def _rejection(error: DTIError, status: int | None = None) -> Response:
    status = status or next((code for kind, code in _STATUSES if isinstance(error, kind)), 422)
    retry_after_s = error.retry_after_s if isinstance(error, NoEngineError) else None
    rejection = Rejection(
        error=type(error).__name__, detail=str(error), retry_after_s=retry_after_s
    )
    return JSONResponse(rejection.model_dump(mode="json"), status)


def create_app(engine: Engine, secret: str, exporter: PrometheusMetrics | None = None) -> Starlette:
    """Return an app that serves any path ending in /generate or /healthz, and /metrics."""
    handler = EngineHandler(engine, secret)

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
            Route("/{path:path}", handler.handle, methods=["GET", "POST"]),
        ],
    )

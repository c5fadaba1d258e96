"""Assembles the API: state, middleware and routers."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from services.api import audit, browser, health, models, openapi, problems, uploads
from services.api.dependencies import AppState
from services.api.erasures import routes as erasures
from services.api.generation_jobs import routes as generation_jobs
from services.api.generation_jobs.schemas import GenerationJobRequest
from services.api.images import routes as images
from services.api.images.schemas import ImageGenerationRequest
from services.api.images.store import ImageStore, SignedLinks
from services.api.jobs.events import EventBroadcaster
from services.api.jobs.quotas import Quotas
from services.api.middleware.auth import AuthMiddleware
from services.api.middleware.openai_errors import OpenAIErrorMiddleware, OpenAIProblem
from services.api.middleware.proxies import HeadMiddleware, LocationMiddleware, path_prefix
from services.api.middleware.request_log import RequestLogMiddleware
from services.api.readiness import Readiness, StoreGateMiddleware
from services.api.server import FramingMiddleware
from services.api.shares import api_shares
from services.api.tokens import routes as tokens
from services.api.training_jobs import routes as training_jobs
from services.api.training_jobs.schemas import TrainingJobRequest
from services.auth.authenticator import Authenticator
from services.auth.rate_limit import RateLimiter
from services.contracts.models import ServedModels
from services.engine_client import EngineClient
from services.ledger.ledger import Ledger
from services.ledger.workers import ProgressReader
from services.metrics import Metrics, current
from services.settings import ApiSettings
from services.storage.gate import StoreGate

ROUTERS = (
    uploads.router,
    training_jobs.router,
    generation_jobs.router,
    generation_jobs.links,
    tokens.router,
    images.router,
    images.links,
    models.router,
    audit.router,
    browser.router,
    erasures.router,
    health.router,
    health.metrics_router,
)


def create_app(
    ledger: Ledger,
    served_models: ServedModels,
    *,
    metrics: Metrics | None = None,
    settings: ApiSettings | None = None,
    engine_secret: str = "",
    gate: StoreGate | None = None,
    serves_metrics: bool = True,
) -> FastAPI:
    """Create the ASGI app of one process. Any number of processes may share a store.

    Args:
        ledger: The jobs, on the shared store.
        served_models: The models that the service offers; the first one is the default.
        metrics: Where to count; None for the metrics of the process.
        settings: Limits and timeouts; None for the defaults.
        engine_secret: The secret that the engines accept.
        gate: The gate of the ledger's store; None for one that is never shut.
        serves_metrics: Whether /metrics is among the routes.
    """
    settings = settings or ApiSettings()
    state = _app_state(
        ledger, served_models, metrics or current(), settings, engine_secret, gate or StoreGate()
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await state.events.stop()
        await state.engines.close()

    app = FastAPI(
        lifespan=lifespan,
        middleware=_middleware(state),
        generate_unique_id_function=lambda route: route.name,
        docs_url=None,  # `services.api.browser` serves it.
        redoc_url=None,
    )
    app.state.service = state
    for router in ROUTERS:
        if serves_metrics or router is not health.metrics_router:
            app.include_router(router)
    problems.install(app)
    openapi.install(
        app,
        TrainingJobRequest,
        GenerationJobRequest,
        ImageGenerationRequest,
        uploads.UploadsRequest,
        erasures.ErasureRequest,
        responses=[OpenAIProblem],
        path_prefix=path_prefix(settings.public_url),
    )
    return app


def _app_state(
    ledger: Ledger,
    served_models: ServedModels,
    metrics: Metrics,
    settings: ApiSettings,
    engine_secret: str,
    gate: StoreGate,
) -> AppState:
    progress = ProgressReader(ledger, settings.event_poll_interval_s)
    shares = api_shares(settings)
    return AppState(
        ledger=ledger,
        models=served_models,
        settings=settings,
        metrics=metrics,
        # Many requests may wait for one read of a key, so it has the short timeout of leases.
        authenticator=Authenticator(ledger.lease_store),
        rate_limiter=RateLimiter(),
        quotas=Quotas(ledger, settings.quota_cache_ttl_s),
        progress=progress,
        events=EventBroadcaster(ledger, progress, served_models, settings, shares.event_streams),
        readiness=Readiness(ledger.store, settings.store_timeout_s, gate),
        gate=gate,
        engines=EngineClient(
            settings.engines_url,
            engine_secret,
            settings.engine_timeout_s,
            shares=shares.image_requests,
            deliveries=shares.deliveries,
        ),
        images=ImageStore(ledger, SignedLinks(ledger.store), settings.image_link_ttl_s),
        shares=shares,
    )


def _middleware(state: AppState) -> list[Middleware]:
    """Return the middleware, the outermost first: it also converts errors of those inside it."""
    return [
        Middleware(browser.SecurityHeadersMiddleware),
        Middleware(LocationMiddleware, prefix=path_prefix(state.settings.public_url)),
        Middleware(HeadMiddleware),
        Middleware(OpenAIErrorMiddleware),
        Middleware(RequestLogMiddleware, metrics=state.metrics),
        Middleware(FramingMiddleware),
        Middleware(StoreGateMiddleware, gate=state.gate),
        Middleware(
            AuthMiddleware,
            authenticator=state.authenticator,
            rate_limiter=state.rate_limiter,
            shares=state.shares,
            metrics=state.metrics,
            settings=state.settings,
        ),
    ]

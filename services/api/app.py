"""The app, put together."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI
from starlette.middleware import Middleware

from services import metrics as figures
from services.api import audit, health, models, problems
from services.api import openapi as documentation
from services.api import uploads as uploading
from services.api.dependencies import AppState
from services.api.generation_jobs import routes as generation_jobs
from services.api.generation_jobs.schemas import GenerationJobRequest
from services.api.images import routes as images
from services.api.images import stored_routes as stored_images
from services.api.images.schemas import ImageGenerationRequest
from services.api.images.store import ImageStore, Links
from services.api.jobs.events import EventBroadcaster
from services.api.jobs.quotas import Quotas
from services.api.jobs.schemas import Progress
from services.api.middleware.auth import AuthMiddleware
from services.api.middleware.openai_errors import OpenAIErrorMiddleware, OpenAIProblem
from services.api.middleware.request_log import RequestLogMiddleware
from services.api.readiness import Readiness
from services.api.tokens import routes as tokens
from services.api.training_jobs import routes as training_jobs
from services.api.training_jobs.schemas import TrainingJobRequest
from services.auth.authenticator import Authenticator
from services.auth.rate_limit import RateLimiter
from services.contracts.models import ServedModels
from services.engine_client import EngineClient
from services.ledger.ledger import Ledger
from services.metrics import Metrics
from services.settings import ApiSettings

_ROUTERS = (
    uploading.router,
    training_jobs.router,
    generation_jobs.router,
    generation_jobs.links,
    tokens.router,
    images.router,
    stored_images.router,
    stored_images.links,
    models.router,
    audit.router,
    health.router,
)


def create_app(
    ledger: Ledger,
    served_models: ServedModels,
    *,
    metrics: Metrics | None = None,
    settings: ApiSettings | None = None,
    engine_secret: str = "",
) -> FastAPI:
    """An ASGI app over a ledger. Any number of processes may each have one over the same store.

    metrics: None: what this process counts with. engine_secret: what engines let in.
    """
    settings = settings or ApiSettings()
    progress = Progress(ledger, settings.event_poll_interval_s)
    service = AppState(
        ledger=ledger,
        models=served_models,
        settings=settings,
        metrics=metrics or figures.current(),
        # Many requests may wait for one read of a key: it gives up early.
        keyring=Authenticator(ledger.lease_store),
        rates=RateLimiter(),
        quotas=Quotas(ledger, settings.quota_cache_ttl_s),
        progress=progress,
        streams=EventBroadcaster(ledger, progress, served_models, settings),
        readiness=Readiness(ledger.store, settings.store_timeout_s),
        engines=EngineClient(settings.engines_url, engine_secret, settings.engine_timeout_s),
        gallery=ImageStore(ledger, Links(ledger.store), settings.image_link_ttl_s),
        slots=anyio.Semaphore(settings.max_concurrent_uploads),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await service.streams.stop()
        await service.engines.close()

    app = FastAPI(
        lifespan=lifespan,
        middleware=[
            Middleware(OpenAIErrorMiddleware),
            Middleware(RequestLogMiddleware, metrics=service.metrics),
            Middleware(
                AuthMiddleware,
                keyring=service.keyring,
                rates=service.rates,
                metrics=service.metrics,
                settings=settings,
            ),
        ],
        generate_unique_id_function=lambda route: route.name,
        redoc_url=None,
    )
    app.state.service = service
    for router in _ROUTERS:
        app.include_router(router)
    problems.install(app)
    documentation.install(
        app,
        TrainingJobRequest,
        GenerationJobRequest,
        ImageGenerationRequest,
        answers=[OpenAIProblem],
    )
    return app

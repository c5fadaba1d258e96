"""The app, put together."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI
from starlette.middleware import Middleware

from services import metrics as figures
from services.api import (
    audit,
    backbones,
    documentation,
    generation_jobs,
    health,
    images,
    models,
    pictures,
    problems,
    tokens,
    training_jobs,
    uploading,
)
from services.api.doorway import Doorway
from services.api.gallery import Gallery
from services.api.gate import Gate
from services.api.generation_orders import PictureJobOrder
from services.api.image_orders import ImageOrder
from services.api.links import Links
from services.api.openai_errors import OpenAIErrors, OpenAIProblem
from services.api.orders import JobOrder
from services.api.progress import Progress
from services.api.quotas import Quotas
from services.api.readiness import Readiness
from services.api.service import Service
from services.api.settings import ApiSettings
from services.api.streams import Streams
from services.engines import Engines
from services.ledger.ledger import Ledger
from services.metrics import Metrics
from services.offers import Offers
from services.tenancy.keyring import Keyring
from services.tenancy.rates import Rates

_ROUTERS = (
    uploading.router,
    training_jobs.router,
    generation_jobs.router,
    generation_jobs.links,
    tokens.router,
    images.router,
    pictures.router,
    pictures.links,
    backbones.router,
    models.router,
    audit.router,
    health.router,
)


def create_app(
    ledger: Ledger,
    offers: Offers,
    *,
    metrics: Metrics | None = None,
    settings: ApiSettings | None = None,
    engine_secret: str = "",
) -> FastAPI:
    """An ASGI app over a ledger. Any number of processes may each have one over the same store.

    metrics: None: what this process counts with. engine_secret: what engines let in.
    """
    settings = settings or ApiSettings()
    progress = Progress(ledger, settings.poll)
    service = Service(
        ledger=ledger,
        offers=offers,
        settings=settings,
        metrics=metrics or figures.current(),
        # Many requests may wait for one read of a key: it gives up early.
        keyring=Keyring(ledger.leases),
        rates=Rates(),
        quotas=Quotas(ledger, settings.counted),
        progress=progress,
        streams=Streams(ledger, progress, offers, settings),
        readiness=Readiness(ledger.store, settings.store_patience),
        engines=Engines(settings.engines, engine_secret, settings.engine_patience),
        gallery=Gallery(ledger, Links(ledger.store), settings.link_seconds),
        slots=anyio.Semaphore(settings.uploads_at_once),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        yield
        await service.streams.stop()
        await service.engines.close()

    app = FastAPI(
        lifespan=lifespan,
        middleware=[
            Middleware(OpenAIErrors),
            Middleware(Doorway, metrics=service.metrics),
            Middleware(
                Gate,
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
    documentation.install(app, JobOrder, PictureJobOrder, ImageOrder, answers=[OpenAIProblem])
    return app

"""What one process of the API has, and how a route comes by it."""

from dataclasses import dataclass
from typing import Annotated

import anyio
from fastapi import Depends, Request

from services.api.gallery import Gallery
from services.api.progress import Progress
from services.api.quotas import Quotas
from services.api.readiness import Readiness
from services.api.settings import ApiSettings
from services.api.streams import Streams
from services.engines import Engines
from services.ledger.ledger import Ledger
from services.metrics import Metrics
from services.offers import Offers
from services.tenancy.keyring import Keyring
from services.tenancy.rates import Rates


@dataclass(frozen=True)
class Service:
    """Shared by all requests. None of it keeps what tenants have made."""

    ledger: Ledger
    offers: Offers
    settings: ApiSettings
    metrics: Metrics
    keyring: Keyring
    rates: Rates
    quotas: Quotas
    progress: Progress
    streams: Streams
    readiness: Readiness
    engines: Engines
    gallery: Gallery
    slots: anyio.Semaphore
    """For uploads: each is in memory as a whole."""


def _service(request: Request) -> Service:
    return request.app.state.service


Here = Annotated[Service, Depends(_service)]

"""Who asks: the gate has found out; and that a request says nothing that nobody would hear.

What one process of the API has, and how a route comes by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import anyio
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer

from services.api.images.store import ImageStore
from services.api.jobs.events import EventBroadcaster
from services.api.jobs.quotas import Quotas
from services.api.jobs.schemas import Progress
from services.api.readiness import Readiness
from services.auth.authenticator import Authenticator, Principal
from services.auth.rate_limit import RateLimiter
from services.contracts.models import ServedModels
from services.engine_client import EngineClient
from services.ledger.ledger import Ledger
from services.metrics import Metrics
from services.settings import ApiSettings


@dataclass(frozen=True)
class AppState:
    """Shared by all requests. None of it keeps what tenants have made."""

    ledger: Ledger
    models: ServedModels
    settings: ApiSettings
    metrics: Metrics
    keyring: Authenticator
    rates: RateLimiter
    quotas: Quotas
    progress: Progress
    streams: EventBroadcaster
    readiness: Readiness
    engines: EngineClient
    gallery: ImageStore
    slots: anyio.Semaphore
    """For uploads: each is in memory as a whole."""


def _service(request: Request) -> AppState:
    return request.app.state.service


AppStateDep = Annotated[AppState, Depends(_service)]


_BEARER = HTTPBearer(
    scheme_name="key",
    bearerFormat="dti_ID_SECRET",
    description="A tenant's key, as `dti keys create` has printed it. It says whose everything is.",
    auto_error=False,
)
"""For the documentation; the gate does it."""


def _caller(request: Request) -> Principal:
    return request.state.caller


CurrentPrincipal = Annotated[Principal, Depends(_caller)]
"""The tenant of a request comes from here, and from nowhere else."""


def strict(request: Request) -> None:
    """Refuse parameters that the documentation does not have, and those that are given twice."""
    operations = _documented(request.app).get(request.scope["route"].path, {})
    known = operations.get(request.method.lower(), frozenset())
    names = [name for name, _ in request.query_params.multi_items()]
    wrong = {
        name: f"is unknown; known are {', '.join(sorted(known))}" if known else "is unknown"
        for name in names
        if name not in known
    } | {name: "is given more than once" for name in names if names.count(name) > 1}
    if wrong:
        raise RequestValidationError(
            [
                {"loc": ("query", name[:80]), "msg": reason, "type": "refused"}
                for name, reason in wrong.items()
            ]
        )


GUARDED: list[Any] = [Depends(_BEARER), Depends(strict)]
"""Dependencies of every router under /v1."""


@lru_cache(maxsize=8)
def _documented(app: FastAPI) -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Path -> method -> query parameters."""
    return {
        path: {
            method: frozenset(
                parameter["name"]
                for parameter in operation.get("parameters", ())
                if parameter["in"] == "query"
            )
            for method, operation in operations.items()
        }
        for path, operations in app.openapi()["paths"].items()
    }

"""FastAPI dependencies: the state of the process, the principal, and strict query parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer

from services.api.images.store import ImageStore
from services.api.jobs.events import EventBroadcaster
from services.api.jobs.quotas import Quotas
from services.api.readiness import Readiness
from services.api.shares import ApiShares
from services.auth.authenticator import Authenticator, Principal
from services.auth.rate_limit import RateLimiter
from services.contracts.models import ServedModels
from services.engine_client import EngineClient
from services.ledger.ledger import Ledger
from services.ledger.workers import ProgressReader
from services.metrics import Metrics
from services.settings import ApiSettings
from services.storage.gate import StoreGate


@dataclass(frozen=True)
class AppState:
    """The state that all requests of one process share; it owns none of the tenants' data."""

    ledger: Ledger
    models: ServedModels
    settings: ApiSettings
    metrics: Metrics
    authenticator: Authenticator
    rate_limiter: RateLimiter
    quotas: Quotas
    progress: ProgressReader
    events: EventBroadcaster
    readiness: Readiness
    gate: StoreGate
    engines: EngineClient
    images: ImageStore
    shares: ApiShares


# These dependencies are coroutines although they wait for nothing: FastAPI runs plain functions in
# a pool of threads, and while the store does not answer, waiting requests hold all of them, so that
# not even probes would be answered.


async def _app_state(request: Request) -> AppState:
    return request.app.state.service


AppStateDep = Annotated[AppState, Depends(_app_state)]


async def _principal(request: Request) -> Principal:
    return request.state.principal


CurrentPrincipal = Annotated[Principal, Depends(_principal)]
"""The authenticated caller. The tenant of a request comes from here and from nowhere else."""


async def _raw_body(request: Request) -> bytes:
    return await request.body()


RawBody = Annotated[bytes, Depends(_raw_body)]
"""The body as bytes, for routes that parse it themselves off the event loop."""


_BEARER = HTTPBearer(
    scheme_name="key",
    bearerFormat="dti_ID_SECRET",
    description="A tenant's API key, as `dti keys create` prints it. It determines the tenant.",
    auto_error=False,
)
"""Only documents the scheme; `AuthMiddleware` does the authentication."""


async def reject_unknown_parameters(request: Request) -> None:
    """Refuse query parameters that the OpenAPI document lacks, and repeated ones.

    FastAPI would ignore both, so a misspelled filter would return unfiltered data.

    Raises:
        RequestValidationError: A parameter is unknown or repeated.
    """
    operations = _query_parameters(request.app).get(request.scope["route"].path, {})
    known = operations.get(request.method.lower(), frozenset())
    names = [name for name, _ in request.query_params.multi_items()]
    errors = {
        name: f"is unknown; known are {', '.join(sorted(known))}" if known else "is unknown"
        for name in names
        if name not in known
    } | {name: "is given more than once" for name in names if names.count(name) > 1}
    if errors:
        raise RequestValidationError(
            [
                {"loc": ("query", name[:80]), "msg": reason, "type": "refused"}
                for name, reason in errors.items()
            ]
        )


GUARDED: list[Any] = [Depends(_BEARER), Depends(reject_unknown_parameters)]
"""The dependencies of every router under /v1."""


@lru_cache(maxsize=8)
def _query_parameters(app: FastAPI) -> Mapping[str, Mapping[str, frozenset[str]]]:
    """Return the names of the query parameters by path and method."""
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

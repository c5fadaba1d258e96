"""Who asks: the gate has found out; and that a request says nothing that nobody would hear."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer

from services.tenancy.keyring import Caller

_BEARER = HTTPBearer(
    scheme_name="key",
    bearerFormat="dti_ID_SECRET",
    description="A tenant's key, as `dti keys create` has printed it. It says whose everything is.",
    auto_error=False,
)
"""For the documentation; the gate does it."""


def _caller(request: Request) -> Caller:
    return request.state.caller


Asking = Annotated[Caller, Depends(_caller)]
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

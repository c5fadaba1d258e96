"""The OpenAPI document, and what routes share in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import dti_engine
from services.api.problems import MEDIA_TYPE, Problem

_DESCRIPTION = """Train thousands of subjects, one token each, and generate images of them.

Every path under `/v1` requires an API key, `Authorization: Bearer dti_ID_SECRET`, and shows only
the data of the key's tenant. Errors are `application/problem+json`: `detail` says what was given,
what is allowed and what to do. `429` and `503` come with `Retry-After`, the seconds to wait before
a retry; a retry is always safe. Every response has an `X-Request-Id`, which the log has too.

`docs/reference/api.md` shows the same with `curl`."""

_MEANINGS = {
    400: "The request cannot be parsed, or its Idempotency-Key is missing.",
    401: "The API key is missing or not valid.",
    403: "The scope of the API key does not allow the request.",
    404: "The resource does not exist for this tenant.",
    408: "The body did not arrive in time.",
    409: "The request contradicts an earlier one.",
    410: "The resource was deleted.",
    413: "The body is too large.",
    422: "The request is not valid: `errors` lists what is wrong and where.",
    429: "A limit is exceeded: retry after `Retry-After` seconds.",
    500: "The service failed.",
    503: "The store or the engine is unavailable: retry after `Retry-After` seconds.",
    504: "The result was not ready within the requested time.",
}
_ALWAYS = (401, 403, 413, 422, 429, 500, 503)
_REF = "#/components/schemas/{model}"

_RETRY = {
    "Retry-After": {
        "description": "The number of seconds to wait before a retry.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


def problems(*statuses: int, model: type[Problem] = Problem) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route under /v1: `statuses`, and those of all routes."""
    return {status: _problem(status, model) for status in sorted({*_ALWAYS, *statuses})}


def plain_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route outside /v1."""
    return {status: _problem(status) for status in statuses}


def _problem(status: int, model: type[Problem] = Problem) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": _MEANINGS[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=model.__name__)}}},
    }
    if status in (429, 503):
        response["headers"] = _RETRY
    return response


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that parses its body itself."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def raw(media_type: str, description: str, *, binary: bool = True) -> dict[str, Any]:
    """Return the description of a response that is not JSON."""
    schema: Mapping[str, Any] = {"type": "string"} | ({"format": "binary"} if binary else {})
    return {"description": description, "content": {media_type: {"schema": schema}}}


def install(
    app: FastAPI,
    *requests: type[BaseModel],
    responses: Sequence[type[BaseModel]] = (),
    path_prefix: str = "",
) -> None:
    """Add schemas to the app's OpenAPI document that FastAPI cannot see.

    Args:
        app: The app.
        requests: Models that routes name by `body_of`.
        responses: Models that only `problems` names; `Problem` is always added.
        path_prefix: The path at which a proxy has the app.
    """

    def build_document() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title="DTI",
                version=dti_engine.__version__,
                summary="Directional Textual Inversion as a service",
                description=_DESCRIPTION,
                routes=app.routes,
                servers=[{"url": path_prefix}] if path_prefix else None,
            )
            _, definitions = models_json_schema(
                [
                    *((model, "serialization") for model in (Problem, *responses)),
                    *((model, "validation") for model in requests),
                ],
                ref_template=_REF,
            )
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = build_document

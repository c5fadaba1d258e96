"""What /openapi.json says, and what routes share of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import dti_engine
from services.api.problems import MEDIA_TYPE, Problem

SUMMARY = """Learn thousands of subjects, one token each.

Every path under `/v1` wants a key, `Authorization: Bearer dti_ID_SECRET`, and shows what is its
tenant's and nothing else. Errors are `application/problem+json`: `detail` says what was given, what
is allowed and what to do. `429` and `503` say with `Retry-After` when to ask again; asking again is
always safe. Each answer has an `X-Request-Id`, by which the service's log has more.

The same with `curl`: `docs/reference/api.md`."""

_MEANINGS = {
    400: "The request cannot be read, or lacks its Idempotency-Key.",
    401: "No valid key was shown.",
    404: "There is no such thing, as far as this tenant can see.",
    408: "The body did not come in time.",
    409: "It contradicts what was asked for before.",
    410: "It was deleted, for good.",
    413: "The body is too large.",
    422: "Something in the request is wrong: `errors` says what and where.",
    429: "Too much at a time: ask again after `Retry-After` seconds.",
    500: "The service failed.",
    503: "The store, or what generates, does not answer: ask again after `Retry-After` seconds.",
    504: "The time in which an answer was wanted has passed.",
}
_ALWAYS = (401, 413, 422, 429, 500, 503)
_REF = "#/components/schemas/{model}"

_RETRY = {
    "Retry-After": {
        "description": "Seconds after which to ask again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


def problems(*statuses: int, model: type[Problem] = Problem) -> dict[int | str, dict[str, Any]]:
    """What a route under /v1 may answer besides, with these statuses of its own."""
    return {status: _problem(status, model) for status in sorted({*_ALWAYS, *statuses})}


def plain_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for routes outside."""
    return {status: _problem(status) for status in statuses}


def _problem(status: int, model: type[Problem] = Problem) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": _MEANINGS[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=model.__name__)}}},
    }
    if status in (429, 503):
        answer["headers"] = _RETRY
    return answer


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body itself."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": True, "content": content}}


def raw(media_type: str, description: str, *, binary: bool = True) -> dict[str, Any]:
    """An answer that is no JSON."""
    schema: Mapping[str, Any] = {"type": "string"} | ({"format": "binary"} if binary else {})
    return {"description": description, "content": {media_type: {"schema": schema}}}


def install(
    app: FastAPI, *models: type[BaseModel], answers: Sequence[type[BaseModel]] = ()
) -> None:
    """Let the app's document have `Problem` and these models, which routes name by `body_of`, and
    answers that are named in no route's types.
    """

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title="DTI",
                version=dti_engine.__version__,
                summary="Directional Textual Inversion as a service",
                description=SUMMARY,
                routes=app.routes,
            )
            _, definitions = models_json_schema(
                [
                    *((model, "serialization") for model in (Problem, *answers)),
                    *((model, "validation") for model in models),
                ],
                ref_template=_REF,
            )
            made.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document

"""Errors as `application/problem+json` (RFC 9457): one table maps errors to statuses.

Details of internal errors go to the log only, because messages of the store contain its keys.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from dti_engine.errors import (
    AntipodalError,
    ArtifactMismatchError,
    ConfigurationError,
    DTIError,
    TokenError,
)
from services import logs
from services.errors import (
    ConflictError,
    DamagedUploadError,
    DeadlineExceededError,
    DeletedError,
    InvalidIdError,
    LargeUploadError,
    NoEngineError,
    QueueFullError,
    QuotaError,
    ScopeError,
    ServiceError,
    SettingsError,
    StoreFullError,
    UnavailableError,
    UnknownErasureError,
    UnknownImageError,
    UnknownJobError,
    UnknownKeyError,
    UnknownModelError,
    UnknownUploadError,
    UnsafeImageError,
    UnsafeUrlError,
)

MEDIA_TYPE = "application/problem+json"
_MAX_ERRORS = 100
"""The errors listed in one response: each of ten thousand subjects can have one."""

_STORE_RETRY_S = 2
"""The value of Retry-After while the store does not answer."""

_FULL_STORE_RETRY_S = 60
"""The same while it has no space left, which a person has to free."""

_PUBLIC_ERRORS = (DeadlineExceededError, NoEngineError)
"""Server errors whose messages are written for clients."""

_INTERNAL_DETAIL = "the service failed: report the request id to the operator"

log = logs.logger(__name__)


class FieldError(BaseModel):
    """An error in a request."""

    pointer: str = Field(
        description="Where the error is: `#/subjects/3/id` in the body, `?limit`, or `header NAME`."
    )
    detail: str = Field(description="What is wrong.")


class Problem(BaseModel):
    """An error response: what is wrong, and what to do."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:dti:problem:not-found",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "pets-inc has no job 7zzzzzzzzz0000000000000000",
                    "request": "5f0c0c3b5a1e4f6f9d0a7c6b1e2d3f40",
                }
            ]
        }
    )

    type: str = Field(description="The type of the problem, for programs.")
    title: str = Field(description="The phrase of the status.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was given, what is allowed, and what to do.")
    request: str = Field(description="The X-Request-Id, which the service's log has too.")
    errors: list[FieldError] | None = Field(
        default=None, description="The errors in the request, the first 100 of them."
    )


class ProblemType(NamedTuple):
    """The HTTP form of an error."""

    status: int
    name: str


PROBLEM_TYPES: Mapping[type[DTIError], ProblemType] = {
    UnknownKeyError: ProblemType(401, "unauthorized"),
    ScopeError: ProblemType(403, "forbidden"),
    UnknownJobError: ProblemType(404, "not-found"),
    UnknownUploadError: ProblemType(404, "not-found"),
    UnknownImageError: ProblemType(404, "not-found"),
    UnknownErasureError: ProblemType(404, "not-found"),
    UnknownModelError: ProblemType(404, "model-not-found"),
    InvalidIdError: ProblemType(404, "not-found"),
    DeletedError: ProblemType(410, "deleted"),
    ConflictError: ProblemType(409, "conflict"),
    DamagedUploadError: ProblemType(422, "invalid-request"),
    LargeUploadError: ProblemType(413, "too-large"),
    UnsafeUrlError: ProblemType(422, "invalid-request"),
    ConfigurationError: ProblemType(422, "invalid-request"),
    TokenError: ProblemType(422, "invalid-request"),
    ArtifactMismatchError: ProblemType(422, "invalid-request"),
    AntipodalError: ProblemType(422, "invalid-request"),
    UnsafeImageError: ProblemType(422, "unsafe"),
    QuotaError: ProblemType(429, "limit-exceeded"),
    QueueFullError: ProblemType(429, "limit-exceeded"),
    NoEngineError: ProblemType(503, "no-engine"),
    UnavailableError: ProblemType(503, "unavailable"),
    DeadlineExceededError: ProblemType(504, "timeout"),
    SettingsError: ProblemType(500, "internal"),
    DTIError: ProblemType(500, "internal"),
}
"""An error has the type of its nearest base class in the table."""

_NAMES = {
    400: "invalid-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "timeout",
    409: "conflict",
    410: "deleted",
    413: "too-large",
    422: "invalid-request",
    429: "limit-exceeded",
    503: "unavailable",
}


def problem_type_of(error: DTIError) -> ProblemType:
    """Return the problem type of the error's nearest base class in the table."""
    return next(PROBLEM_TYPES[kind] for kind in type(error).__mro__ if kind in PROBLEM_TYPES)


def invalid_request(place: Sequence[str | int], reason: str) -> RequestValidationError:
    """Return an error at one place, whose first part is body, query, header or path."""
    return RequestValidationError([{"loc": tuple(place), "msg": reason, "type": "refused"}])


def problem_response(
    request_id: str,
    status: int,
    detail: str,
    *,
    name: str | None = None,
    errors: Iterable[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error response; `name` is the problem type, by default that of the status."""
    content = Problem(
        type=f"urn:dti:problem:{name or _NAMES.get(status, 'http')}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request=request_id,
        errors=list(errors) or None,
    )
    body = content.model_dump_json(exclude_none=True)
    return Response(body, status, dict(headers or {}), MEDIA_TYPE)


def error_response(request_id: str, error: DTIError) -> Response:
    """Return the response to an expected error, and log it if it is a server error."""
    status, name = problem_type_of(error)
    headers: dict[str, str] = {}
    detail = str(error)
    if status >= 500:
        log.exception("request failed", error=type(error).__name__, status=status)
        if not isinstance(error, _PUBLIC_ERRORS):
            detail = _INTERNAL_DETAIL
    if isinstance(error, StoreFullError):
        headers["Retry-After"] = str(_FULL_STORE_RETRY_S)
        detail = (
            "the service has no space left to store this, and has stored nothing: retry once the "
            "operator has freed space"
        )
    elif isinstance(error, UnavailableError):
        return unavailable_response(request_id)
    if isinstance(error, QuotaError | NoEngineError):
        # Rounded up: a client that comes back too early is refused once more.
        headers["Retry-After"] = str(max(1, -int(-error.retry_after_s // 1)))
    if isinstance(error, UnknownKeyError):
        headers["WWW-Authenticate"] = "Bearer"
    return problem_response(request_id, status, detail, name=name, headers=headers)


def unavailable_response(request_id: str) -> Response:
    """Return the response while the store does not answer."""
    return problem_response(
        request_id,
        503,
        "the store did not answer in time: retry; nothing is done twice",
        headers={"Retry-After": str(_STORE_RETRY_S)},
    )


def internal_error_response(request_id: str) -> Response:
    """Return the response to an unexpected exception."""
    return problem_response(request_id, 500, _INTERNAL_DETAIL, name="internal")


def install(app: FastAPI) -> None:
    """Install the exception handlers of an app.

    The handlers are coroutines: FastAPI would run functions in a thread, where `log.exception`
    cannot see the exception that is being handled.
    """

    async def on_dti_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, DTIError)
        return error_response(request.state.request_id, error)

    async def on_validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _validation_response(request.state.request_id, error.errors())

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = error.detail
        if detail == HTTPStatus(error.status_code).phrase:
            detail = f"{request.method} {request.url.path[:200]}: {detail}; see /docs"
        return problem_response(
            request.state.request_id, error.status_code, detail, headers=error.headers
        )

    app.add_exception_handler(ServiceError, on_dti_error)
    app.add_exception_handler(DTIError, on_dti_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)


def _validation_response(request_id: str, errors: Sequence[Any]) -> Response:
    shown = [
        FieldError(pointer=_pointer(error["loc"]), detail=_reason(error))
        for error in errors[:_MAX_ERRORS]
    ]
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    more = f", of which the first {_MAX_ERRORS} are listed" if len(errors) > _MAX_ERRORS else ""
    # 400 for malformed JSON, and for a missing header as the Idempotency-Key draft requires.
    is_unreadable = any(
        error["type"] == "json_invalid"
        or (error["type"] == "missing" and error["loc"][0] == "header")
        for error in errors
    )
    return problem_response(
        request_id,
        400 if is_unreadable else 422,
        f"the request has {count}{more}: {shown[0].pointer}: {shown[0].detail}",
        errors=shown,
    )


def _pointer(loc: Sequence[str | int]) -> str:
    """Return the place of an error: a JSON pointer in the body, else the parameter's name."""
    where, *rest = loc or ("body",)
    match where:
        case "query":
            return f"?{'/'.join(map(str, rest))}"
        case "body":
            parts = (str(part).replace("~", "~0").replace("/", "~1") for part in rest)
            return "#" + "".join(f"/{part}" for part in parts)
        case _:
            return f"{where} {'/'.join(map(str, rest))}"


def _reason(error: Mapping[str, Any]) -> str:
    """Return pydantic's message, with the value where the message does not contain it."""
    reason = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input", ...)
    if error["type"] not in ("missing", "refused", "value_error", "extra_forbidden") and (
        isinstance(given, str | int | float | bool | None)
    ):
        reason += f", got {given!r:.80}"
    return reason

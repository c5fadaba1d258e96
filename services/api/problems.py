"""Every error as `application/problem+json` (RFC 9457): one table says which is which.

What has gone wrong inside is told to the log alone: messages of the store name its keys.
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
    DeletedError,
    InvalidIdError,
    LargeUploadError,
    LateError,
    NoEngineError,
    QueueFullError,
    QuotaError,
    ServiceError,
    SettingsError,
    UnavailableError,
    UnknownImageError,
    UnknownJobError,
    UnknownKeyError,
    UnknownModelError,
    UnknownUploadError,
    UnsafeImageError,
    UnsafeUrlError,
)

MEDIA_TYPE = "application/problem+json"
_SHOWN = 100
"""Findings of one answer: ten thousand subjects can each be wrong."""

_RETRY = 2
"""Seconds after which to ask again a store that did not answer."""

_TOLD = (LateError, NoEngineError)
"""Of those that are no client's fault: what they say is for clients."""

log = logs.logger(__name__)


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="where: #/subjects/3/id in the body, or ?limit, or a header")
    detail: str


class Problem(BaseModel):
    """What is wrong, and what to do."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:dti:problem:unknown",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "pets-inc has no job 7zzzzzzzzz0000000000000000",
                    "request": "5f0c0c3b5a1e4f6f9d0a7c6b1e2d3f40",
                }
            ]
        }
    )

    type: str = Field(description="a name for this kind of problem, for programs")
    title: str
    status: int
    detail: str = Field(description="what was given, what is allowed, what to do")
    request: str = Field(description="the X-Request-Id, by which the service's log has more")
    errors: list[FieldError] | None = Field(default=None, description="each thing that is wrong")


class ProblemType(NamedTuple):
    """What an error is to HTTP."""

    status: int
    name: str


KINDS: Mapping[type[DTIError], ProblemType] = {
    UnknownKeyError: ProblemType(401, "unauthorized"),
    UnknownJobError: ProblemType(404, "unknown"),
    UnknownUploadError: ProblemType(404, "unknown"),
    UnknownImageError: ProblemType(404, "unknown"),
    UnknownModelError: ProblemType(404, "unknown-model"),
    InvalidIdError: ProblemType(404, "unknown"),
    DeletedError: ProblemType(410, "deleted"),
    ConflictError: ProblemType(409, "conflict"),
    DamagedUploadError: ProblemType(422, "refused"),
    LargeUploadError: ProblemType(413, "too-large"),
    UnsafeUrlError: ProblemType(422, "refused"),
    ConfigurationError: ProblemType(422, "refused"),
    TokenError: ProblemType(422, "refused"),
    ArtifactMismatchError: ProblemType(422, "refused"),
    AntipodalError: ProblemType(422, "refused"),
    UnsafeImageError: ProblemType(422, "unsafe"),
    QuotaError: ProblemType(429, "quota"),
    QueueFullError: ProblemType(429, "quota"),
    NoEngineError: ProblemType(503, "no-engine"),
    UnavailableError: ProblemType(503, "unavailable"),
    LateError: ProblemType(504, "late"),
    SettingsError: ProblemType(500, "internal"),
    DTIError: ProblemType(500, "internal"),
}
"""The nearest class counts."""

_NAMES = {
    400: "refused",
    401: "unauthorized",
    404: "unknown",
    405: "method",
    408: "late",
    409: "conflict",
    410: "deleted",
    413: "too-large",
    422: "refused",
    429: "quota",
    503: "unavailable",
}


def kind_of(error: DTIError) -> ProblemType:
    return next(KINDS[kind] for kind in type(error).__mro__ if kind in KINDS)


def refusal(place: Sequence[str | int], reason: str) -> RequestValidationError:
    """The request is wrong there; `place` begins with body, query, header or path."""
    return RequestValidationError([{"loc": tuple(place), "msg": reason, "type": "refused"}])


def problem(
    request: str,
    status: int,
    detail: str,
    *,
    name: str | None = None,
    findings: Iterable[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An answer."""
    content = Problem(
        type=f"urn:dti:problem:{name or _NAMES.get(status, 'http')}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request=request,
        errors=list(findings) or None,
    )
    body = content.model_dump_json(exclude_none=True)
    return Response(body, status, dict(headers or {}), MEDIA_TYPE)


def answer(request: str, error: DTIError) -> Response:
    """To an error that was raised on purpose."""
    status, name = kind_of(error)
    headers: dict[str, str] = {}
    detail = str(error)
    if status >= 500:
        log.exception("request failed", error=type(error).__name__, status=status)
        if not isinstance(error, _TOLD):
            detail = "the service failed: tell its operator the request's id"
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(_RETRY)
        detail = "the store did not answer in time: ask again; nothing is done twice"
    if isinstance(error, QuotaError | NoEngineError):
        headers["Retry-After"] = str(max(1, -int(-error.seconds // 1)))
    if isinstance(error, UnknownKeyError):
        headers["WWW-Authenticate"] = "Bearer"
    return problem(request, status, detail, name=name, headers=headers)


def failure(request: str) -> Response:
    """To an error that nobody meant."""
    detail = "the service failed: tell its operator the request's id"
    return problem(request, 500, detail, name="internal")


def install(app: FastAPI) -> None:
    """Let an app answer every error so. The handlers are coroutines, since the log wants the error
    that is being handled, and threads have one of their own.
    """

    async def on_purpose(request: Request, error: Exception) -> Response:
        assert isinstance(error, DTIError)
        return answer(request.state.request, error)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _refused(request.state.request, error.errors())

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = error.detail
        if detail == HTTPStatus(error.status_code).phrase:
            detail = f"{request.method} {request.url.path[:200]}: {detail}; see /docs"
        return problem(request.state.request, error.status_code, detail, headers=error.headers)

    app.add_exception_handler(ServiceError, on_purpose)
    app.add_exception_handler(DTIError, on_purpose)
    app.add_exception_handler(RequestValidationError, refused)
    app.add_exception_handler(HTTPException, of_http)


def _refused(request: str, errors: Sequence[Any]) -> Response:
    findings = [
        FieldError(pointer=_pointer(error["loc"]), detail=_reason(error))
        for error in errors[:_SHOWN]
    ]
    more = f", of which the first {_SHOWN} are listed" if len(errors) > _SHOWN else ""
    things = "one thing" if len(errors) == 1 else f"{len(errors)} things"
    # The Idempotency-Key draft: 400 if it is missing. So is JSON that is none.
    bad = any(
        error["type"] == "json_invalid"
        or (error["type"] == "missing" and error["loc"][0] == "header")
        for error in errors
    )
    return problem(
        request,
        400 if bad else 422,
        f"{things} in the request must be mended{more}: {findings[0].pointer}: "
        f"{findings[0].detail}",
        findings=findings,
    )


def _pointer(loc: Sequence[str | int]) -> str:
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
    reason = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input", ...)
    if error["type"] not in ("missing", "refused", "value_error", "extra_forbidden") and (
        isinstance(given, str | int | float | bool | None)
    ):
        reason += f", got {given!r:.80}"
    return reason

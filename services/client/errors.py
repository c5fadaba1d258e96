"""Errors of the client: one class for each thing that a caller can do about it.

ClientError (ServiceError)
|-- ApiKeyRefusedError              the API key is unknown, revoked, or lacks the permission
|-- RefusedError                    the request is invalid; the message lists everything wrong
|   |-- RequestConflictError        the request contradicts an earlier one
|   `-- UploadRefusedError          the store that the service sends uploads to refuses one
|-- ResourceNotFoundError           there is no such job, item, token or upload
|   `-- GoneError                   there was one, and it was deleted
|-- OverloadedError (FailedError)   a limit is reached, or the service has no room: try later
|-- UnreachableError (FailedError)  no response came
`-- BrokenServerError (FailedError) the response is not one that the service sends
    `-- NoEventStreamError          the response should be a stream of events
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from dti_engine.errors import FailedError
from services.errors import ServiceError

_MAX_LINES = 20  # of one message


class ClientError(ServiceError):
    """The service did not do what was requested."""

    status: int = 0
    title: str = ""
    detail: str = ""
    is_transient: bool = False
    """The same request may succeed later."""
    retry_after_s: float | None = None
    """The pause that the service asks for, if it does."""


class ApiKeyRefusedError(ClientError):
    """The API key is unknown or revoked, or lacks the permission."""


class RefusedError(ClientError):
    """The request is invalid."""


class RequestConflictError(RefusedError):
    """The request contradicts an earlier one."""


class UploadRefusedError(RefusedError):
    """The store that the service sends uploads to refuses one."""


class ResourceNotFoundError(ClientError):
    """There is no such job, item, token or upload."""


class GoneError(ResourceNotFoundError):
    """There was one, and it was deleted for good."""


class OverloadedError(ClientError, FailedError):
    """A limit is reached, or the service has no room now: try later."""


class UnreachableError(ClientError, FailedError):
    """The server sent no response."""

    is_transient = True


class BrokenServerError(ClientError, FailedError):
    """The response is not one that the service sends."""


class NoEventStreamError(BrokenServerError):
    """The response should be a stream of events, and is something else."""


_S3_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")

_KINDS: dict[int, type[ClientError]] = {
    401: ApiKeyRefusedError,
    403: ApiKeyRefusedError,
    404: ResourceNotFoundError,
    409: RequestConflictError,
    410: GoneError,
    429: OverloadedError,
    503: OverloadedError,
}


def problem_error(status: int, body: bytes) -> ClientError:
    """Return the error of a response, whose body should be problem+json (RFC 9457)."""
    try:
        problem: Any = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    title, detail = (str(problem.get(name) or "") for name in ("title", "detail"))
    kind = _KINDS.get(status, BrokenServerError if status >= 500 else RefusedError)
    summary = detail or title or f"the server answered {status} without a reason"
    lines = [summary, *(line for line in _findings(problem.get("errors")) if line not in summary)]
    if status >= 500 and kind is BrokenServerError:
        lines[0] = f"the server failed ({status}): {summary}"
    error = kind("\n  ".join(lines))
    error.status, error.title, error.detail = status, title, detail
    return error


def upload_error(host: str, status: int, body: bytes) -> UploadRefusedError:
    """Return the error of a response of the store of uploads, which sends XML."""
    found = _S3_MESSAGE.search(body.decode("utf-8", "replace"))
    reason = f": {found[1]:.200}" if found else ""
    error = UploadRefusedError(f"the store of uploads, {host}, answered {status}{reason}")
    error.status = status
    return error


def _findings(errors: Any) -> Iterator[str]:
    """Yield a line for each thing that is wrong, with its place in the body."""
    if not isinstance(errors, list):
        return
    for found in errors[:_MAX_LINES]:
        if not isinstance(found, dict):
            yield str(found)
            continue
        place = next((found[name] for name in ("pointer", "field", "loc") if name in found), "")
        if isinstance(place, list):
            place = ".".join(map(str, place))
        reason = next((found[name] for name in ("detail", "msg", "message") if name in found), "")
        yield f"{place}: {reason}" if place else str(reason)
    if len(errors) > _MAX_LINES:
        yield f"and {len(errors) - _MAX_LINES} more"

"""What the service refuses and why, as errors: one class for each thing a caller can do about it.

ClientError (ServiceError)
|-- KeyRefusedError                the key is unknown, revoked, or may not do this
|-- RefusedError                   what was asked for is wrong; all that is wrong is listed
|   |-- ContradictionError         it contradicts what was asked for before
|   `-- UploadRefusedError         the store that the service sends uploads to does not take one
|-- NoSuchThingError               there is no such job, item, token or upload
|   `-- GoneError                  there was, and it was deleted
|-- OverloadedError (FailedError)  too much was asked for, or the service has no room: later
|-- UnreachableError (FailedError) no answer came
`-- BrokenServerError (FailedError) an answer came that no sound server gives
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from dti_engine.errors import FailedError
from services.errors import ServiceError

_MAX_LINES = 20  # of one message


class ClientError(ServiceError):
    """The service did not do what it was asked for."""

    status: int = 0
    title: str = ""
    detail: str = ""
    after: float | None = None
    """Seconds after which the service wants to be asked again, if it says."""


class KeyRefusedError(ClientError):
    """The key is unknown or revoked, or may not do this."""


class RefusedError(ClientError):
    """What was asked for is wrong."""


class ContradictionError(RefusedError):
    """It contradicts what was asked for before."""


class UploadRefusedError(RefusedError):
    """The store that the service sends uploads to does not take one."""


class NoSuchThingError(ClientError):
    """There is no such job, item, token or upload."""


class GoneError(NoSuchThingError):
    """It was deleted, for good."""


class OverloadedError(ClientError, FailedError):
    """Too much was asked for, or the service has no room now: later."""


class UnreachableError(ClientError, FailedError):
    """No answer came."""


class BrokenServerError(ClientError, FailedError):
    """An answer came that no sound server gives."""


_S3_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")

_KINDS: dict[int, type[ClientError]] = {
    401: KeyRefusedError,
    403: KeyRefusedError,
    404: NoSuchThingError,
    409: ContradictionError,
    410: GoneError,
    429: OverloadedError,
    503: OverloadedError,
}


def problem(status: int, body: bytes) -> ClientError:
    """The error that an answer tells of, as far as it is problem+json (RFC 9457)."""
    try:
        said: Any = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        said = {}
    title, detail = (str(said.get(name) or "") for name in ("title", "detail"))
    kind = _KINDS.get(status, BrokenServerError if status >= 500 else RefusedError)
    summary = detail or title or f"the server answered {status}, and did not say why"
    lines = [summary, *(line for line in _findings(said.get("errors")) if line not in summary)]
    if status >= 500 and kind is BrokenServerError:
        lines[0] = f"the server failed ({status}): {summary}"
    error = kind("\n  ".join(lines))
    error.status, error.title, error.detail = status, title, detail
    return error


def upload_problem(host: str, status: int, body: bytes) -> UploadRefusedError:
    """The same of a store, whose own words are XML."""
    found = _S3_MESSAGE.search(body.decode("utf-8", "replace"))
    why = f": {found[1]:.200}" if found else ""
    error = UploadRefusedError(f"the store of uploads, {host}, answered {status}{why}")
    error.status = status
    return error


def _findings(errors: Any) -> Iterator[str]:
    """Each thing that is wrong, with its place."""
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

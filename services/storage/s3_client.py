"""The S3 client: boto3 with retries, its errors translated. The only file that imports boto3.

botocore makes one attempt per request, and `retry_transient` repeats it: botocore neither keeps a
deadline nor tells whether a failed write may have been applied, and it does not repeat after 409
(a conflict of concurrent conditional writes, which none of them has won yet).
"""

import http.client
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import boto3.exceptions
import urllib3.exceptions
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
)
from botocore.parsers import ResponseParserError

from services.errors import (
    AccessDeniedError,
    InvalidRangeError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    ServiceError,
    SettingsError,
    StorageError,
    StoreFullError,
    UnavailableError,
)
from services.storage.settings import NO_PRESIGNING, S3Settings

T = TypeVar("T")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0
"""Exponential backoff with full jitter: pauses are uniform in [0, first * 2^n], up to the longest.
Source: AWS Architecture Blog, "Exponential Backoff And Jitter", 2015.
"""


class TransientError(Exception):
    """A failure of one attempt that may pass.

    `applied` tells whether the request may have been applied, and only its answer was lost.
    """

    def __init__(self, message: str, *, applied: bool) -> None:
        super().__init__(message)
        self.applied = applied


def retry_transient(
    attempt: Callable[[], T],
    what: str,
    *,
    attempts: int,
    deadline_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    jitter: Callable[[float, float], float] = random.uniform,
) -> T:
    """Call `attempt` until it succeeds or fails for good.

    Args:
        attempt: The request, which raises TransientError if it is worth repeating.
        what: What it does, for the error.
        attempts: The number of attempts, at most.
        deadline_s: No attempt begins later than this.
        sleep: Pauses between two attempts.
        clock: Tells the time in seconds.
        jitter: Draws a number between two others.

    Raises:
        UnavailableError: All attempts failed, and none of them can have been applied.
        OutcomeUnknownError: All attempts failed, and one of them may have been applied.
    """
    # By hand, and not with tenacity: its deadlines go by time.monotonic and its jitter by the
    # global random generator, while the simulation runs this code by a virtual clock and a seed.
    # With a stop, a wait and an error of our own, nothing of the library would be left.
    begun = clock()
    longest_pause_s = _FIRST_PAUSE_S
    made, applied = 0, False
    while True:
        try:
            made += 1
            return attempt()
        except TransientError as error:
            # One attempt that may have been applied is enough for the outcome to be unknown.
            applied = applied or error.applied
            pause_s = jitter(0, longest_pause_s)
            longest_pause_s = min(2 * longest_pause_s, _LONGEST_PAUSE_S)
            spent_s = clock() - begun
            # The pause counts: no attempt begins after the deadline.
            if made >= attempts or spent_s + pause_s > deadline_s:
                kind = OutcomeUnknownError if applied else UnavailableError
                raise kind(
                    f"{what}: the store did not succeed in {made} attempts and {spent_s:.1f} s, at "
                    f"last: {error}; {_advice(applied)}"
                ) from error
            sleep(pause_s)


def _advice(applied: bool) -> str:
    if applied:
        return "it may have been applied all the same: read before trying again"
    return "nothing was changed: try again later"


if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The connection was never made, so that the server has seen nothing.
_UNSENT = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError)
# The answer never came, broke off, or was altered on its way: the request may have been applied.
# Errors of urllib3 and http.client are raised while a body is read, where botocore translates few.
_LOST = (
    HTTPClientError,
    IncompleteReadError,
    FlexibleChecksumError,
    OSError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
)
# The answer lacks what every S3 server sends, or is no XML. A page of a proxy, a console or a login
# has this form, even with status 200.
_NO_S3_ANSWER = (
    ResponseParserError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
)
_NO_S3_SERVER = (
    "this is no answer of an S3 server, but perhaps a web page: look at DTI_S3_ENDPOINT, and at "
    "what stands before the server"
)


class S3Connection:
    """A client with its own connection pool, and the retries of its settings."""

    def __init__(
        self,
        settings: S3Settings,
        *,
        make_client: "Callable[[S3Settings], S3Client] | None" = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Create a client, which connects with the first request.

        Args:
            settings: The bucket, and the timeouts.
            make_client: Stands in for boto3 in simulations.
            sleep: As in `retry_transient`.
            clock: As in `retry_transient`.
            jitter: As in `retry_transient`.

        Raises:
            SettingsError: boto3 accepts no such settings.
        """
        self.url = f"s3://{settings.bucket}/{settings.prefix}".removesuffix("/")
        self.client = (make_client or _client)(settings)
        self.presigning_client = self.client
        if settings.public_endpoint and settings.public_endpoint != NO_PRESIGNING:
            public = settings.model_copy(update={"endpoint": settings.public_endpoint})
            self.presigning_client = (make_client or _client)(public)
        self._settings = settings
        self._make_client = make_client
        self._sleep, self._clock, self._jitter = sleep, clock, jitter

    def call(self, what: str, operation: Callable[[], T], *, write: bool = False) -> T:
        """Call `operation`, a request of `client` and the reading of its answer, with retries.

        Every error is translated into one of `services.errors`.
        """
        return retry_transient(
            lambda: _translated(f"{what} in {self.url}", operation, write=write),
            f"{what} in {self.url}",
            attempts=self._settings.max_attempts,
            deadline_s=self._settings.deadline_s,
            sleep=self._sleep,
            clock=self._clock,
            jitter=self._jitter,
        )

    def sign_form(self, what: str, **form: Any) -> dict[str, Any]:
        """Return the URL and the fields of a presigned form for an upload."""

        def sign() -> dict[str, Any]:
            try:
                return self.presigning_client.generate_presigned_post(**form)
            except AttributeError as error:
                # botocore signs forms without looking whether there are credentials.
                raise NoCredentialsError from error

        return self.call(what, sign)

    def for_leases(self) -> "S3Connection":
        """Return a connection to the same server with its own pool and shorter timeouts."""
        return S3Connection(
            self._settings.for_leases(),
            make_client=self._make_client,
            sleep=self._sleep,
            clock=self._clock,
            jitter=self._jitter,
        )


def _client(settings: S3Settings) -> "S3Client":
    try:
        # A session of its own: making clients of a shared one is not thread-safe.
        return boto3.session.Session().client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region,
            config=Config(
                # By default, presigned URLs may get a signature of version 2, which many refuse.
                signature_version="s3v4",
                s3={"addressing_style": settings.addressing_style},
                request_checksum_calculation=settings.checksums,
                response_checksum_validation=settings.checksums,
                retries={"mode": "standard", "total_max_attempts": 1},
                connect_timeout=settings.connect_timeout_s,
                read_timeout=settings.read_timeout_s,
                max_pool_connections=settings.max_connections,
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"boto3 cannot make a client for {settings!r}: {error}") from error


def _translated(what: str, operation: Callable[[], T], *, write: bool) -> T:
    """Call `operation`, and translate each of its errors."""
    try:
        return operation()
    # The errors of this service are some of Python's own as well.
    except (ServiceError, TransientError):
        raise
    except ClientError as error:
        raise _translate(error, what, write=write) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessDeniedError(
            f"{what}: {error}; set credentials where boto3 finds them"
        ) from error
    except _UNSENT as error:
        raise TransientError(str(error), applied=False) from error
    except _LOST as error:
        raise TransientError(str(error), applied=write) from error
    except (BotoCoreError, boto3.exceptions.Boto3Error) as error:
        raise StorageError(f"{what}: {error}") from error
    except _NO_S3_ANSWER as error:
        # Transient, as a proxy shows its own page only while the server behind it restarts.
        raise TransientError(
            f"{_NO_S3_SERVER} ({type(error).__name__}: {error!s:.80})", applied=write
        ) from error


def _translate(error: ClientError, what: str, *, write: bool) -> Exception:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    details = error.response.get("Error", {})
    code = details.get("Code", "")
    message = f"{what}: HTTP {status} {code} {details.get('Message') or ''}".rstrip()
    if code == "NoSuchBucket":
        return SettingsError(f"{message}; make the bucket, or name another")
    # The answer to HEAD has no body, and so no code. For any other request, an S3 server says what
    # is missing, whereas a page that does not exist has the status alone.
    if status == 404 and code in ("", "404") and not error.operation_name.startswith("Head"):
        return TransientError(f"{message}; {_NO_S3_SERVER}", applied=write)
    if status == 404:
        return NotFoundError(message)
    if status == 412:
        return PreconditionFailedError(message)
    if status == 416:
        return InvalidRangeError(message)
    # Ceph answers 403 when a quota is used up, MinIO 507 when its disks are full.
    if status == 507 or code == "QuotaExceeded":
        return StoreFullError(f"{message}; free space in the bucket, or raise its quota")
    # A clock that is minutes off makes every signature invalid, which looks like a wrong key.
    if status in (401, 403) or code == "ExpiredToken":
        return AccessDeniedError(f"{message}; see the bucket's policy, and this host's clock")
    # These are answers: the server has not applied the request.
    if status in (409, 429) or code == "RequestTimeout":
        return TransientError(message, applied=False)
    # 501 says that the server lacks the feature, which repeating does not change.
    if status >= 500 and status != 501:
        return TransientError(message, applied=write)
    return StorageError(message)

"""boto3's client, and its errors by our names. The only file that imports boto3.

Each request is one attempt of botocore's; `retries.persist` repeats it, because botocore neither
keeps a deadline nor says whether a failed write may have been applied, and does not repeat after
409 (conditional writes at the same time: nobody has won yet).

Trying again where the store did not answer, within a deadline.
"""

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import boto3
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
    SettingsError,
    StorageError,
    UnavailableError,
)
from services.storage.settings import S3Settings

T = TypeVar("T")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
"""Seconds. "Full jitter": pauses are uniform in [0, first * 2^n]; AWS Architecture Blog, 2015."""


class TransientError(Exception):
    """One attempt failed in a way that may pass; `applied`: a write may have been done all the
    same, and only its answer was lost.
    """

    def __init__(self, message: str, *, applied: bool) -> None:
        super().__init__(message)
        self.applied = applied


def retry_transient(
    attempt: Callable[[], T],
    what: str,
    *,
    attempts: int,
    deadline: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    jitter: Callable[[float, float], float] = random.uniform,
) -> T:
    """Try until it succeeds or fails for good, at most `attempts` times, the last of which begins
    within `deadline` seconds.

    Raises: UnavailableError when all attempts were transient failures, or OutcomeUnknownError if
    one of them may have been applied; and what an attempt raises besides.
    """
    begun = clock()
    pause = _FIRST_PAUSE
    made, applied = 0, False
    while True:
        try:
            made += 1
            return attempt()
        except TransientError as error:
            applied = applied or error.applied
            wait = jitter(0, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            spent = clock() - begun
            if made >= attempts or spent + wait > deadline:
                kind = OutcomeUnknownError if applied else UnavailableError
                raise kind(
                    f"{what}: the store did not do it in {made} attempts and {spent:.1f} s, at "
                    f"last: {error}; {_advice(applied)}"
                ) from error
            sleep(wait)


def _advice(applied: bool) -> str:
    if applied:
        return "it may have been done all the same: read before trying again"
    return "nothing was changed: try again later"


if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The connection was never made, so the server has seen nothing.
_UNSENT = (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError)
# The answer never came, broke off, or is not what was sent.
_LOST = (
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    FlexibleChecksumError,
    OSError,
)


class S3Connection:
    """One client with a pool of its own, and the patience of its settings."""

    def __init__(
        self,
        settings: S3Settings,
        *,
        make_client: "Callable[[S3Settings], S3Client] | None" = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Connects to nothing yet. `make_client` stands in for boto3, the rest is as `persist` has
        it.

        Raises: SettingsError if boto3 makes no client of it.
        """
        self.url = f"s3://{settings.bucket}/{settings.prefix}".removesuffix("/")
        self.client = (make_client or _client)(settings)
        self._settings = settings
        self._make_client = make_client
        self._sleep, self._clock, self._jitter = sleep, clock, jitter

    def call(self, what: str, operation: Callable[[], T], *, write: bool = False) -> T:
        """Do `operation`, a request of `client`, again while the server does not answer.

        Raises: errors of `services.errors` alone.
        """

        def attempt() -> T:
            try:
                return operation()
            except ClientError as error:
                raise _translated(error, f"{what} in {self.url}", write=write) from error
            except (NoCredentialsError, PartialCredentialsError) as error:
                raise AccessDeniedError(
                    f"{what} in {self.url}: {error}; set credentials where boto3 finds them"
                ) from error
            except _UNSENT as error:
                raise TransientError(str(error), applied=False) from error
            except _LOST as error:
                raise TransientError(str(error), applied=write) from error
            except BotoCoreError as error:
                raise StorageError(f"{what} in {self.url}: {error}") from error

        return retry_transient(
            attempt,
            f"{what} in {self.url}",
            attempts=self._settings.max_attempts,
            deadline=self._settings.deadline_s,
            sleep=self._sleep,
            clock=self._clock,
            jitter=self._jitter,
        )

    def for_leases(self) -> "S3Connection":
        """A client of its own to the same server, given up on early."""
        return S3Connection(
            self._settings.for_leases(),
            make_client=self._make_client,
            sleep=self._sleep,
            clock=self._clock,
            jitter=self._jitter,
        )


def _client(settings: S3Settings) -> "S3Client":
    try:
        # A session of its own, since making clients of one is not safe between threads.
        return boto3.session.Session().client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region,
            config=Config(
                # By default a presigned URL can have a signature of version 2, which many refuse.
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
        raise SettingsError(f"boto3 makes no client for {settings!r}: {error}") from error


def _translated(error: ClientError, what: str, *, write: bool) -> Exception:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    details = error.response.get("Error", {})
    code = details.get("Code", "")
    said = f"{what}: HTTP {status} {code} {details.get('Message') or ''}".rstrip()
    if code == "NoSuchBucket":
        return SettingsError(f"{said}; make the bucket, or name another")
    if status == 404:
        return NotFoundError(said)
    if status == 412:
        return PreconditionFailedError(said)
    if status == 416:
        return InvalidRangeError(said)
    if status in (401, 403) or code == "ExpiredToken":
        return AccessDeniedError(f"{said}; see the bucket's policy, and this host's clock")
    if status in (409, 429) or code == "RequestTimeout":
        return TransientError(said, applied=False)
    if status >= 500 and status != 501:
        return TransientError(said, applied=write)
    return StorageError(said)

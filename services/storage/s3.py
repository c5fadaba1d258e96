"""A store in a bucket of an S3 server."""

import base64
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, BinaryIO, Literal, TypeVar, cast
from urllib.parse import quote

from services.errors import (
    AlreadyExistsError,
    InvalidRangeError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
)
from services.storage.interface import (
    LAST,
    MAX_KEY_BYTES,
    Head,
    Object,
    Page,
    PresignedPost,
    Retention,
    beyond,
    check_key,
    check_listing,
    is_range,
)
from services.storage.s3_client import S3Connection
from services.storage.settings import NO_PRESIGNING, S3Settings

T = TypeVar("T")


class S3Store:
    """Objects in a bucket under a prefix. S3's ETags are equal for equal bytes."""

    def __init__(self, settings: S3Settings, connection: S3Connection | None = None) -> None:
        """Create a store, which connects with the first request.

        Raises:
            SettingsError: boto3 accepts no such settings.
        """
        self._settings = settings
        self._bucket = settings.bucket
        self._connection = connection or S3Connection(settings)
        self._call, self._client = self._connection.call, self._connection.client

    @property
    def url(self) -> str:
        return self._connection.url

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> Object:
        where = self._where(key)
        if is_range(start, length):
            where["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"

        def get() -> Object:
            answer = self._client.get_object(**where)
            # Read inside the attempt, so that a connection that breaks half-way is retried.
            body = answer["Body"].read()
            whole = answer.get("ContentRange", "").rpartition("/")[2]
            size = int(whole) if whole.isdigit() else answer["ContentLength"]
            head = Head(key, size, answer["ETag"], _utc(answer["LastModified"]), _date(answer))
            return Object(head, body)

        try:
            return self._call(f"reading {key!r}", get)
        except InvalidRangeError as error:
            raise beyond(key, start) from error

    def head(self, key: str) -> Head:
        where = self._where(key)

        def head() -> Head:
            answer = self._client.head_object(**where)
            size, etag = answer["ContentLength"], answer["ETag"]
            return Head(key, size, etag, _utc(answer["LastModified"]), _date(answer))

        return self._call(f"looking at {key!r}", head)

    def create(self, key: str, body: bytes) -> str:
        try:
            return self._put(key, body, IfNoneMatch="*")
        except PreconditionFailedError as error:
            with suppress(NotFoundError):
                stored = self._read_back(key)
                if stored.body == body:
                    return stored.head.etag
            raise AlreadyExistsError(
                f"there is an object under {key!r} already: read it"
            ) from error

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        try:
            return self._put(key, body, IfMatch=expected)
        except PreconditionFailedError as error:
            stored = self._read_back(key)
            if stored.body == body:
                return stored.head.etag
            raise _version_error(stored.head, expected) from error

    def put(self, key: str, body: bytes | BinaryIO) -> str:
        return self._put(key, body)

    def delete(self, key: str) -> None:
        where = self._where(key)
        self._call(f"deleting {key!r}", lambda: self._send_deletion(where), write=True)

    def delete_if(self, key: str, *, expected: str) -> None:
        where: dict[str, Any] = {**self._where(key), "IfMatch": expected}
        try:
            self._call(f"deleting {key!r}", lambda: self._send_deletion(where), write=True)
        except NotFoundError:
            return
        except PreconditionFailedError as error:
            # If it is gone by now, by our own request whose answer was lost or by another's, it is
            # deleted as the caller wants.
            with suppress(NotFoundError):
                stored = _after_write(lambda: self.head(key))
                raise _version_error(stored, expected) from error

    def list(
        self,
        prefix: str = "",
        *,
        after: str = "",
        delimiter: Literal["", "/"] = "",
        limit: int = 1000,
    ) -> Page:
        check_listing(prefix, after, limit)
        what: dict[str, Any] = {
            "Bucket": self._bucket,
            "Prefix": self._settings.prefix + prefix,
            "MaxKeys": limit,
        }
        if after:
            what["StartAfter"] = self._settings.prefix + after
        if delimiter:
            what["Delimiter"] = delimiter
        return self._call(
            f"listing {prefix!r}",
            lambda: _page(self._client.list_objects_v2(**what), len(self._settings.prefix)),
        )

    def now(self) -> datetime:
        return self._call(
            "reading the clock", lambda: _date(self._client.head_bucket(Bucket=self._bucket))
        )

    def presigned_post(
        self, key: str, *, max_bytes: int, expires_s: int, sha256: str = ""
    ) -> PresignedPost | None:
        if self._settings.public_endpoint == NO_PRESIGNING:
            return None
        checksum: dict[str, str] = {}
        if sha256:
            checksum = {
                "x-amz-checksum-algorithm": "SHA256",
                "x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode(),
            }
        min_bytes = max_bytes if sha256 else 0
        # In the policy, too, which is signed: a form with another checksum is refused.
        conditions = [{name: value} for name, value in checksum.items()]
        form = self._connection.sign_form(
            f"signing a form for {key!r}",
            **self._where(key),
            Fields=dict(checksum),
            Conditions=[["content-length-range", min_bytes, max_bytes], *conditions],
            ExpiresIn=expires_s,
        )
        return PresignedPost(form["url"], form["fields"])

    def presigned_get(
        self, key: str, *, expires_s: int, filename: str = "", media_type: str = ""
    ) -> str | None:
        if self._settings.public_endpoint == NO_PRESIGNING:
            return None
        where = self._where(key)
        if filename:
            where["ResponseContentDisposition"] = (
                f"attachment; filename*=UTF-8''{quote(filename, safe='')}"
            )
        if media_type:
            where["ResponseContentType"] = media_type
        client = self._connection.presigning_client
        return self._call(
            f"signing a link to {key!r}",
            lambda: client.generate_presigned_url("get_object", Params=where, ExpiresIn=expires_s),
        )

    def retention(self) -> Retention:
        bucket = self._bucket
        try:
            answer = self._call(
                "reading versioning", lambda: self._client.get_bucket_versioning(Bucket=bucket)
            )
            status = cast(str, answer.get("Status", "off")).lower()
            versioning = status if status in ("off", "enabled", "suspended") else "unknown"
        except StorageError:
            # Many policies do not allow the question, which is no reason to refuse the store.
            versioning = "unknown"
        try:
            self._call(
                "reading object lock",
                lambda: self._client.get_object_lock_configuration(Bucket=bucket),
            )
            object_lock = True
        except NotFoundError:
            object_lock = False
        except StorageError:
            object_lock = None
        return Retention(versioning, object_lock)

    def purge_versions(self, prefix: str) -> int:
        check_listing(prefix, "", 1)
        versions: list[Any] = []
        markers: list[Any] = []
        for page in self._version_pages(prefix):
            versions += [each for each in page.get("Versions", ()) if not each["IsLatest"]]
            markers += page.get("DeleteMarkers", ())
        # The markers go last: without its marker, an older version would be current again.
        for each in (*versions, *markers):
            what = {"Bucket": self._bucket, "Key": each["Key"], "VersionId": each["VersionId"]}
            self._call(
                f"erasing a version below {prefix!r}",
                lambda what=what: self._send_deletion(what),
                write=True,
            )
        return len(versions)

    def _version_pages(self, prefix: str) -> Iterator[Any]:
        what: dict[str, Any] = {"Bucket": self._bucket, "Prefix": self._settings.prefix + prefix}

        def listed() -> tuple[Any, bool]:
            answer = self._client.list_object_versions(**what)
            return answer, not answer["IsTruncated"]

        while True:
            answer: Any
            answer, is_last = self._call(f"listing versions below {prefix!r}", listed)
            yield answer
            if is_last:
                return
            what["KeyMarker"] = answer["NextKeyMarker"]
            what["VersionIdMarker"] = answer["NextVersionIdMarker"]

    def for_leases(self) -> "S3Store":
        return S3Store(self._settings.for_leases(), self._connection.for_leases())

    def _where(self, key: str) -> dict[str, Any]:
        check_key(key)
        full = self._settings.prefix + key
        # The server's limit holds for the whole key, with the store's own prefix.
        if len(full.encode()) > MAX_KEY_BYTES:
            check_key(full)
        return {"Bucket": self._bucket, "Key": full}

    def _put(self, key: str, body: bytes | BinaryIO, **condition: Any) -> str:
        where = self._where(key)

        def put() -> str:
            if not isinstance(body, bytes):
                body.seek(0)  # An earlier attempt may have read a part of it.
            # Not upload_file: its transfer manager splits large bodies, and ignores conditions.
            return self._client.put_object(**where, Body=body, **condition)["ETag"]

        return self._call(f"writing {key!r}", put, write=True)

    def _send_deletion(self, what: dict[str, Any]) -> None:
        status = self._client.delete_object(**what)["ResponseMetadata"]["HTTPStatusCode"]
        # A web page has 200, and nothing is deleted.
        if status != 204:
            raise ValueError(f"the answer to a deletion has status {status}, not 204")

    def _read_back(self, key: str) -> Object:
        """Return the object after a write failed with 412.

        If it has our own bytes, our own write was first: its answer was lost, and it was sent
        again, by us or by a proxy without our knowledge.
        """
        return _after_write(lambda: self.read(key))


def _after_write(read: Callable[[], T]) -> T:
    """Call `read` after a write that may have been applied: a failure leaves that unknown."""
    try:
        return read()
    except UnavailableError as error:
        raise OutcomeUnknownError(*error.args) from error


def _version_error(stored: Head, expected: str) -> PreconditionFailedError:
    return PreconditionFailedError(
        f"{stored.key!r} is at {stored.etag}, not at {expected} as expected: read it again"
    )


def _page(answer: Any, cut: int) -> Page:
    """Return a page of a listing; `cut` is the length of the store's own prefix."""
    date = _date(answer)
    objects = tuple(
        Head(item["Key"][cut:], item["Size"], item["ETag"], _utc(item["LastModified"]), date)
        for item in answer.get("Contents", ())
    )
    prefixes = tuple(item["Prefix"][cut:] for item in answer.get("CommonPrefixes", ()))
    if not answer["IsTruncated"]:
        return Page(objects, prefixes, None)
    # Whichever sorts last ends the page; a prefix stands for all keys below it.
    last = max([head.key for head in objects[-1:]] + [common + LAST for common in prefixes[-1:]])
    return Page(objects, prefixes, last)


def _date(answer: Any) -> datetime:
    header = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if not header:
        raise StorageError("the S3 server, or a proxy before it, omits the header Date")
    return _parse_date(header)


@lru_cache(maxsize=16)
def _parse_date(header: str) -> datetime:
    """Parse the header Date, cached as many answers come within the same second."""
    return _utc(parsedate_to_datetime(header))


def _utc(time: datetime) -> datetime:
    return time.astimezone(UTC)

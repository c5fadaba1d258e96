"""boto3's S3 client, as far as `S3Store` uses it, for one simulated process."""

from typing import Any, cast

from chaos.simulation.bucket import NO_SUCH_KEY, Bucket, ErrorResponse, Version
from chaos.simulation.network import Network
from chaos.simulation.process import Process
from services.storage.s3 import S3Store
from services.storage.s3_client import S3Connection
from services.storage.settings import S3Settings

_NOT_FOUND = ErrorResponse(404, "404")  # an answer to HEAD has no body that could say more
_NO_SUCH_RANGE = ErrorResponse(416, "InvalidRange")


def simulated_store(
    process: Process, network: Network, kind: type[S3Store] = S3Store, **settings: Any
) -> S3Store:
    """Return the real S3Store over simulated requests, for tasks of `process`."""
    parsed = S3Settings(bucket="simulated", prefix="", **settings)
    connection = S3Connection(
        parsed,
        make_client=lambda settings: cast(
            Any,
            SimulatedS3Client(
                process, network, settings.connect_timeout_s, settings.read_timeout_s
            ),
        ),
        sleep=process.sleep,
        clock=process.clock,
        jitter=process.world.random.uniform,
    )
    return kind(parsed, connection)


class _Body:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def read(self) -> bytes:
        return self._body


class SimulatedS3Client:
    """Takes and returns what boto3's client does, under its names, with botocore's errors."""

    def __init__(
        self,
        process: Process,
        network: Network,
        connect_timeout: float = 5,
        read_timeout: float = 20,
    ) -> None:
        self._process = process
        self._network = network
        self._timeouts = (connect_timeout, read_timeout)

    def put_object(
        self,
        *,
        Bucket: str,
        Key: str,
        Body: bytes,
        IfMatch: str | None = None,
        IfNoneMatch: str | None = None,
    ) -> dict[str, Any]:
        bucket, process = self._network.bucket, self._process

        def serve(number: int) -> dict[str, Any] | ErrorResponse:
            version = bucket.put(number, process.name, Key, Body, IfMatch, IfNoneMatch)
            if isinstance(version, ErrorResponse):
                return version
            return {"ETag": version.etag, "ResponseMetadata": _metadata(bucket)}

        kind = "conditional write" if IfMatch or IfNoneMatch else "write"
        return self._network.send(process, kind, "PutObject", Key, serve, self._timeouts)

    def delete_object(self, *, Bucket: str, Key: str, IfMatch: str | None = None) -> dict[str, Any]:
        bucket, process = self._network.bucket, self._process

        def serve(number: int) -> dict[str, Any] | ErrorResponse:
            error = bucket.delete(number, process.name, Key, IfMatch)
            return error or {"ResponseMetadata": {**_metadata(bucket), "HTTPStatusCode": 204}}

        kind = "conditional write" if IfMatch else "write"
        return self._network.send(process, kind, "DeleteObject", Key, serve, self._timeouts)

    def get_object(self, *, Bucket: str, Key: str, Range: str = "") -> dict[str, Any]:
        bucket = self._network.bucket

        def serve(number: int) -> dict[str, Any] | ErrorResponse:
            version = bucket.get(Key)
            if version is None:
                return NO_SUCH_KEY
            if not Range:
                return {**_head(bucket, version), "Body": _Body(version.body)}
            first, _, last = Range.removeprefix("bytes=").partition("-")
            start, size = int(first), len(version.body)
            end = min(int(last) + 1, size) if last else size
            if start >= size:
                return _NO_SUCH_RANGE
            return {
                **_head(bucket, version),
                "ContentLength": end - start,
                "ContentRange": f"bytes {start}-{end - 1}/{size}",
                "Body": _Body(version.body[start:end]),
            }

        return self._network.send(self._process, "read", "GetObject", Key, serve, self._timeouts)

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        bucket = self._network.bucket

        def serve(number: int) -> dict[str, Any] | ErrorResponse:
            version = bucket.get(Key)
            return _head(bucket, version) if version else _NOT_FOUND

        return self._network.send(self._process, "read", "HeadObject", Key, serve, self._timeouts)

    def head_bucket(self, *, Bucket: str) -> dict[str, Any]:
        bucket = self._network.bucket

        def serve(number: int) -> dict[str, Any]:
            return {"ResponseMetadata": _metadata(bucket)}

        return self._network.send(self._process, "read", "HeadBucket", "", serve, self._timeouts)

    def list_objects_v2(
        self,
        *,
        Bucket: str,
        Prefix: str = "",
        StartAfter: str = "",
        Delimiter: str = "",
        MaxKeys: int = 1000,
    ) -> dict[str, Any]:
        bucket = self._network.bucket

        def serve(number: int) -> dict[str, Any]:
            listing = bucket.page(Prefix, StartAfter, Delimiter, MaxKeys)
            answer: dict[str, Any] = {
                "IsTruncated": listing.truncated,
                "ResponseMetadata": _metadata(bucket),
            }
            if listing.objects:
                answer["Contents"] = [
                    {
                        "Key": key,
                        "Size": len(version.body),
                        "ETag": version.etag,
                        "LastModified": bucket.last_modified(version),
                    }
                    for key, version in listing.objects
                ]
            if listing.prefixes:
                answer["CommonPrefixes"] = [{"Prefix": prefix} for prefix in listing.prefixes]
            return answer

        return self._network.send(
            self._process, "list", "ListObjectsV2", Prefix, serve, self._timeouts
        )


def _metadata(bucket: Bucket) -> dict[str, Any]:
    return {"HTTPStatusCode": 200, "HTTPHeaders": {"date": bucket.date()}}


def _head(bucket: Bucket, version: Version) -> dict[str, Any]:
    return {
        "ContentLength": len(version.body),
        "ETag": version.etag,
        "LastModified": bucket.last_modified(version),
        "ResponseMetadata": _metadata(bucket),
    }

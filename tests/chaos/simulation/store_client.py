"""boto3's client of S3, as far as `S3Store` uses it, for one process of the simulation."""

from typing import Any, cast

from chaos.simulation.bucket import NO_SUCH_KEY, Bucket, Refusal, Version
from chaos.simulation.network import Wire
from chaos.simulation.process import Process
from services.storage.s3 import S3Store
from services.storage.s3_client import S3Connection
from services.storage.settings import S3Settings

_NOT_FOUND = Refusal(404, "404")  # an answer to HEAD has no body that could say more
_NO_SUCH_RANGE = Refusal(416, "InvalidRange")


def simulated_store(
    process: Process, wire: Wire, kind: type[S3Store] = S3Store, **settings: Any
) -> S3Store:
    """The real S3Store over simulated requests, for tasks of `process`."""
    parsed = S3Settings(bucket="simulated", prefix="", **settings)
    connection = S3Connection(
        parsed,
        make_client=lambda settings: cast(
            Any, Client(process, wire, settings.connect_timeout_s, settings.read_timeout_s)
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


class Client:
    """Takes and returns what boto3's does, and raises botocore's errors. Names are boto3's."""

    def __init__(
        self, process: Process, wire: Wire, connect_timeout: float = 5, read_timeout: float = 20
    ) -> None:
        self._process = process
        self._wire = wire
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
        bucket, process = self._wire.bucket, self._process

        def serve(number: int) -> dict[str, Any] | Refusal:
            version = bucket.put(number, process.name, Key, Body, IfMatch, IfNoneMatch)
            if isinstance(version, Refusal):
                return version
            return {"ETag": version.etag, "ResponseMetadata": _metadata(bucket)}

        kind = "conditional write" if IfMatch or IfNoneMatch else "write"
        return self._wire.send(process, kind, "PutObject", Key, serve, self._timeouts)

    def delete_object(self, *, Bucket: str, Key: str, IfMatch: str | None = None) -> dict[str, Any]:
        bucket, process = self._wire.bucket, self._process

        def serve(number: int) -> dict[str, Any] | Refusal:
            refusal = bucket.delete(number, process.name, Key, IfMatch)
            return refusal or {"ResponseMetadata": _metadata(bucket)}

        kind = "conditional write" if IfMatch else "write"
        return self._wire.send(process, kind, "DeleteObject", Key, serve, self._timeouts)

    def get_object(self, *, Bucket: str, Key: str, Range: str = "") -> dict[str, Any]:
        bucket = self._wire.bucket

        def serve(number: int) -> dict[str, Any] | Refusal:
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

        return self._wire.send(self._process, "read", "GetObject", Key, serve, self._timeouts)

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        bucket = self._wire.bucket

        def serve(number: int) -> dict[str, Any] | Refusal:
            version = bucket.get(Key)
            return _head(bucket, version) if version else _NOT_FOUND

        return self._wire.send(self._process, "read", "HeadObject", Key, serve, self._timeouts)

    def head_bucket(self, *, Bucket: str) -> dict[str, Any]:
        bucket = self._wire.bucket

        def serve(number: int) -> dict[str, Any]:
            return {"ResponseMetadata": _metadata(bucket)}

        return self._wire.send(self._process, "read", "HeadBucket", "", serve, self._timeouts)

    def list_objects_v2(
        self,
        *,
        Bucket: str,
        Prefix: str = "",
        StartAfter: str = "",
        Delimiter: str = "",
        MaxKeys: int = 1000,
    ) -> dict[str, Any]:
        bucket = self._wire.bucket

        def serve(number: int) -> dict[str, Any]:
            listed = bucket.page(Prefix, StartAfter, Delimiter, MaxKeys)
            answer: dict[str, Any] = {
                "IsTruncated": listed.truncated,
                "ResponseMetadata": _metadata(bucket),
            }
            if listed.objects:
                answer["Contents"] = [
                    {
                        "Key": key,
                        "Size": len(version.body),
                        "ETag": version.etag,
                        "LastModified": version.last_modified,
                    }
                    for key, version in listed.objects
                ]
            if listed.prefixes:
                answer["CommonPrefixes"] = [{"Prefix": prefix} for prefix in listed.prefixes]
            return answer

        return self._wire.send(
            self._process, "list", "ListObjectsV2", Prefix, serve, self._timeouts
        )


def _metadata(bucket: Bucket) -> dict[str, Any]:
    return {"HTTPStatusCode": 200, "HTTPHeaders": {"date": bucket.date()}}


def _head(bucket: Bucket, version: Version) -> dict[str, Any]:
    return {
        "ContentLength": len(version.body),
        "ETag": version.etag,
        "LastModified": version.last_modified,
        "ResponseMetadata": _metadata(bucket),
    }

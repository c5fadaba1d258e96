"""S3 when requests and answers are lost, and what goes over the wire."""

import secrets
import time
from collections.abc import Callable
from typing import Any, cast

import boto3
import pytest

from services.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    OutcomeUnknownError,
    PreconditionFailedError,
    SettingsError,
    StorageError,
    UnavailableError,
)
from services.storage.s3 import S3Store
from services.storage.settings import S3Settings

S3_SERVERS = ["moto", pytest.param("s3", marks=pytest.mark.s3)]

pytestmark = pytest.mark.parametrize("kind", S3_SERVERS)

MakeS3 = Callable[..., S3Store]


@pytest.fixture
def store(make_s3: MakeS3, proxy: Any) -> S3Store:
    """Return a store behind the proxy."""
    return make_s3(endpoint=proxy.endpoint, read_timeout_s=1, max_attempts=4)


LOST_ANSWERS = ["lose-answer", "hang", "500-after", "503-after", "twice"]
LOST_REQUESTS = ["409", "500", "502", "503", "504", "429", "lose"]


@pytest.mark.parametrize("fault", LOST_ANSWERS + LOST_REQUESTS)
def test_a_creation_succeeds_through_a_fault(store: S3Store, proxy: Any, fault: str) -> None:
    proxy.faults = {"PUT": [fault]}
    etag = store.create("a", b"mine, nonce 1")
    assert store.read("a").body == b"mine, nonce 1"
    assert store.head("a").etag == etag


@pytest.mark.parametrize("fault", LOST_ANSWERS + LOST_REQUESTS)
def test_a_replacement_succeeds_through_a_fault(store: S3Store, proxy: Any, fault: str) -> None:
    first = store.create("a", b"first")
    proxy.faults = {"PUT": [fault]}
    second = store.replace("a", b"second, nonce 2", expected=first)
    assert store.read("a").body == b"second, nonce 2"
    assert store.head("a").etag == second != first


@pytest.mark.parametrize("fault", LOST_ANSWERS + LOST_REQUESTS)
def test_a_deletion_succeeds_through_a_fault(store: S3Store, proxy: Any, fault: str) -> None:
    etag = store.create("a", b"first")
    proxy.faults = {"DELETE": [fault]}
    store.delete_if("a", expected=etag)
    with pytest.raises(NotFoundError):
        store.head("a")


@pytest.mark.parametrize("fault", ["500", "503", "lose", "hang", "cut"])
def test_a_read_succeeds_through_a_fault(store: S3Store, proxy: Any, fault: str) -> None:
    store.create("a", b"first")
    proxy.faults = {"GET": [fault, fault], "HEAD": [fault]}
    assert store.read("a").body == b"first"
    assert len(store.list().objects) == 1
    assert store.head("a").size == 5


@pytest.mark.parametrize("fault", LOST_ANSWERS)
def test_a_write_that_lost_to_another_is_lost(store: S3Store, proxy: Any, fault: str) -> None:
    etag = store.create("a", b"theirs")
    proxy.faults = {"PUT": [fault]}
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"mine")
    proxy.faults = {"PUT": [fault]}
    with pytest.raises(PreconditionFailedError):
        store.replace("a", b"mine", expected=etag.replace('"', '"0', 1))
    assert store.read("a").body == b"theirs"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("409", UnavailableError),
        ("429", UnavailableError),
        (
            "503",
            OutcomeUnknownError,
        ),  # a proxy answers so, too, when it has lost the server's answer
        ("lose-answer", OutcomeUnknownError),
    ],
)
def test_giving_up_says_whether_the_write_may_have_been_applied(
    store: S3Store, proxy: Any, fault: str, error: type[StorageError]
) -> None:
    proxy.faults = {"PUT": [fault] * 4}
    with pytest.raises(UnavailableError, match="in 4 attempts") as caught:
        store.put("a", b"mine")
    assert type(caught.value) is error
    assert ("read before" in str(caught.value)) == (error is OutcomeUnknownError)


def test_a_write_is_unknown_if_it_cannot_be_read_back(store: S3Store, proxy: Any) -> None:
    proxy.faults = {"PUT": ["twice"], "GET": ["503"] * 4}
    with pytest.raises(OutcomeUnknownError):
        store.create("a", b"mine")


def test_a_read_is_never_unknown(store: S3Store, proxy: Any) -> None:
    proxy.faults = {"GET": ["lose"] * 4}
    with pytest.raises(UnavailableError, match="nothing was changed") as caught:
        store.read("a")
    assert type(caught.value) is UnavailableError


def test_a_call_ends_at_its_deadline(make_s3: MakeS3, proxy: Any) -> None:
    store = make_s3(endpoint=proxy.endpoint, read_timeout_s=0.3, max_attempts=20, deadline_s=1)
    proxy.faults = {"PUT": ["hang"] * 20}
    begun = time.monotonic()
    with pytest.raises(OutcomeUnknownError):
        store.put("a", b"")
    assert time.monotonic() - begun < 3


def test_a_server_that_is_not_there_is_unavailable(make_s3: MakeS3) -> None:
    store = make_s3(endpoint="http://127.0.0.1:9", max_attempts=2)
    with pytest.raises(UnavailableError, match="nothing was changed") as caught:
        store.put("a", b"")
    assert type(caught.value) is UnavailableError


def test_a_loser_needs_two_requests(store: S3Store, proxy: Any) -> None:
    store.create("a", b"theirs")
    proxy.seen.clear()
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"mine")
    assert [line.split()[0] for line in proxy.seen] == ["PUT", "GET"]


@pytest.mark.parametrize("mode", ["when_supported", "when_required"])
def test_checksums_are_sent_as_set(make_s3: MakeS3, proxy: Any, mode: str) -> None:
    make_s3(endpoint=proxy.endpoint, checksums=mode).put("a", b"body")
    sent = {name for name in proxy.headers[-1] if name.startswith("x-amz-checksum")}
    assert bool(sent) == (mode == "when_supported")
    # Either way the body is signed, so that a body damaged on the way is refused.
    assert proxy.headers[-1]["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD"


def test_leases_give_up_early_and_share_no_connection(make_s3: MakeS3, proxy: Any) -> None:
    store = make_s3(endpoint=proxy.endpoint)
    leases = store.for_leases()
    proxy.faults = {"PUT": ["503"] * 20}
    begun = time.monotonic()
    with pytest.raises(UnavailableError, match="in 3 attempts"):
        leases.put("a", b"")
    assert time.monotonic() - begun < 8
    assert len(proxy.seen) == 3


def test_a_missing_bucket_is_a_wrong_setting(server: Any) -> None:
    settings = S3Settings(bucket="no-such-bucket-here", prefix="", endpoint=server.endpoint)
    with pytest.raises(SettingsError, match="make the bucket"):
        S3Store(settings).read("a")


def test_missing_credentials_are_reported(make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    store = make_s3()
    with pytest.raises(AccessDeniedError, match="credentials"):
        store.read("a")


def test_other_credentials_are_denied(
    kind: str, make_s3: MakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "moto":
        pytest.skip("moto lets everyone in")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        other_store = make_s3()
    with pytest.raises(AccessDeniedError, match="policy"):
        other_store.put("a", b"")


def test_a_prefix_belongs_to_the_limit_of_a_key(make_s3: MakeS3) -> None:
    store = make_s3()
    store.put("k" * 990, b"fits")
    with pytest.raises(StorageError, match="1024"):
        store.put("k" * 1020, b"")


def test_versions_that_are_not_current_are_erased(make_s3: Any, server: Any) -> None:
    client = boto3.session.Session().client("s3", endpoint_url=server.endpoint)
    bucket = f"dti-purge-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = make_s3(bucket=bucket)
    try:
        for key in ("a/kept", "a/gone", "b/other"):
            store.put(key, b"canary")
            store.put(key, b"new")
        store.delete("a/gone")
        assert store.purge_versions("a/") == 3
        assert [head.key for head in store.list().objects] == ["a/kept", "b/other"]
        assert store.read("a/kept").body == b"new"
        left = client.list_object_versions(Bucket=bucket)
        assert "DeleteMarkers" not in left
        assert len(left["Versions"]) == 3
        assert store.purge_versions("a/") == 0
    finally:
        left = cast(Any, client.list_object_versions(Bucket=bucket))
        for each in (*left.get("Versions", ()), *left.get("DeleteMarkers", ())):
            client.delete_object(Bucket=bucket, Key=each["Key"], VersionId=each["VersionId"])
        client.delete_bucket(Bucket=bucket)


def test_what_is_presigned_leads_to_the_public_endpoint(make_s3: MakeS3) -> None:
    store = make_s3(public_endpoint="https://s3.example.com")
    form = store.presigned_post("a", max_bytes=1, expires_s=60)
    assert form
    assert form.url.startswith("https://s3.example.com/")
    link = store.presigned_get("a", expires_s=60)
    assert link
    assert link.startswith("https://s3.example.com/")
    store.put("a", b"requests of this service go to the other one")


def test_nothing_is_presigned_where_clients_cannot_reach_the_server(make_s3: MakeS3) -> None:
    store = make_s3(public_endpoint="none")
    assert store.presigned_post("a", max_bytes=1, expires_s=60) is None
    assert store.presigned_get("a", expires_s=60) is None

"""Uploads to the real API, over stores that take them and stores that do not."""

import json
import threading

import httpx
import pytest
from hosted import Hosted, hosted

from services.client.client import Client
from services.client.config import ServerConfig
from services.client.errors import BrokenServerError, RefusedError, UploadRefusedError
from services.client.http import HttpConnection
from services.client.uploader import UploadContent, content_of, missing, upload
from services.ledger import uploads as kept
from services.storage.interface import Store


def some(number: int) -> list[UploadContent]:
    return [content_of(f"bundle {n}".encode()) for n in range(number)]


@pytest.mark.parametrize("kind", ["directory", "moto"])
def test_missing_bundles_are_uploaded_once(kind: str, store: Store) -> None:
    with hosted(store) as service, service.client() as client:
        parcels = some(7)
        client.upload(parcels[:2])
        assert client.missing(parcels) == parcels[2:]
        sent: list[UploadContent] = []
        client.upload([*parcels, parcels[3]], on_sent=sent.append)
        assert sorted(sent, key=parcels.index) == parcels
        assert client.missing(parcels) == []
        for each in parcels:
            assert kept.read(store, "acme", each.sha256, max_bytes=each.size) == each.read()


def test_thousands_are_announced_in_parts(service: Hosted, client: Client) -> None:
    parcels = some(450)
    client.upload(parcels)
    assert client.missing(parcels) == []


def test_stored_bundles_are_not_read_again(client: Client) -> None:
    (first,) = some(1)
    client.upload([first])

    def read() -> bytes:
        raise AssertionError("it was read")

    client.upload([UploadContent(first.sha256, first.size, read)])


def test_one_that_cannot_be_read_ends_it(client: Client) -> None:
    def read() -> bytes:
        raise BrokenServerError("gone")

    with pytest.raises(BrokenServerError, match="gone"):
        client.upload([UploadContent("0" * 64, 3, read)])


def test_a_bundle_that_is_too_large_is_refused_by_name(client: Client) -> None:
    with pytest.raises(RefusedError, match="the limit is"):
        client.upload([UploadContent("0" * 64, 10**12, lambda: b"")])


class Bucket:
    """A service whose store refuses the first forms that it gives."""

    def __init__(self, refusals: int) -> None:
        self.refusals, self.upload_requests, self.held = refusals, 0, dict[str, bytes]()
        self._lock = threading.Lock()

    def connection(self) -> HttpConnection:
        transport = httpx.MockTransport(self._reply)
        return HttpConnection(
            ServerConfig("http://dti", "key"), transport=transport, sleep=lambda _: None
        )

    def _reply(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "dti":
            self.upload_requests += 1
            files = json.loads(request.content)["files"]
            return httpx.Response(200, json={"files": [self._file(each) for each in files]})
        with self._lock:
            assert "authorization" not in request.headers
            if self.refusals:
                self.refusals -= 1
                return httpx.Response(403, content=b"<Message>Policy expired</Message>")
            form = request.content
            name = form.split(b'name="key"\r\n\r\n')[1].split(b"\r\n")[0].decode()
            # What stands behind the file, S3 does not read.
            assert form.index(b'name="key"') < form.index(b'name="file"')
            self.held[name] = form
            return httpx.Response(204)

    def _file(self, file: dict[str, str]) -> dict[str, object]:
        name = file["sha256"]
        form = {"method": "POST", "url": "http://s3/bucket", "fields": {"key": name}}
        is_there = name in self.held
        return {"sha256": name, "present": is_there, "upload": None if is_there else form}


def test_an_expired_form_is_requested_again() -> None:
    bucket = Bucket(refusals=5)
    sent: list[UploadContent] = []
    with bucket.connection() as connection:
        upload(connection, some(3), on_sent=sent.append)
        assert missing(connection, some(3)) == []
    assert sorted(each.sha256 for each in sent) == sorted(bucket.held)


def test_a_store_that_refuses_every_upload_is_not_retried_for_ever() -> None:
    with (
        Bucket(refusals=10**6).connection() as connection,
        pytest.raises(UploadRefusedError, match="s3, answered 403: Policy expired"),
    ):
        upload(connection, some(3))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "does not say how"),
        ([{"sha256": some(1)[0].sha256, "present": False}], "does not say how"),
        (
            [
                {
                    "sha256": some(1)[0].sha256,
                    "present": False,
                    "upload": {"method": "PIGEON", "url": "coop"},
                }
            ],
            "PIGEON.*older than the service",
        ),
    ],
)
def test_a_server_that_breaks_the_protocol_is_an_error(files: list[object], message: str) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json={"files": files}))
    with (
        HttpConnection(ServerConfig("http://dti", "key"), transport=transport) as connection,
        pytest.raises(BrokenServerError, match=message),
    ):
        upload(connection, some(1))

"""An endpoint that is no S3 server: a console, a login page or a proxy's own page with 200."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from services.errors import AccessDeniedError, UnavailableError
from services.storage.s3 import S3Store
from services.storage.settings import S3Settings

HTML = b"<html><title>Console</title></html>"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., S3Store]]:
    """site(status, body) -> a store whose endpoint answers each request with this page."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: bytes) -> S3Store:
        class Site(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_PUT = do_DELETE = do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        servers.append(server := ThreadingHTTPServer(("127.0.0.1", 0), Site))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        settings = S3Settings(
            bucket="bucket",
            prefix="",
            endpoint=f"http://127.0.0.1:{server.server_address[1]}",
            region="us-east-1",
            addressing_style="path",
            max_attempts=1,
        )
        return S3Store(settings)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


CALLS: dict[str, Callable[[S3Store], object]] = {
    "list": lambda store: store.list(),
    "read": lambda store: store.read("a"),
    "create": lambda store: store.create("a", b"x"),
    "replace": lambda store: store.replace("a", b"x", expected="1"),
    "put": lambda store: store.put("a", b"x"),
    "delete": lambda store: store.delete("a"),
    "delete_if": lambda store: store.delete_if("a", expected="1"),
}


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, HTML), (200, b"<p>not XML"), (200, b""), (200, b'{"status":"ok"}'), (404, HTML)],
)
def test_no_page_is_taken_for_an_answer(
    site: Callable[..., S3Store], status: int, body: bytes
) -> None:
    store = site(status, body)
    # botocore itself takes 200 without XML for an error that S3 found out late.
    words = "no answer of an S3 server.*DTI_S3_ENDPOINT|HTTP 500"
    for call in CALLS.values():
        with pytest.raises(UnavailableError, match=words):
            call(store)


def test_a_page_is_no_object(site: Callable[..., S3Store]) -> None:
    with pytest.raises(UnavailableError, match="no answer of an S3 server"):
        site(200, HTML).head("a")


@pytest.mark.parametrize("sign", ["presigned_get", "presigned_post"])
def test_signing_without_credentials_is_an_error_of_ours(
    site: Callable[..., S3Store], monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    store: Any = site(200, HTML)
    options = {"max_bytes": 1} if sign == "presigned_post" else {}
    with pytest.raises(AccessDeniedError, match="credentials"):
        getattr(store, sign)("a", expires_s=60, **options)

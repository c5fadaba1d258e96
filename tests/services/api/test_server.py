"""The edge of the HTTP server: raw requests over a socket, and a store that does not answer."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx2 as httpx
import pytest
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from services import logs
from services.api.app import create_app
from services.api.images.store import ImageStore, SignedLinks
from services.api.server import Server
from services.auth.keys import create_key
from services.contracts.models import MINIATURE
from services.ledger.ledger import Ledger
from services.metrics import PrometheusMetrics
from services.settings import ApiProcessSettings, ApiSettings, ServerSettings
from services.storage.memory import MemoryStore

IMAGE = '{"prompt": "a dog"}'
"""A request that is answered 503 once it has been read, since there are no engines."""


def _base_url(request: Request) -> PlainTextResponse:
    """Return the URL that links of the service begin with."""
    return PlainTextResponse(str(request.base_url))


@contextmanager
def serving(
    store: MemoryStore,
    upload_timeout_s: float = 300,
    counted: PrometheusMetrics | None = None,
    **settings: Any,
) -> Iterator[Server]:
    limits = ApiSettings(store_timeout_s=1, upload_timeout_s=upload_timeout_s)
    app = create_app(Ledger.open(store), MINIATURE, settings=limits, metrics=counted)
    app.add_route("/base-url", _base_url)
    server = Server(app, ServerSettings(port=0, **settings), grace_s=2)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server
    finally:
        server.release()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def address(server: Server) -> tuple[str, int]:
    return server.servers[0].sockets[0].getsockname()[:2]


def exchange(server: Server, *packets: str, seconds: float = 1.0) -> str:
    """Send packets with a pause between them; return all that comes within some seconds."""
    with socket.create_connection(address(server)) as connection:
        for packet in packets:
            connection.sendall(packet.encode())
            time.sleep(0.1)
        connection.settimeout(seconds)
        received = b""
        try:
            while data := connection.recv(65536):
                received += data
        except TimeoutError:
            pass
        return received.decode()


SMUGGLED = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ("Upgrade: x\r\nConnection: Upgrade", SMUGGLED, 401),
        ("Upgrade: websocket\r\nConnection: Upgrade", SMUGGLED, 401),
        (
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk",
            "",
            401,
        ),
        ("Authorization: Bearer {key}\r\nUpgrade: h2c\r\nConnection: Upgrade", IMAGE, 503),
        ("Authorization: Bearer {key}\r\nUpgrade: websocket\r\nConnection: Upgrade", IMAGE, 503),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", "0\r\n\r\n" + SMUGGLED, 400),
        ("Transfer-Encoding: xchunked", "0\r\n\r\n" + SMUGGLED, 400),
    ],
)
def test_a_request_with_a_body_in_a_second_packet_has_one_answer(
    headers: str, body: str, status: int
) -> None:
    store = MemoryStore()
    key = create_key(store, "acme").credential
    length = "" if "Transfer" in headers else f"Content-Length: {len(body)}\r\n"
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\n{length}{headers}\r\n\r\n"
    with serving(store) as server:
        answer = exchange(server, head.format(key=key), body)
    assert answer.count("HTTP/1.1 ") == 1, answer
    assert answer.startswith(f"HTTP/1.1 {status} ")


@pytest.mark.parametrize(
    ("lengths", "method"),
    [
        ("Content-Length: 1\r\nContent-Length: 2", "other"),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", "POST"),
    ],
)
def test_a_request_with_two_lengths_is_refused_and_logged(
    lengths: str, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("api", as_json=True)
    counted = PrometheusMetrics(process="api")
    with serving(MemoryStore(), counted=counted) as server:
        answer = exchange(server, f"POST /v1/uploads HTTP/1.1\r\nHost: a\r\n{lengths}\r\n\r\n0")
    assert answer.startswith("HTTP/1.1 400 ")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (logged,) = [line for line in lines if line["event"] == "request"]
    assert (logged["method"], logged["status"]) == (method, 400)
    series = 'dti_http_requests_total{method="other",route="other",status="4xx"} 1.0'
    assert series in counted.exposition()[0].decode()


def test_a_post_that_offers_http_2_is_carried_out() -> None:
    store = MemoryStore()
    key = create_key(store, "acme").credential
    body = '{"subjects": [{"id": "rex", "bundle": "%s"}]}' % ("0" * 64)
    head = (
        "POST /v1/training-jobs HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        f"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nAuthorization: Bearer {key}\r\n"
        f"Idempotency-Key: one\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with serving(store) as server:
        assert exchange(server, head, body).startswith("HTTP/1.1 202 ")


def test_an_idle_connection_is_kept_for_longer_than_proxies_keep_it() -> None:
    assert ServerSettings().connection_idle_timeout_s > 60
    with serving(MemoryStore(), connection_idle_timeout_s=1) as server:
        began = time.monotonic()
        assert "200 OK" in exchange(server, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", seconds=10)
        assert 1 <= time.monotonic() - began < 5


@pytest.mark.parametrize("head", ["", "GET /healthz HTTP/1.1\r\nHost:"])
def test_a_connection_whose_request_does_not_begin_is_closed(head: str) -> None:
    with serving(MemoryStore(), request_head_timeout_s=0.5) as server:
        began = time.monotonic()
        assert exchange(server, head, seconds=10) == ""
        assert time.monotonic() - began < 5


def test_a_client_that_dribbles_its_headers_is_closed_in_time() -> None:
    def dribble() -> None:
        for _ in range(50):
            connection.sendall(b"A: b\r\n")
            time.sleep(0.1)

    with (
        serving(MemoryStore(), request_head_timeout_s=0.5) as server,
        socket.create_connection(address(server)) as connection,
    ):
        connection.sendall(b"GET /healthz HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            dribble()


def test_a_body_may_take_longer_than_the_headers() -> None:
    store = MemoryStore()
    key = create_key(store, "acme").credential
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(IMAGE)}\r\n\r\n"
    )
    with serving(store, request_head_timeout_s=0.2) as server:
        assert "HTTP/1.1 503" in exchange(server, head, *IMAGE)


REFUSED = "POST /v1/training-jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
"""A request without a key, which is answered before its body is read."""


@pytest.mark.parametrize("packets", [[], ["x"], list("x" * 30)])
def test_a_refused_request_whose_body_does_not_end_is_closed(packets: list[str]) -> None:
    with (
        serving(MemoryStore(), request_head_timeout_s=0.5) as server,
        socket.create_connection(address(server), timeout=10) as connection,
    ):
        began = time.monotonic()
        connection.sendall(REFUSED.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")
        with suppress(ConnectionError):
            for packet in packets:
                connection.sendall(packet.encode())
                time.sleep(0.05)
            assert connection.recv(1) == b""
        assert time.monotonic() - began < 5


def test_a_connection_stays_open_after_the_whole_body_of_a_refused_request() -> None:
    with serving(MemoryStore(), request_head_timeout_s=0.3, connection_idle_timeout_s=2) as server:
        began = time.monotonic()
        answers = exchange(server, REFUSED, "x" * 50, "x" * 50, *[""] * 6, SMUGGLED, seconds=10)
        assert answers.count("HTTP/1.1 401 ") == answers.count("HTTP/1.1 200 ") == 1
        assert 2 <= time.monotonic() - began < 8


@pytest.mark.parametrize(
    "target", ["POST /v1/images/generations", "POST /v1/uploads", f"PUT /v1/uploads/{'0' * 64}"]
)
def test_a_body_that_does_not_arrive_in_time_is_a_problem(target: str) -> None:
    store = MemoryStore()
    key = create_key(store, "acme").credential
    head = (
        f"{target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    )
    with serving(store, upload_timeout_s=0.3, request_head_timeout_s=0.5) as server:
        answer = exchange(server, head, *"{     ", seconds=10)
    assert answer.startswith("HTTP/1.1 408 "), answer
    assert "the body took longer than 0.3 s" in answer
    assert "urn:dti:problem:timeout" in answer


def test_a_head_without_an_end_is_refused() -> None:
    with (
        serving(MemoryStore()) as server,
        socket.create_connection(address(server), timeout=10) as connection,
    ):
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: ")
        sent = 0
        with suppress(ConnectionError):
            while sent < 20_000_000:
                connection.sendall(b"x" * 100_000)
                sent += 100_000
        assert sent < 10_000_000


def test_connections_that_ask_nothing_make_room_for_requests() -> None:
    with serving(MemoryStore(), max_connections=10) as server, ExitStack() as stack:
        for number in range(30):
            idle = stack.enter_context(socket.create_connection(address(server)))
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\n" if number % 2 else b"")
        assert "200 OK" in exchange(server, SMUGGLED, seconds=0.2)
        assert len(server.places) <= 5


def test_an_address_that_is_no_proxy_has_a_limit_of_its_own() -> None:
    with (
        serving(MemoryStore(), trusted_proxies="10.0.0.1", max_connections_per_address=3) as server,
        ExitStack() as stack,
    ):
        for _ in range(10):
            stack.enter_context(socket.create_connection(address(server)))
        assert "200 OK" in exchange(server, SMUGGLED, seconds=0.2)
        assert len(server.places) <= 3


def test_requests_in_progress_are_not_ended_for_new_connections() -> None:
    store = MemoryStore()
    key = create_key(store, "acme").credential
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Length: {len(IMAGE)}\r\n\r\n"
    )
    with serving(store, max_connections=4) as server, ExitStack() as stack:
        working = [stack.enter_context(socket.create_connection(address(server))) for _ in "ab"]
        for each in working:
            each.sendall(head.encode())
        time.sleep(0.2)
        assert "503 Service Unavailable" in exchange(server)
        for each in working:
            each.sendall(IMAGE.encode())
            assert b"retry-after: 60" in each.recv(65536)


def test_a_client_that_does_not_read_its_response_is_disconnected() -> None:
    store = MemoryStore()
    key = create_key(store, "acme").credential
    name = store_image(store, b"x" * 30_000_000)
    ask = f"GET /v1/images/{name} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n"
    with (
        serving(store, response_stall_timeout_s=0.3) as server,
        socket.socket() as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address(server))
        connection.sendall(ask.encode())
        deadline = time.monotonic() + 10
        while len(server.places) == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        while len(server.places) > 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(server.places) == 0
        assert server._app.state.service.shares.requests.used == 0


def store_image(store: MemoryStore, body: bytes) -> str:
    return ImageStore(Ledger.open(store), SignedLinks(store), 60).save("acme", body)


def test_unknown_keys_are_refused_without_a_read_after_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    known = create_key(store, "acme").credential
    reads: list[str] = []
    read = store.read

    def counted(key: str, **options: Any) -> Any:
        reads.append(key)
        return read(key, **options)

    monkeypatch.setattr(store, "read", counted)
    with serving(store) as server:
        url = "http://{}:{}/v1/models".format(*address(server))
        with httpx.Client() as client:

            def ask(key: str) -> httpx.Response:
                return client.get(url, headers={"Authorization": f"Bearer {key}"})

            assert ask(known).status_code == 200
            reads.clear()
            secret = known.rpartition("_")[2]
            statuses = [ask(f"dti_{n:016x}_{secret}").status_code for n in range(60)]
            assert statuses[:20] == [401] * 20
            assert statuses.count(429) > 30
            assert len(reads) <= 60 - statuses.count(429)
            assert ask(known).status_code == 200


class SilentStore(MemoryStore):
    """A store that takes calls and answers none while it is silent."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.answers.set()

    def read(self, *arguments: Any, **options: Any) -> Any:
        self.answers.wait(30)
        return super().read(*arguments, **options)

    def list(self, *arguments: Any, **options: Any) -> Any:
        self.answers.wait(30)
        return super().list(*arguments, **options)


def test_probes_and_metrics_are_answered_while_the_store_is_silent() -> None:
    store = SilentStore()
    key = create_key(store, "acme").credential
    with serving(store) as server:
        url = "http://{}:{}".format(*address(server))
        store.answers.clear()

        def ask() -> None:
            headers = {"Authorization": f"Bearer {key}"}
            httpx.get(f"{url}/v1/training-jobs", headers=headers, timeout=60)

        clients = [threading.Thread(target=ask) for _ in range(60)]
        for client in clients:
            client.start()
        time.sleep(1)
        try:
            for path, status in (("metrics", 200), ("healthz", 200), ("readyz", 503)):
                assert httpx.get(f"{url}/{path}", timeout=3).status_code == status, path
        finally:
            store.answers.set()
            for client in clients:
                client.join()
        assert httpx.get(f"{url}/readyz").status_code == 200


FORWARDED = (
    "X-Forwarded-Proto: https\r\nX-Forwarded-Host: x, y\r\nX-Forwarded-Host: z , images.example\r\n"
)


@pytest.mark.parametrize(
    ("trusted", "link"),
    [
        ("127.0.0.1", "https://images.example/"),
        ("10.0.0.0/8, 127.0.0.0/8", "https://images.example/"),
        ("*", "https://images.example/"),
        (" * ", "https://images.example/"),
        ("10.0.0.0/8", "http://inner/"),
        ("", "http://inner/"),
    ],
)
def test_headers_of_a_proxy_are_believed_if_it_is_trusted(trusted: str, link: str) -> None:
    with serving(MemoryStore(), trusted_proxies=trusted) as server:
        request = f"GET /base-url HTTP/1.1\r\nHost: inner\r\n{FORWARDED}\r\n"
        assert exchange(server, request).endswith(f"\r\n\r\n{link}")


def test_a_proxy_that_is_no_network_is_refused() -> None:
    with pytest.raises(ValidationError, match="nginx"):
        ServerSettings(trusted_proxies="nginx")


def test_any_proxy_is_not_one_of_several() -> None:
    with pytest.raises(ValidationError, match="give it alone"):
        ServerSettings(trusted_proxies="10.0.0.0/8, *")


def test_requests_have_longer_to_finish_than_images_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTI_STORE", "./store")
    assert ApiProcessSettings.read().grace_s == 330
    assert ApiProcessSettings.read(["--generation-timeout-s=20.5"]).grace_s == 51
    assert ApiProcessSettings.read(["--shutdown-timeout-s=7"]).grace_s == 7


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("POST /v1/training-jobs", "Content-Length: 10", 401),
        ("POST /v1/training-jobs", "Authorization: Bearer {key}\r\nContent-Length: 99999999", 413),
        (f"PUT /v1/uploads/{'0' * 64}", "Content-Length: 10", 401),
        (
            f"PUT /v1/uploads/{'0' * 64}",
            "Authorization: Bearer {key}\r\nContent-Length: 9999999999",
            413,
        ),
        ("GET /v1/models", "Authorization: Bearer {key}\r\nContent-Length: 10", 200),
    ],
)
def test_a_client_that_waits_for_100_is_refused_without_sending_its_body(
    target: str, headers: str, status: int
) -> None:
    store = MemoryStore()
    key = create_key(store, "acme").credential
    lines = headers.format(key=key)
    with (
        serving(store) as server,
        socket.create_connection(address(server), timeout=10) as connection,
    ):
        head = f"{target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{lines}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(65536).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_client_that_waits_for_100_gets_it_where_its_body_is_read() -> None:
    store = MemoryStore()
    key = create_key(store, "acme").credential
    digest = hashlib.sha256(b"image").hexdigest()
    requests = [
        (f"PUT /v1/uploads/{digest}", "image", 201),
        ("POST /v1/erasures", '{"subject": "rex"}', 200),
        ("POST /v1/images/generations", IMAGE, 503),
    ]
    with serving(store) as server:
        for target, body, status in requests:
            with socket.create_connection(address(server), timeout=10) as connection:
                connection.sendall(
                    f"{target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                    f"Authorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                )
                assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n", target
                connection.sendall(body.encode())
                assert connection.recv(65536).startswith(f"HTTP/1.1 {status} ".encode()), target

"""Jobs that end when a test lets them, sinks that note what they get, and servers to be sent to."""

import base64
import datetime as dt
import hashlib
import ipaddress
import random
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from interruptions import InterruptibleStore

from services.auth.tenants import add_tenant, read_tenant
from services.contracts.jobs import JobItem, JobRequest
from services.ledger.ids import Ids
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery
from services.ledger.submissions import submit
from services.ledger.worker import WorkerSession
from services.settings import LedgerSettings
from services.storage.memory import MemoryStore
from services.webhooks.deliverer import Deliverer
from services.webhooks.sender import DeliveryResponse
from services.webhooks.subscriptions import subscribe


class Recorder:
    """Takes messages in place of a sender."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[str], DeliveryResponse] = lambda url: DeliveryResponse(
            True, "answered 200"
        )

    def send(self, url: str, headers: dict[str, str], body: bytes) -> DeliveryResponse:
        self.sent.append((url, headers, body))
        return self.answer(url)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for _, headers, _ in self.sent]


class WebhookHarness:
    """A ledger whose clock only tests move, with webhooks for its jobs."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.chance = random.Random(7)
        self.store = InterruptibleStore(MemoryStore(self.now))
        self.recorder = Recorder()
        self.told: list[str] = []
        self.deliverers: list[Deliverer] = []
        self.ledger = Ledger(
            self.store,  # pyright: ignore
            self.store,  # pyright: ignore
            LedgerSettings(lease_s=60, poll_interval_s=2),
            Ids(lambda: self.now().timestamp(), self.chance.getrandbits),
            lambda function, over: [function(one) for one in over],
            lambda: self.seconds,
        )

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def submit(
        self, tenant: str = "acme", url: str = "https://sink.test/hook", count: int = 2, **how: Any
    ) -> str:
        add_tenant(self.store, tenant)  # pyright: ignore
        items = tuple(JobItem(name=f"item {i}", work={"number": i}) for i in range(count))
        request = JobRequest(items=items, **how)
        job = submit(self.ledger, tenant, str(self.chance.random()), request).job
        subscribe(self.store, tenant, job, url)  # pyright: ignore
        return job

    def secret(self, tenant: str = "acme") -> str:
        return read_tenant(self.store, tenant).webhook_secret  # pyright: ignore

    def end(self, *, fail: bool = False) -> None:
        """Run all jobs to their end and let the supervisor recover them."""
        worker, idle = WorkerSession(self.ledger, "default", rng=random.Random(3)), 0
        worker.begin()
        while idle < 3:
            worker.heartbeat()
            attempts = worker.claim(64)
            for attempt in attempts:
                if fail:
                    attempt.fail("its images are no images")
                else:
                    attempt.succeed(b"made", {})
            idle = 0 if attempts else idle + 1
            self.seconds += 0 if attempts else 17
        worker.end()
        self.recover()

    def recover(self) -> None:
        Recovery(self.ledger).recover()

    def deliverer(self, **how: Any) -> Deliverer:
        """Return the deliverer of one process."""
        options = {"sender": self.recorder, "on_result": self.told.append} | how
        self.deliverers.append(Deliverer(self.ledger, rng=random.Random(1), **options))
        return self.deliverers[-1]

    def deliver(self, deliverer: Deliverer | None = None) -> list[str]:
        """Run one pass to its end and return the ids of the sent messages."""
        before, one = len(self.recorder.sent), deliverer or self.deliverer()
        one.deliver_due()
        assert one.wait(20)
        return self.recorder.ids[before:]

    def hints(self) -> list[str]:
        return [head.key for head in self.store.inner.list("webhooks/").objects]


@pytest.fixture
def new_harness() -> Iterator[Callable[[], WebhookHarness]]:
    """Return a function that makes a harness, for a test that starts again and again."""
    harnesses: list[WebhookHarness] = []

    def new() -> WebhookHarness:
        harnesses.append(WebhookHarness())
        return harnesses[-1]

    yield new
    for deliverer in (deliverer for harness in harnesses for deliverer in harness.deliverers):
        deliverer.close()


@pytest.fixture
def harness(new_harness: Callable[[], WebhookHarness]) -> WebhookHarness:
    return new_harness()


class Server:
    """A real HTTP server; `respond` answers in place of a plain 204."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.respond: Callable[[Any], None] | None = None
        self.stop = threading.Event()
        """Set at the end, for answers that take their time."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.requests.append((self.path, dict(self.headers.items()), body))
                if outer.respond:
                    outer.respond(self)
                else:
                    self.send_response(204)
                    self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = False

            def get_request(self) -> Any:
                connection, address = super().get_request()
                if context is None:
                    return connection, address
                try:
                    return context.wrap_socket(connection, server_side=True), address
                except (ssl.SSLError, ConnectionError) as error:
                    connection.close()
                    raise OSError("no handshake") from error

            def handle_error(self, *_: Any) -> None:
                pass  # Whoever hangs up early is what some tests are about.

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a self-signed certificate of sink.test and 127.0.0.1 with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sink.test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("sink.test"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "sink.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls_server(authority: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    server = Server(context)
    yield server
    server.close()


@pytest.fixture
def receives() -> Callable[[str, dict[str, str], bytes], bool]:
    """Return a receiver as the specification describes it, with HMAC as RFC 2104 does."""

    def receive(secret: str, headers: dict[str, str], body: bytes) -> bool:
        lower = {name.lower(): value for name, value in headers.items()}
        kind, _, encoded = secret.partition("_")
        assert kind == "whsec"
        key = base64.b64decode(encoded).ljust(64, b"\0")
        text = lower["webhook-id"] + "." + lower["webhook-timestamp"] + "."
        inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + text.encode() + body)
        outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner.digest()).digest()
        signatures = [one.split(",") for one in lower["webhook-signature"].split(" ")]
        return ["v1", base64.b64encode(outer).decode()] in signatures

    return receive

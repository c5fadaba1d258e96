"""One HTTP request: what the target gets, what counts as delivered, and the SSRF policy."""

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from services.webhooks.sender import WebhookSender
from services.webhooks.targets import WebhookSettings

_LOCAL = WebhookSettings(allow_http=True, allow_private=True, timeout_s=5)
_HASTY = _LOCAL.model_copy(update={"timeout_s": 0.5})
_HEADERS = {"webhook-id": "msg_1"}


def _here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def _sender(settings: WebhookSettings = _LOCAL, **how: Any) -> WebhookSender:
    return WebhookSender(settings, **({"resolve": _here} | how))


def _answering(status: int, **headers: str) -> Any:
    def respond(handler: Any) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return respond


def test_the_target_gets_the_message_and_its_host(server: Any) -> None:
    answer = _sender().send(f"http://sink.test:{server.port}/hook?a=b", _HEADERS, b'{"x": 1}')
    assert (answer.delivered, answer.reason) == (True, "responded 204")
    ((path, headers, body),) = server.requests
    assert (path, body) == ("/hook?a=b", b'{"x": 1}')
    lower = {name.lower(): value for name, value in headers.items()}
    assert lower["host"] == f"sink.test:{server.port}"
    assert lower["content-type"] == "application/json"
    assert lower["webhook-id"] == "msg_1"
    assert lower["user-agent"].startswith("dti-webhooks/")


@pytest.mark.parametrize(
    ("status", "delivered", "is_gone"),
    [
        *((200, True, False), (204, True, False), (299, True, False), (304, False, False)),
        *((400, False, False), (410, False, True), (429, False, False), (500, False, False)),
    ],
)
def test_only_2xx_counts_as_delivered(
    server: Any, status: int, delivered: bool, is_gone: bool
) -> None:
    server.respond = _answering(status)
    answer = _sender().send(f"http://sink.test:{server.port}/", _HEADERS, b"{}")
    assert (answer.delivered, answer.gone) == (delivered, is_gone)
    assert answer.reason == f"responded {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: Any, status: int) -> None:
    server.respond = _answering(status, location=f"http://127.0.0.1:{server.port}/inside")
    answer = _sender().send(f"http://sink.test:{server.port}/", _HEADERS, b"{}")
    assert (answer.delivered, answer.reason) == (False, f"responded {status}")
    assert [path for path, _, _ in server.requests] == ["/"]


def test_proxies_of_the_environment_are_not_used(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert _sender().send(f"http://sink.test:{server.port}/", _HEADERS, b"{}").delivered


def test_tls_verifies_the_name_at_the_resolved_address(tls_server: Any, authority: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(authority))
    sender = _sender(tls=trusting)
    assert sender.send(f"https://sink.test:{tls_server.port}/", _HEADERS, b"{}").delivered
    assert sender.send(f"https://127.0.0.1:{tls_server.port}/", _HEADERS, b"{}").delivered
    count = len(tls_server.requests)
    other = sender.send(f"https://other.test:{tls_server.port}/", _HEADERS, b"{}")
    unknown = _sender().send(f"https://sink.test:{tls_server.port}/", _HEADERS, b"{}")
    for answer in (other, unknown):
        assert (answer.delivered, answer.reason) == (False, "the certificate or TLS was refused")
    assert len(tls_server.requests) == count


def test_nothing_is_sent_to_private_addresses(server: Any) -> None:
    for addresses in (["127.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::ffff:127.0.0.1"]):
        sender = _sender(WebhookSettings(allow_http=True), resolve=lambda *_, a=addresses: a)
        answer = sender.send(f"http://sink.test:{server.port}/", _HEADERS, b"{}")
        assert not answer.delivered
        assert "sink.test has an address that is not public" in answer.reason
        assert "127.0.0.1" not in answer.reason
    assert server.connections == 0


def test_dns_rebinding_has_no_effect(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name resolves to a public address first, and to this host later.

    It is resolved once for each delivery, and the connection goes to that address.
    """
    lines: list[str] = []
    reached: list[Any] = []

    def rebinding(host: str, port: int) -> list[str]:
        lines.append("127.0.0.1" if lines else "93.184.216.34")
        return [lines[-1]]

    def unreachable(address: Any, *_: Any, **__: Any) -> Any:
        reached.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", unreachable)
    sender = _sender(WebhookSettings(allow_http=True), resolve=rebinding)
    url = f"http://sink.test:{server.port}/"
    assert sender.send(url, _HEADERS, b"{}").reason == "the connection failed"
    assert lines == ["93.184.216.34"]
    assert reached == [("93.184.216.34", server.port)]
    assert "not public" in sender.send(url, _HEADERS, b"{}").reason
    assert len(reached) == 1
    assert server.connections == 0


def test_the_peer_address_is_checked_before_a_byte_is_sent(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was that led the connection elsewhere."""
    real = socket.create_connection

    def led_astray(address: Any, *args: Any, **how: Any) -> Any:
        return real(("127.0.0.1", server.port), *args, **how)

    monkeypatch.setattr(socket, "create_connection", led_astray)
    sender = _sender(WebhookSettings(allow_http=True), resolve=lambda *_: ["93.184.216.34"])
    answer = sender.send(f"http://sink.test:{server.port}/", _HEADERS, b"{}")
    assert "not public" in answer.reason
    assert server.requests == []


def test_the_next_address_is_tried_if_one_does_not_answer(server: Any) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", 0))
        port = listener.getsockname()[1]
        sender = _sender(resolve=lambda *_: ["127.0.0.2", "127.0.0.1"])
        assert sender.send(f"http://sink.test:{server.port}/", _HEADERS, b"{}").delivered
        answer = sender.send(f"http://sink.test:{port}/", _HEADERS, b"{}")
    assert answer.reason == "the connection failed"


def test_an_unknown_name_is_a_failed_attempt(server: Any) -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror(-2, "Name or service not known")

    for sender, host in (
        (_sender(resolve=nowhere), "sink.test"),
        (_sender(resolve=lambda *_: []), "sink.test"),
        (WebhookSender(_LOCAL), "a" * 70),
    ):
        assert sender.send(f"http://{host}/", _HEADERS, b"{}").reason == "the connection failed"


def test_a_silent_target_is_left_at_the_deadline(server: Any) -> None:
    server.respond = lambda handler: server.stop.wait(30)
    answer = _sender(_HASTY).send(f"http://sink.test:{server.port}/", _HEADERS, b"{}")
    assert (answer.delivered, answer.reason) == (False, "no response within 0.5 seconds")


def test_a_slow_drip_is_left_at_the_same_deadline(server: Any) -> None:
    """Each byte is in time; all together are not."""

    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
        for _ in range(200):
            server.stop.wait(0.05)
            handler.wfile.write(b"z")
            handler.wfile.flush()

    server.respond = drip
    answer = _sender(_HASTY).send(f"http://sink.test:{server.port}/", _HEADERS, b"{}")
    assert answer.reason == "no response within 0.5 seconds"


def test_an_endless_body_is_not_read(server: Any) -> None:
    is_gone = threading.Event()

    def pour(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not server.stop.is_set():
                handler.wfile.write(b"z" * 65536)
        except OSError:
            is_gone.set()

    server.respond = pour
    assert _sender().send(f"http://sink.test:{server.port}/", _HEADERS, b"{}").delivered
    assert is_gone.wait(10)


def test_a_head_is_read_no_further_than_64_kib(server: Any) -> None:
    hints = 100

    def pour(handler: Any) -> None:
        for _ in range(hints):  # Answers before the answer, of which there may be any number.
            handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\nx: " + b"y" * 1000 + b"\r\n\r\n")
        handler.wfile.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    server.respond = pour
    sender, url = _sender(), f"http://sink.test:{server.port}/"
    assert sender.send(url, _HEADERS, b"{}").reason.startswith("the connection was closed")
    hints = 10
    assert sender.send(url, _HEADERS, b"{}").delivered


@pytest.mark.parametrize(
    "lines", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/9.9 abc\r\n\r\n", b"\0" * 99]
)
def test_a_response_that_is_not_http_is_a_failed_attempt(server: Any, lines: bytes) -> None:
    server.respond = lambda handler: handler.wfile.write(lines)
    answer = _sender().send(f"http://sink.test:{server.port}/", _HEADERS, b"{}")
    assert answer.reason == "the connection was closed, or the response was not HTTP"


def test_the_url_is_checked_again_at_each_attempt(server: Any) -> None:
    answer = WebhookSender(WebhookSettings()).send(
        f"http://127.0.0.1:{server.port}/", _HEADERS, b"{}"
    )
    assert answer.reason.startswith("not sent: ")
    assert server.connections == 0

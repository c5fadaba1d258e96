"""The service on machines that are not a developer's. Each test is named by what is different.

Others stand beside the code: a user without a home folder and a home that cannot be written in
`client/test_config.py` and `cli/test_serve.py`, a time of day that jumps in
`storage/test_directory_clock.py` and `ledger/test_takeover.py`, a restored copy of a store in
`ledger/test_submissions.py`, and a full disk in `storage/test_full_disk.py`.
"""

import http.server
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dti_engine.errors import OutputError
from services.auth.keys import create_key
from services.cli.serve import (
    _announce,
    _await_start,
    _check_form,
    _known_key,
    _log_folder,
    _say_if_possible,
    _stop_on_signals,
)
from services.client.config import ServerConfig
from services.client.http import HttpConnection
from services.errors import SettingsError
from services.local.host import local_url, process_environment, require_free, short_folder
from services.local.service import LocalService, LocalServiceSettings, NotReadyError, free_port
from services.storage.directory import DirectoryStore

_DEAD_PROXY = "http://127.0.0.1:9"


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a proxy that leads nowhere, without exceptions."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, _DEAD_PROXY)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Return a function that sets the umask, which is reset in the end."""
    before = os.umask(0o022)
    yield lambda mask: (os.umask(mask), None)[1]
    os.umask(before)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Callable[..., LocalService]]:
    """Provide a function that prepares a local service, and starts nothing."""
    # Ray's sockets need a short path.
    folder = tempfile.TemporaryDirectory(prefix="dti-", dir=short_folder())

    def prepare(environment: Mapping[str, str] | None = None, **settings: Any) -> LocalService:
        return LocalService(
            LocalServiceSettings(store=str(tmp_path / "store"), **settings),
            environment=os.environ if environment is None else environment,
            folder=Path(folder.name),
        )

    yield prepare
    folder.cleanup()


class _Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """Serve 200 for each request at this port of the host."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.usefixtures("proxied")
def test_a_proxy_is_not_asked_for_this_host(
    port: int, service: Callable[..., LocalService]
) -> None:
    local = service(port=port)
    local.api.log.write_text("ready\n")
    assert local._api_is_ready()
    here, other = f"http://127.0.0.1:{port}", "http://service.example"
    for server in (here, other):  # a store on this host, and a service that is elsewhere
        with HttpConnection(ServerConfig(server, "key"), retry_for_s=0) as connection:
            assert connection.request("GET", f"{here}/uploads").status_code == 200
    inherited = process_environment(os.environ)
    assert inherited["HTTP_PROXY"] == _DEAD_PROXY
    assert inherited["no_proxy"] == inherited["NO_PROXY"] == "localhost,127.0.0.1,::1"


def test_exceptions_from_a_proxy_are_kept() -> None:
    environment = process_environment({"NO_PROXY": "store.internal, 127.0.0.1"})
    assert environment["NO_PROXY"] == "store.internal,127.0.0.1,localhost,::1"


def test_another_ray_cluster_is_not_joined(service: Callable[..., LocalService]) -> None:
    local = service({"RAY_ADDRESS": "10.0.0.1:6379", "RAY_NAMESPACE": "other", "PATH": "/bin"})
    for process in local._processes():
        environment, arguments = process.command.environment, process.command.arguments
        assert not environment.keys() & {"RAY_ADDRESS", "RAY_NAMESPACE"}
        assert environment["PATH"] == "/bin"
        assert not any("10.0.0.1" in argument for argument in arguments)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_store_is_its_owners_alone_whatever_the_umask(
    tmp_path: Path, umask: Callable[[int], None], mask: int
) -> None:
    umask(mask)
    store = DirectoryStore(tmp_path / "above" / "store")
    store.create("a/b", b"bytes")
    store.put("a/b", b"others")
    store.delete("a/b")
    store.create("a/c", b"bytes")
    for path in (tmp_path / "above").rglob("*"):
        if not path.is_symlink():
            mode = stat.S_IMODE(path.stat().st_mode)
            # The bytes of superseded versions are gone; their files cannot be read.
            assert mode in ((0o700,) if path.is_dir() else (0o600, 0o200)), path
    assert stat.S_IMODE((tmp_path / "above").stat().st_mode) == 0o700


def test_a_port_that_is_taken_is_said_before_anything_starts(
    port: int, service: Callable[..., LocalService]
) -> None:
    local = service(port=port)
    with pytest.raises(SettingsError, match=rf"port {port} .*--port"):
        local.__enter__()
    assert [process.starts for process in local._processes()] == [0] * 5


def test_a_port_that_another_service_takes_meanwhile_is_not_taken_for_ours(
    port: int, service: Callable[..., LocalService]
) -> None:
    local = service(port=port)
    assert not local._api_is_ready()
    local.api.log.write_text('{"event": "[Errno 98] ...: address already in use"}\n')
    with pytest.raises(SettingsError, match=f"took port {port}.*another --port"):
        local._api_is_ready()


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_of_another_host_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="--host"):
        require_free(host, free_port())


def test_two_services_of_a_host_have_ports_and_secrets_of_their_own(
    service: Callable[..., LocalService],
) -> None:
    first, second = service(), service()
    ranges = [range(each._worker_ports, each._worker_ports + 100) for each in (first, second)]
    for each in (first, second):
        ports = {each._ray_port, each._engine_port, each._metrics_port}
        assert len(ports) == 3
        assert not any(port in numbers for port in ports for numbers in ranges)
    assert first._environment["RAY_AUTH_TOKEN"] != second._environment["RAY_AUTH_TOKEN"]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("10.1.2.3", "http://10.1.2.3:8000"),
        ("fd00::1", "http://[fd00::1]:8000"),
    ],
)
def test_a_service_for_other_hosts_is_reached_from_this_one(host: str, url: str) -> None:
    assert local_url(host, 8000) == url


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "10.1.2.3"])
def test_what_other_hosts_reach_is_said(
    service: Callable[..., LocalService],
    host: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    local = service(host=host)
    assert f"--host={host}" in local.api.command.arguments
    _announce(local, "dti_key")
    said = " ".join(capsys.readouterr().err.split())
    is_exposed = host in ("0.0.0.0", "10.1.2.3")
    assert ("requires an API key" in said) == is_exposed
    assert ("/metrics, /docs and signed links do not" in said) == is_exposed


@pytest.mark.parametrize("allowed", [False, True])
def test_webhooks_to_private_addresses_are_the_operators_choice(
    service: Callable[..., LocalService], allowed: bool
) -> None:
    local = service(allow_private_webhooks=allowed)
    for process in (local.api, local.supervisor):
        assert ("--allow-private-webhooks" in process.command.arguments) == allowed


def test_a_slow_start_says_what_it_waits_for(
    service: Callable[..., LocalService], capsys: pytest.CaptureFixture[str]
) -> None:
    local = service(port=free_port())
    with pytest.raises(NotReadyError, match=r"waited 0\.2 s for the API to answer.*slow disk.*--s"):
        _await_start(local, 0.2, threading.Event())
    local._api_is_ready = lambda: True  # pyright: ignore[reportAttributeAccessIssue]
    local.supervisor.log.write_text("ready\n")
    local.supervisor._log_start = 0
    with pytest.raises(NotReadyError, match=r"for engines to load the weights of the models"):
        _await_start(local, 0.2, threading.Event())
    said = capsys.readouterr().err
    for awaited in ("the API to answer", "the Ray node", "engines to load the weights"):
        assert f"waiting for {awaited}" in said


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the handlers of signals in the end. The tests themselves may run under nohup."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_that_closes_stops_the_service_as_ctrl_c_does(number: signal.Signals) -> None:
    stopped = _stop_on_signals()
    assert not stopped.is_set()
    os.kill(os.getpid(), number)
    assert stopped.wait(5)


@pytest.mark.usefixtures("handlers")
def test_with_nohup_the_service_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopped = _stop_on_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stopped.wait(0.05)


def test_a_terminal_that_has_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(text: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("services.cli.serve.say", gone)
    _say_if_possible("stopped")


def test_a_folder_for_logs_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*file/logs': Not a directory"):
        _log_folder(tmp_path / "file" / "logs")


@pytest.mark.parametrize("key", ["dti_short", "sk-123", " ", f"dti_{'a' * 16}_{'b' * 51}"])
def test_an_api_key_of_a_wrong_form_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SettingsError, match=f"has {len(key)} characters.*DTI_API_KEY") as caught:
        _check_form(key)
    assert key == " " or key not in str(caught.value)


def test_an_api_key_of_another_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    store = DirectoryStore(tmp_path / "store")
    known = create_key(store, "acme", "a key").credential
    _check_form(known)
    assert _known_key(store, known) == known
    assert _known_key(store, None) is None
    other = create_key(DirectoryStore(tmp_path / "other"), "acme", "a key").credential
    with pytest.raises(SettingsError, match="does not know the API key"):
        _known_key(store, other)

"""The whole service on one machine: its processes, their ports, and what is kept of Ray's logs."""

import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import httpx
from pydantic import Field

from services.errors import ServiceError, SettingsError
from services.local.processes import Command, SupervisedProcess
from services.settings import LedgerSettings

_HOST = "127.0.0.1"
_OBJECT_STORE_BYTES = 100_000_000
"""Ray's smallest object store. The service sends nothing through it."""

_WORKER_PORTS = 100
_MAX_PATH_LENGTH = 40
"""The longest path of Ray's folder: Ray makes sockets 65 characters below it, and the path of a
socket has at most 107.
"""

_DRAIN_TIMEOUT_S = 60.0
_MAX_LOG_BYTES = 2_000_000
_MAX_LOGS_BYTES = 50_000_000


class NotReadyError(ServiceError):
    """The service did not become ready in time."""


class LocalServiceSettings(LedgerSettings):
    """The settings of `dti serve`. Intervals are short, because everything is on one machine."""

    store: str
    port: int = 8000
    models: Path | None = None
    cpus: int = Field(default_factory=lambda: os.cpu_count() or 1)
    lease_s: float = 20
    poll_interval_s: float = 0.5
    checkpoint_interval_s: float = 15
    reconcile_interval_s: float = 1
    idle_timeout_s: float = 600
    engines: bool = True
    """Whether to serve images, too."""


class LocalService:
    """Runs the service while it is entered, and restarts each process that ends."""

    def __init__(
        self,
        settings: LocalServiceSettings,
        environment: Mapping[str, str] = os.environ,
        folder: Path | None = None,
    ) -> None:
        """Prepare the processes without starting them.

        folder: for logs and Ray's own files, with a short path; None: a new one.
        """
        self.settings = settings
        self.url = f"http://{_HOST}:{settings.port}"
        self.folder = folder or Path(tempfile.mkdtemp(prefix="dti-", dir=_short_folder()))
        self._environment = _environment(environment)
        self._worker_ports = free_port(count=_WORKER_PORTS)
        self._ray_port, self._engine_port = self._other_port(), self._other_port()
        self._metrics_port = self._other_port()
        self.node = self._supervised(self._node())
        self.api = self._supervised(self._api())
        self.supervisor = self._supervised(self._supervisor())
        self.engines = self._supervised(self._engines())
        self.dispatcher = self._supervised(self._dispatcher())

    @property
    def metrics_urls(self) -> tuple[str, str]:
        """Where metrics are read: those of the API, and those of everything on Ray."""
        return f"{self.url}/metrics", f"http://{_HOST}:{self._metrics_port}/metrics"

    def __enter__(self) -> "LocalService":
        if len(str(self.folder)) > _MAX_PATH_LENGTH:
            raise SettingsError(
                f"{str(self.folder)!r} is too long a path for the sockets that Ray makes there: "
                f"give one of at most {_MAX_PATH_LENGTH} characters"
            )
        if not _is_free(self.settings.port):
            raise SettingsError(
                f"port {self.settings.port} is taken: stop what listens there, or give another "
                "--port"
            )
        for process in self._processes():
            process.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop in the reverse order of the start.

        The supervisor drains the workers, so that nothing they have learned is lost, and requests
        for images end before the engines do.
        """
        for process in reversed(self._processes()):
            process.stop()
        with suppress(OSError):  # such as a full disk
            keep_logs(self.folder / "ray", self.folder / "workers")
        shutil.rmtree(self.folder / "ray", ignore_errors=True)

    def wait_until_ready(
        self,
        timeout_s: float = 60,
        *,
        on_wait: Callable[[str], None] = lambda name: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until jobs can be submitted and are worked on, or until `stopped` says so.

        Raises: NotReadyError.
        """
        deadline = time.monotonic() + timeout_s
        for name, process, is_ready in (
            ("API", self.api, self._api_is_ready),
            ("supervisor", self.supervisor, lambda: _printed_ready(self.supervisor)),
            ("engines", self.engines, lambda: _printed_ready(self.engines)),
        ):
            if process not in self._processes():
                continue
            on_wait(name)
            while not is_ready() and not stopped():
                if time.monotonic() > deadline:
                    raise NotReadyError(
                        f"{name}: not ready after {timeout_s:g} s; the end of "
                        f"{str(process.log)!r}:\n{process.tail()}\nand of "
                        f"{str(self.node.log)!r}:\n{self.node.tail()}"
                    )
                time.sleep(0.1)

    def _api_is_ready(self) -> bool:
        try:
            # Not by a proxy of the environment, which would look for 127.0.0.1 on its own host.
            answer = httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False)
            return answer.status_code == 200
        except httpx.HTTPError:
            return False

    def _processes(self) -> list[SupervisedProcess]:
        """Return the processes in the order of their start."""
        generation = [self.engines, self.dispatcher] if self.settings.engines else []
        return [self.node, *generation, self.api, self.supervisor]

    def _supervised(self, command: Command) -> SupervisedProcess:
        return SupervisedProcess(command, self.folder / f"{command.name}.log")

    def _other_port(self) -> int:
        """Return a free port that is not reserved for Ray's workers."""
        while True:
            port = free_port()
            if not 0 <= port - self._worker_ports < _WORKER_PORTS:
                return port

    def _node(self) -> Command:
        first = self._worker_ports
        options = _flags(
            node_ip_address=_HOST,
            port=self._ray_port,
            min_worker_port=first,
            max_worker_port=first + _WORKER_PORTS - 1,
            metrics_export_port=self._metrics_port,
            num_cpus=self.settings.cpus,
            object_store_memory=_OBJECT_STORE_BYTES,
            temp_dir=self.folder / "ray",
            include_dashboard="false",
        )
        start = (sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block")
        arguments = [*start, *options, "--disable-usage-stats"]
        return Command("node", arguments, self._environment, kill_group=True)

    def _api(self) -> Command:
        return self._command(
            "api",
            "services.api",
            host=_HOST,
            port=self.settings.port,
            lease_s=self.settings.lease_s,
            # Before the grace period ends, so that the API itself ends what still waits.
            shutdown_timeout_s=15,
            engines_url=self._engines_url if self.settings.engines else None,
            # As the supervisor sends them: a private address of this machine is its owner's own.
            allow_private_webhooks=True,
        )

    @property
    def _engines_url(self) -> str:
        return f"http://{_HOST}:{self._engine_port}/engines"

    def _supervisor(self) -> Command:
        settings = self.settings
        return self._command(
            "supervisor",
            "services.supervisor",
            # Longer than draining, which the supervisor does before it ends.
            grace_s=_DRAIN_TIMEOUT_S + 30,
            ray_address=f"{_HOST}:{self._ray_port}",
            node_ip=_HOST,
            lease_s=settings.lease_s,
            poll_interval_s=settings.poll_interval_s,
            checkpoint_interval_s=settings.checkpoint_interval_s,
            reconcile_interval_s=settings.reconcile_interval_s,
            idle_timeout_s=settings.idle_timeout_s,
            threads=self._threads,
            allow_private_webhooks=True,
            drain_timeout_s=_DRAIN_TIMEOUT_S,
        )

    def _engines(self) -> Command:
        return self._command(
            "engines",
            "services.inference",
            "deploy",
            ray_address=f"{_HOST}:{self._ray_port}",
            node_ip=_HOST,
            host=_HOST,
            port=self._engine_port,
            threads=self._threads,
        )

    def _dispatcher(self) -> Command:
        return self._command(
            "dispatcher",
            "services.dispatch",
            engines_url=self._engines_url,
            lease_s=self.settings.lease_s,
            poll_interval_s=self.settings.poll_interval_s,
        )

    @property
    def _threads(self) -> int:
        # Half of the cores. torch's threads wait for each other at every step, so that all of them
        # wait if one core is busy with something else.
        return max(1, self.settings.cpus // 2)

    def _command(
        self, name: str, module: str, *words: str, grace_s: float = 20, **flags: object
    ) -> Command:
        shared = _flags(store=self.settings.store, models=self.settings.models)
        arguments = [sys.executable, "-m", module, *words, *shared, *_flags(**flags)]
        return Command(name, arguments, self._environment, grace_s)


def _flags(**values: object) -> list[str]:
    """Return settings as flags. None is left out; True is a flag without a value."""
    given = {f"--{name.replace('_', '-')}": value for name, value in values.items()}
    return [
        flag if value is True else f"{flag}={value}"
        for flag, value in given.items()
        if value is not None
    ]


def _printed_ready(process: SupervisedProcess) -> bool:
    return "\nready\n" in "\n" + process.output()


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    return {
        **{name: value for name, value in inherited.items() if name != "DTI_API_KEY"},
        # Access to the ports of Ray allows running code, so Ray requires this token of all clients.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "DTI_ENGINE_SECRET": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # The supervisor drains the workers before the node stops, so that Ray need not wait.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PYTHONUNBUFFERED": "1",
    }


def _short_folder() -> str | None:
    """Return a parent for temporary folders; that of a Mac has too long a path."""
    return "/tmp" if os.path.isdir("/tmp") else None


def free_port(count: int = 1) -> int:
    """Return a port that nothing listens on; with `count`, the first of a range of them."""
    while True:
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            port: int = probe.getsockname()[1]
        if port + count < 65536 and all(map(_is_free, range(port, port + count))):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) != 0


def keep_logs(ray: Path, folder: Path) -> None:
    """Copy the logs of workers and engines out of Ray's folder, which is deleted at the end.

    The end of each log is kept, and of all logs, with those of earlier runs, the newest. A log that
    cannot be read is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for log in _ray_logs(ray):
        with suppress(OSError):
            _copy_end(log, folder / log.name)
    left = _MAX_LOGS_BYTES
    for log in sorted(folder.iterdir(), key=lambda log: log.stat().st_mtime, reverse=True):
        left -= log.stat().st_size
        if left < 0:
            log.unlink()


def _ray_logs(ray: Path) -> Iterator[Path]:
    for session in ray.glob("session_*"):
        if not session.is_symlink():  # such as session_latest
            for pattern in ("worker-*.out", "worker-*.err", "serve/*.log"):
                yield from (log for log in session.glob(f"logs/{pattern}") if log.stat().st_size)


def _copy_end(log: Path, copy: Path) -> None:
    with log.open("rb") as source, copy.open("wb") as target:
        if (size := log.stat().st_size) > _MAX_LOG_BYTES:
            source.seek(size - _MAX_LOG_BYTES)
            source.readline()  # the rest of a line that is cut
        shutil.copyfileobj(source, target)
    shutil.copystat(log, copy)

"""The whole service on one machine: its processes, their ports, and what is kept of Ray's logs."""

import os
import shutil
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
from services.local.host import (
    LOOPBACK,
    free_port,
    local_url,
    process_environment,
    require_free,
    short_folder,
)
from services.local.processes import Command, SupervisedProcess
from services.process import RETURN_FREED_MEMORY
from services.settings import LedgerSettings

_OBJECT_STORE_BYTES = 100_000_000
"""Ray's smallest object store. The service sends nothing through it."""

_WORKER_PORTS = 100
_MAX_PATH_LENGTH = 40
"""The longest path of Ray's folder: Ray makes sockets 65 characters below it, and the path of a
socket has at most 107.
"""

_DRAIN_TIMEOUT_S = 60.0
_PORT_TAKEN = "address already in use"
"""The words of the system by which the API's log says that it cannot listen."""

_MAX_LOG_BYTES = 2_000_000
_MAX_LOGS_BYTES = 50_000_000


class NotReadyError(ServiceError):
    """The service did not become ready in time."""


class LocalServiceSettings(LedgerSettings):
    """The settings of `dti serve`. Intervals are short, because everything is on one machine."""

    store: str
    host: str = LOOPBACK
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
    allow_private_webhooks: bool = False


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
        self.url = local_url(settings.host, settings.port)
        self.folder = folder or Path(tempfile.mkdtemp(prefix="dti-", dir=short_folder()))
        self._environment = process_environment(environment)
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
        return f"{self.url}/metrics", f"http://{LOOPBACK}:{self._metrics_port}/metrics"

    def __enter__(self) -> "LocalService":
        if len(str(self.folder)) > _MAX_PATH_LENGTH:
            raise SettingsError(
                f"{str(self.folder)!r} is too long a path for the sockets that Ray makes there: "
                f"give one of at most {_MAX_PATH_LENGTH} characters"
            )
        require_free(self.settings.host, self.settings.port)
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
        on_wait: Callable[[str], None] = lambda awaited: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Wait until jobs can be submitted and are worked on, or until `stopped` says so.

        Args:
            timeout_s: The time for all processes together.
            on_wait: Called with what is waited for, each time that it changes.
            stopped: Tells whether to give up waiting.

        Raises: NotReadyError.
        """
        deadline = time.monotonic() + timeout_s
        for awaited, process, is_ready in (
            ("the API to answer", self.api, self._api_is_ready),
            (
                "the Ray node and the supervisor to start",
                self.supervisor,
                lambda: _printed_ready(self.supervisor),
            ),
            (
                "engines to load the weights of the models",
                self.engines,
                lambda: _printed_ready(self.engines),
            ),
        ):
            if process not in self._processes():
                continue
            on_wait(awaited)
            while not is_ready() and not stopped():
                if time.monotonic() > deadline:
                    raise NotReadyError(
                        f"waited {timeout_s:g} s for {awaited}: a slow disk or large weights take "
                        "longer, so give more time (dti serve --start-timeout SECONDS) unless "
                        f"the logs name another cause; the end of {str(process.log)!r}:\n"
                        f"{process.tail()}\nand of {str(self.node.log)!r}:\n{self.node.tail()}"
                    )
                time.sleep(0.1)

    def _api_is_ready(self) -> bool:
        # Its own word first: another service that took the port at the same moment answers, too.
        if not _printed_ready(self.api):
            if _PORT_TAKEN in self.api.output():
                raise SettingsError(
                    f"another process took port {self.settings.port} while this service started: "
                    "give another --port"
                )
            return False
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
            node_ip_address=LOOPBACK,
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
            host=self.settings.host,
            port=self.settings.port,
            lease_s=self.settings.lease_s,
            # Before the grace period ends, so that the API itself ends what still waits.
            shutdown_timeout_s=15,
            engines_url=self._engines_url if self.settings.engines else None,
            allow_private_webhooks=self.settings.allow_private_webhooks or None,
        )

    @property
    def _engines_url(self) -> str:
        return f"http://{LOOPBACK}:{self._engine_port}/engines"

    def _supervisor(self) -> Command:
        settings = self.settings
        return self._command(
            "supervisor",
            "services.supervisor",
            # Longer than draining, which the supervisor does before it ends.
            grace_s=_DRAIN_TIMEOUT_S + 30,
            ray_address=f"{LOOPBACK}:{self._ray_port}",
            node_ip=LOOPBACK,
            lease_s=settings.lease_s,
            poll_interval_s=settings.poll_interval_s,
            checkpoint_interval_s=settings.checkpoint_interval_s,
            reconcile_interval_s=settings.reconcile_interval_s,
            idle_timeout_s=settings.idle_timeout_s,
            threads=self._threads,
            allow_private_webhooks=settings.allow_private_webhooks or None,
            drain_timeout_s=_DRAIN_TIMEOUT_S,
        )

    def _engines(self) -> Command:
        return self._command(
            "engines",
            "services.inference",
            "deploy",
            ray_address=f"{LOOPBACK}:{self._ray_port}",
            node_ip=LOOPBACK,
            host=LOOPBACK,
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
        environment = self._environment
        if module == "services.api":
            environment = RETURN_FREED_MEMORY | environment
        return Command(name, arguments, environment, grace_s)


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

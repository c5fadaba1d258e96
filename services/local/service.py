"""Which processes make up the service on one machine, and how they find each other.

What workers and engines have said: Ray keeps it in a folder that goes when the service stops.
"""

import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx

from services.errors import ServiceError, SettingsError
from services.local.processes import Command, SupervisedProcess

_OF_ONE = 2_000_000
_OF_ALL = 50_000_000
"""Bytes that are kept: the end of each file, and of all files, with those of earlier runs, the
newest."""


def keep_logs(ray: Path, folder: Path) -> None:
    """Copy them from Ray's temporary folder to one that stays. What cannot be read is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for log in _said(ray):
        with suppress(OSError):
            _copy_end(log, folder / log.name)
    left = _OF_ALL
    for log in sorted(folder.iterdir(), key=lambda log: log.stat().st_mtime, reverse=True):
        left -= log.stat().st_size
        if left < 0:
            log.unlink()


def _said(ray: Path) -> Iterator[Path]:
    for session in ray.glob("session_*"):
        if not session.is_symlink():  # such as session_latest
            for pattern in ("worker-*.out", "worker-*.err", "serve/*.log"):
                yield from (log for log in session.glob(f"logs/{pattern}") if log.stat().st_size)


def _copy_end(log: Path, to: Path) -> None:
    with log.open("rb") as source, to.open("wb") as target:
        if (size := log.stat().st_size) > _OF_ONE:
            source.seek(size - _OF_ONE)
            source.readline()  # the rest of a line
        shutil.copyfileobj(source, target)
    shutil.copystat(log, to)


_HOST = "127.0.0.1"
_OBJECT_STORE = 100_000_000  # bytes; nothing of ours goes through it, and Ray would take a third
_WORKER_PORTS = 100
_LONGEST_PATH = 40  # characters; Ray puts 65 behind it, and sockets take 107


class NotReadyError(ServiceError):
    """The service did not come up in time."""


@dataclass(frozen=True)
class ServicePlan:
    """What to serve, and how."""

    store: str
    port: int = 8000
    models: Path | None = None
    cpus: int = field(default_factory=lambda: os.cpu_count() or 1)
    lease: float = 20
    """Short, as nothing here is far away; workers tell of progress four times a lease."""
    look: float = 0.5
    checkpoint: float = 15
    turn: float = 1
    idle: float = 600
    endpoint: bool = True
    """Whether images can be asked for, too."""


class LocalService:
    """Runs while it is entered. A process that dies is started again."""

    def __init__(
        self,
        plan: ServicePlan,
        environment: Mapping[str, str] = os.environ,
        folder: Path | None = None,
    ) -> None:
        """folder: for logs, and what Ray writes; its path must be short. None: a new one."""
        self.plan = plan
        self.url = f"http://{_HOST}:{plan.port}"
        # Ray makes sockets there, whose paths may not be longer than about 100 characters.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="dti-", dir=_short_folder()))
        self._environment = _environment(environment)
        self._worker_ports = free_port(range_of=_WORKER_PORTS)
        self._ray_port, self._engine_port = self._other_port(), self._other_port()
        self._metrics_port = self._other_port()
        self.node = SupervisedProcess(self._node(), self.folder / "node.log")
        self.api = SupervisedProcess(self._api(), self.folder / "api.log")
        self.supervisor = SupervisedProcess(self._supervisor(), self.folder / "supervisor.log")
        self.endpoint = SupervisedProcess(self._endpoint(), self.folder / "endpoint.log")
        self.dispatcher = SupervisedProcess(self._dispatcher(), self.folder / "dispatcher.log")

    @property
    def metrics_urls(self) -> tuple[str, str]:
        """Where metrics are read: those of the API, and those of all that Ray runs."""
        return f"{self.url}/metrics", f"http://{_HOST}:{self._metrics_port}/metrics"

    def __enter__(self) -> "LocalService":
        if len(str(self.folder)) > _LONGEST_PATH:
            raise SettingsError(
                f"{str(self.folder)!r} is too long a path for the sockets that Ray makes there: "
                f"give one of at most {_LONGEST_PATH} characters"
            )
        if not _is_free(self.plan.port):
            raise SettingsError(
                f"port {self.plan.port} is taken: stop what listens there, or give another --port"
            )
        for each in self._kept():
            each.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The supervisor drains the workers, so that nothing they have learned is lost; requests
        for images, and those of jobs, end before what generates them.
        """
        for each in reversed(self._kept()):
            each.stop()
        with suppress(OSError):  # such as of a full disk
            keep_logs(self.folder / "ray", self.folder / "workers")
        shutil.rmtree(self.folder / "ray", ignore_errors=True)

    def wait_until_ready(
        self,
        seconds: float = 60,
        *,
        on_wait: Callable[[str], None] = lambda what: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Until jobs can be submitted, and somebody does them; or until it is stopped.

        Raises: NotReadyError.
        """
        end = time.monotonic() + seconds
        for what, kept, is_ready in (
            ("API", self.api, self._answers),
            ("supervisor", self.supervisor, lambda: self._says_ready(self.supervisor)),
            ("endpoint", self.endpoint, lambda: self._says_ready(self.endpoint)),
        ):
            if kept not in self._kept():
                continue
            on_wait(what)
            while not is_ready() and not stopped():
                if time.monotonic() > end:
                    raise NotReadyError(
                        f"the {what} is not ready after {seconds:g} s; the end of "
                        f"{str(kept.log)!r}:\n{kept.tail()}\nand of "
                        f"{str(self.node.log)!r}:\n{self.node.tail()}"
                    )
                time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def _says_ready(self, kept: SupervisedProcess) -> bool:
        return "\nready\n" in "\n" + kept.said()

    def _kept(self) -> list[SupervisedProcess]:
        """In the order in which they are started."""
        generation = [self.endpoint, self.dispatcher] if self.plan.endpoint else []
        return [self.node, *generation, self.api, self.supervisor]

    def _other_port(self) -> int:
        """None of those that are for Ray's workers."""
        while True:
            port = free_port()
            if not 0 <= port - self._worker_ports < _WORKER_PORTS:
                return port

    def _node(self) -> Command:
        first = self._worker_ports
        return Command(
            "node",
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                f"--node-ip-address={_HOST}",
                f"--port={self._ray_port}",
                f"--min-worker-port={first}",
                f"--max-worker-port={first + _WORKER_PORTS - 1}",
                f"--metrics-export-port={self._metrics_port}",
                f"--num-cpus={self.plan.cpus}",
                f"--object-store-memory={_OBJECT_STORE}",
                f"--temp-dir={self.folder / 'ray'}",
                "--include-dashboard=false",
                "--disable-usage-stats",
            ],
            self._environment,
            with_its_own=True,
        )

    def _api(self) -> Command:
        arguments = [
            *(sys.executable, "-m", "services.api", "--store", self.plan.store),
            *("--host", _HOST, "--port", str(self.plan.port)),
        ]
        environment = {"DTI_API_ENGINES": self._engines} if self.plan.endpoint else {}
        return Command("api", [*arguments, *self._models()], {**self._environment, **environment})

    @property
    def _engines(self) -> str:
        return f"http://{_HOST}:{self._engine_port}/engines"

    def _supervisor(self) -> Command:
        plan = self.plan
        return Command(
            "supervisor",
            [
                *(sys.executable, "-m", "services.supervisor", "--store", plan.store),
                *("--ray-address", f"{_HOST}:{self._ray_port}", "--node-ip", _HOST),
                *("--lease", str(plan.lease), "--look", str(plan.look)),
                *("--checkpoint", str(plan.checkpoint)),
                *("--turn", str(plan.turn), "--idle", str(plan.idle)),
                # Threads that wait for each other at every step lose much where a core is taken.
                *("--threads", str(max(1, plan.cpus // 2))),
                *("--allow-private-webhooks", "--drain"),
                *self._models(),
            ],
            self._environment,
            grace=90,  # more than the workers have to be drained
        )

    def _endpoint(self) -> Command:
        return Command(
            "endpoint",
            [
                *(sys.executable, "-m", "services.inference", "deploy"),
                *("--store", self.plan.store),
                *("--ray-address", f"{_HOST}:{self._ray_port}", "--node-ip", _HOST),
                *("--host", _HOST, "--port", str(self._engine_port)),
                *("--threads", str(max(1, self.plan.cpus // 2))),
                *self._models(),
            ],
            self._environment,
        )

    def _dispatcher(self) -> Command:
        plan = self.plan
        return Command(
            "dispatcher",
            [
                *(sys.executable, "-m", "services.dispatch", "--store", plan.store),
                *("--engines", self._engines),
                *("--lease", str(plan.lease), "--look", str(plan.look)),
                *self._models(),
            ],
            self._environment,
        )

    def _models(self) -> list[str]:
        return ["--models", str(self.plan.models)] if self.plan.models else []


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    token = secrets.token_hex(32)
    return {
        **{name: value for name, value in given.items() if name != "DTI_API_KEY"},
        # Whoever reaches Ray's ports can run code: let nobody in but our own processes.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        # What the API shows to engines.
        "DTI_ENGINE_SECRET": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Workers are drained before the node is: nothing is left to wait for.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        "PYTHONUNBUFFERED": "1",
        # As the supervisor sends them: what is on this machine is its owner's own.
        "DTI_API_PRIVATE_WEBHOOKS": "1",
    }


def _short_folder() -> str | None:
    """For temporary folders: that of a Mac is too long a path."""
    return "/tmp" if os.path.isdir("/tmp") else None


def free_port(range_of: int = 1) -> int:
    """A port that nobody listens on, the first of so many."""
    while True:
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            port: int = probe.getsockname()[1]
        if port + range_of < 65536 and all(map(_is_free, range(port, port + range_of))):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) != 0

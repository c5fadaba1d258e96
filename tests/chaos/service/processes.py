"""The operating system's processes of one service, wherever Ray has put them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.local.service import LocalService

_WORKER = "ray::TrainingActor"
_STARTED = "subject started"
"""The log event of services.training with which a worker begins to train an item."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running process."""

    pid: int
    session: int
    """The session's leader: for all processes of a Ray node, the node."""
    command: str
    """The command line, or the title that the process has given itself."""

    @property
    def is_worker(self) -> bool:
        return self.command.startswith(_WORKER)


def processes(service: LocalService) -> list[Process]:
    """Find all processes of a service by the token that was drawn for it alone."""
    token = service.node.command.environment["RAY_AUTH_TOKEN"].encode()
    found: list[Process] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if token not in (folder / "environ").read_bytes():
                    continue
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                # After the name, which may contain spaces: state, parent, group, session.
                session = (folder / "stat").read_text().rpartition(")")[2].split()[3]
            except OSError:
                continue  # The process has ended meanwhile.
            found.append(Process(int(folder.name), int(session), command))
    return found


def worker_pids(service: LocalService) -> list[int]:
    """Return the processes of training actors."""
    return sorted(process.pid for process in processes(service) if process.is_worker)


def node_pids(service: LocalService) -> list[int]:
    """Return all processes of the Ray node: its head, daemons and workers."""
    node = service.node.pid
    return sorted(process.pid for process in processes(service) if process.session == node)


def started_attempts(service: LocalService, job: str) -> dict[int, list[tuple[int, int]]]:
    """Return the items and attempts of a job that each worker has started, by pid."""
    return {
        int(path.stem.rpartition("-")[2]): found
        for path in worker_logs(service)
        if (found := list(_read_started(path.read_text(errors="replace"), job)))
    }


def worker_logs(service: LocalService) -> list[Path]:
    return sorted((service.folder / "ray").glob("session_*/logs/worker-*.err"))


def _read_started(log: str, job: str) -> Iterator[tuple[int, int]]:
    for line in log.splitlines():
        if f'"{_STARTED}"' not in line or job not in line:
            continue
        try:
            event = json.loads(line)
        except ValueError:
            continue  # The line is being written.
        yield int(event["item"]), event["attempt"]

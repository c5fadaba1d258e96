"""The processes of one service, and of nothing else, wherever Ray has put them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from services.local.service import LocalService

_WORKER = "ray::TrainingActor"


@dataclass(frozen=True, slots=True)
class Process:
    """One that lives."""

    pid: int
    session: int
    """Whose leader started it: of all that belong to a Ray node, the node."""
    line: str
    """What it was started as, or calls itself."""

    @property
    def is_worker(self) -> bool:
        return self.line.startswith(_WORKER)


def processes(service: LocalService) -> list[Process]:
    """All of them, found by the token that was drawn for this service alone."""
    token = service.node.command.environment["RAY_AUTH_TOKEN"].encode()
    found: list[Process] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if token not in (folder / "environ").read_bytes():
                    continue
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                # Behind the name, which may have spaces: state, parent, group, session.
                session = (folder / "stat").read_text().rpartition(")")[2].split()[3]
            except OSError:
                continue  # It has ended.
            found.append(Process(int(folder.name), int(session), line))
    return found


def workers(service: LocalService) -> list[int]:
    """Processes of training actors."""
    return sorted(one.pid for one in processes(service) if one.is_worker)


def node_processes(service: LocalService) -> list[int]:
    """The Ray node whole: its head, daemons, workers."""
    node = service.node.pid
    return sorted(one.pid for one in processes(service) if one.session == node)


def seats(service: LocalService, job: str) -> dict[int, list[tuple[int, int]]]:
    """Items and attempts of a job that each worker's process has begun with, by its log."""
    return {
        int(path.stem.rpartition("-")[2]): found
        for path in worker_logs(service)
        if (found := list(_seated(path, job)))
    }


def worker_logs(service: LocalService) -> list[Path]:
    return sorted((service.folder / "ray").glob("session_*/logs/worker-*.err"))


def _seated(path: Path, job: str) -> Iterator[tuple[int, int]]:
    for line in path.read_text(errors="replace").splitlines():
        if '"subject seated"' not in line or job not in line:
            continue
        try:
            said = json.loads(line)
        except ValueError:
            continue  # It is being written.
        yield int(said["item"]), said["attempt"]

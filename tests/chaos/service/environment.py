"""The environment of a run: the running service, the subjects, and their reference tokens."""

import random
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from chaos.history import HistoryLog
from chaos.service.client import ServiceClient, Subject, draw_subjects
from chaos.service.config import ServiceConfig
from chaos.service.processes import processes, worker_logs, worker_pids
from chaos.service.tokens import ReferenceTokens
from dti_engine.artifacts.artifact import Artifact
from services.errors import UnavailableError
from services.ledger.keys import WORKERS_FOLDER
from services.ledger.leases import read_lease
from services.ledger.ledger import Ledger
from services.local.service import LocalService

SEED, _OTHER_SEED = 1, 2
_POLL_INTERVAL_S = 0.2
_EXIT_TIMEOUT_S = 15
"""Limit for all processes to exit after the service has stopped."""


class OverdueError(Exception):
    """A condition did not come about within the time limit."""


@dataclass(frozen=True)
class Environment:
    """The state that all rounds share. `folder` is for logs."""

    config: ServiceConfig
    service: LocalService
    ledger: Ledger
    subjects: list[Subject]
    folder: Path

    def is_whole(self) -> bool:
        """Return whether all processes run and all workers renew their leases."""
        pids = worker_pids(self.service)
        supervised = (self.service.api, self.service.node, self.service.supervisor)
        return len(pids) == self.config.workers == len(self._live_workers()) and all(
            process.pid for process in supervised
        )

    def wait(self, name: str, condition: Callable[[], object]) -> None:
        """Wait for a condition. Raise OverdueError if it does not come about in time."""
        deadline = time.monotonic() + self.config.completion_timeout_s
        while time.monotonic() < deadline:
            with suppress(UnavailableError):  # The store may be away for a while.
                if condition():
                    return
            time.sleep(_POLL_INTERVAL_S)
        raise OverdueError(f"{name}: not within {self.config.completion_timeout_s:g} s")

    def train_reference(self) -> ReferenceTokens:
        """Train all subjects without faults, with two seeds. Raise OverdueError on failure."""
        folder = self.folder / "reference"
        folder.mkdir()
        client = ServiceClient(self.service, "reference", HistoryLog(folder, "client-0"))
        try:
            return ReferenceTokens(*(self._train(client, seed) for seed in (SEED, _OTHER_SEED)))
        finally:
            client.close()

    def draw_items(self, rng: random.Random) -> list[Subject]:
        return rng.sample(self.subjects, self.config.items)

    def keep_logs(self) -> None:
        """Copy the logs of all processes, since Ray's are removed with the service."""
        folder = self.folder / "service"
        folder.mkdir(exist_ok=True)
        for path in [*self.service.folder.glob("*.log"), *worker_logs(self.service)]:
            shutil.copy(path, folder)

    def _train(self, client: ServiceClient, seed: int) -> dict[str, Artifact]:
        job = client.submit(self.subjects, self.config.steps, seed, f"seed-{seed}").job

        def has_ended() -> bool:
            state = client.poll(job)
            return state is not None and state.ended

        self.wait("the reference job", has_ended)
        artifacts = client.artifacts(job)
        if len(artifacts) < len(self.subjects):
            raise OverdueError(f"some failed without a fault: {client.items(job)}")
        return artifacts

    def _live_workers(self) -> list[str]:
        """Return the workers that renewed their leases lately, which they do four times a lease."""
        names = [
            head.key.removeprefix(WORKERS_FOLDER) for head in self.ledger.heads(WORKERS_FOLDER)
        ]
        max_age = timedelta(seconds=self.config.lease_s / 2)
        return [
            name
            for name in names
            if (found := read_lease(self.ledger, name))
            and found[1].state == "held"
            and found[0].age <= max_age
        ]


@contextmanager
def open_environment(
    config: ServiceConfig, folder: Path
) -> Generator[tuple[Environment, list[str]]]:
    """Run the service with all its workers.

    The list is filled when the service has stopped: with the processes that still run then, which
    are left for inspection.
    """
    service = config.service(folder)  # Before `open`, which sets the environment of this process.
    left: list[str] = []
    try:
        with service:
            service.wait_until_ready(config.completion_timeout_s)
            subjects = draw_subjects(config.subjects)
            environment = Environment(config, service, config.round("x").open(), subjects, folder)
            environment.wait("a whole service", environment.is_whole)
            try:
                yield environment, left
            finally:
                environment.keep_logs()
    finally:
        left += _orphans(service)
        shutil.rmtree(service.folder, ignore_errors=True)


def _orphans(service: LocalService) -> list[str]:
    deadline = time.monotonic() + _EXIT_TIMEOUT_S
    while (orphans := processes(service)) and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL_S)
    return [f"process {orphan.pid} is left: {orphan.command[:100]}" for orphan in orphans]

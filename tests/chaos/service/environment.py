"""The service that is hit, what it is asked to learn, and what comes of that undisturbed."""

import random
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from chaos.processes.lines import Log
from chaos.service.client import Customer, Subject, draw
from chaos.service.config import Course
from chaos.service.processes import processes, worker_logs, workers
from chaos.service.tokens import Undisturbed
from dti_engine.artifacts.artifact import Artifact
from services.errors import UnavailableError
from services.ledger.keys import WORKERS_FOLDER
from services.ledger.leases import read_lease
from services.ledger.ledger import Ledger
from services.local.service import LocalService

SEED, _OTHER_SEED = 1, 2
_LOOK = 0.2
_GONE = 15
"""Seconds that processes have to be gone after the service has stopped."""


class OverdueError(Exception):
    """What had to come about has not, within the limit."""


@dataclass(frozen=True)
class Stage:
    """All that rounds share."""

    course: Course
    service: LocalService
    ledger: Ledger
    subjects: list[Subject]
    folder: Path
    """For logs."""

    def is_whole(self) -> bool:
        """All processes are there, and all workers live."""
        pids = workers(self.service)
        kept = (self.service.api, self.service.node, self.service.supervisor)
        return len(pids) == self.course.workers == len(self._living()) and all(
            one.pid for one in kept
        )

    def wait(self, what: str, holds: Callable[[], object]) -> None:
        """Raises: OverdueError."""
        end = time.monotonic() + self.course.limit
        while time.monotonic() < end:
            with suppress(UnavailableError):  # A store that is away for a while is none of ours.
                if holds():
                    return
            time.sleep(_LOOK)
        raise OverdueError(f"{what}: not within {self.course.limit:g} s")

    def learn_undisturbed(self) -> Undisturbed:
        """Raises: OverdueError."""
        folder = self.folder / "undisturbed"
        folder.mkdir()
        customer = Customer(self.service, "undisturbed", Log(folder, "client-0"))
        try:
            same, other = (self._learn(customer, seed) for seed in (SEED, _OTHER_SEED))
            return Undisturbed(same, other)
        finally:
            customer.close()

    def choose(self, chance: random.Random) -> list[Subject]:
        return chance.sample(self.subjects, self.course.items)

    def keep_logs(self) -> None:
        """Of all processes, beside those of the rounds: what Ray writes goes with the service."""
        kept = self.folder / "service"
        kept.mkdir(exist_ok=True)
        for path in [*self.service.folder.glob("*.log"), *worker_logs(self.service)]:
            shutil.copy(path, kept)

    def _learn(self, customer: Customer, seed: int) -> dict[str, Artifact]:
        job = customer.submit(self.subjects, self.course.steps, seed, f"seed-{seed}").job

        def has_ended() -> bool:
            there = customer.look(job)
            return there is not None and there.ended

        self.wait("the undisturbed job", has_ended)
        learned = customer.tokens(job)
        if len(learned) < len(self.subjects):
            raise OverdueError(f"undisturbed, some failed: {customer.items(job)}")
        return learned

    def _living(self) -> list[str]:
        """Workers that renewed their leases lately; they do it four times a lease."""
        names = [
            head.key.removeprefix(WORKERS_FOLDER) for head in self.ledger.heads(WORKERS_FOLDER)
        ]
        lately = timedelta(seconds=self.course.lease / 2)
        return [
            name
            for name in names
            if (found := read_lease(self.ledger, name))
            and found[1].state == "held"
            and found[0].age <= lately
        ]


@contextmanager
def staged(course: Course, folder: Path) -> Generator[tuple[Stage, list[str]]]:
    """A service that runs, with all its workers. The list is filled when it has stopped: processes
    that are still there, which are left to whoever looks.
    """
    service = course.service(folder)  # Before `open`, which sets in our environment what is for us.
    left: list[str] = []
    try:
        with service:
            service.wait_until_ready(course.limit)
            stage = Stage(course, service, course.round("x").open(), draw(course.subjects), folder)
            stage.wait("a whole service", stage.is_whole)
            try:
                yield stage, left
            finally:
                stage.keep_logs()
    finally:
        left += _left_over(service)
        shutil.rmtree(service.folder, ignore_errors=True)


def _left_over(service: LocalService) -> list[str]:
    end = time.monotonic() + _GONE
    while (orphans := processes(service)) and time.monotonic() < end:
        time.sleep(_LOOK)
    return [f"process {one.pid} is left: {one.line[:100]}" for one in orphans]

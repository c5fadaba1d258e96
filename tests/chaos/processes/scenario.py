"""A deterministic round in one process and in memory, which the tests of the checks tamper with."""

import itertools
import os
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest import mock

from chaos.config import RoundConfig
from chaos.history import History, HistoryLog, read_logs
from chaos.observer import ResultObserver
from chaos.processes.client import Client
from chaos.processes.worker import AttemptRunner
from chaos.watched_store import WatchedStore
from services.ledger.ids import Ids
from services.ledger.item_results import end_attempt
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery
from services.ledger.worker import WorkerSession
from services.storage.interface import Store
from services.storage.memory import MemoryStore

_STEPS_PER_SESSION = 30


class _KilledError(BaseException):
    """Stands in for SIGKILL."""


@contextmanager
def _raise_instead_of_kill() -> Generator[None]:
    def kill(*_: object) -> None:
        raise _KilledError

    with mock.patch.object(os, "kill", kill):
        yield


class Scenario:
    """One client, one observer and workers, driven by a test."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        # The seed is one with which each kind of script is in the jobs below.
        self.config = RoundConfig(url="memory:", seed="scene", lease_s=60, poll_interval_s=0.001)
        store = cast(Store, WatchedStore(MemoryStore()))
        # Ids of one millisecond sort at random, and workers take jobs in that order.
        seconds = itertools.count(time.time(), 0.001)
        ids = Ids(lambda: next(seconds), random.Random("scene").getrandbits)
        self.ledger = Ledger(store, store.for_leases(), self.config.settings, ids)
        self.recovery = Recovery(self.ledger)
        self._folder = folder
        self._client = Client(self.ledger, self.config, HistoryLog(folder, "client-0"))
        self._log = HistoryLog(folder, "worker-0")
        log = HistoryLog(folder, "observer-0")
        self._observer = ResultObserver(self.ledger, self.config.tenant, log)

    def run_operation(self, op: str, **fields: Any) -> dict[str, Any]:
        """Let the client perform an operation, and return the fields of its completion."""
        self._client.run_operation({"op": op} | fields)
        return read_logs(self._folder)[-1].fields

    def submit(self, key: str) -> str:
        return self.run_operation("submit", key=key)["job"]

    def work(self) -> None:
        """Run sessions until no item is open; the attempts of a killed worker are lost."""
        while any(self.recovery.recover().open_items.values()):
            worker = WorkerSession(self.ledger, self.config.pool, rng=random.Random(1))
            worker.begin()
            self._log.append("session_started", worker=worker.lease.worker)
            runner = AttemptRunner(worker, self.ledger, self.config, self._log)
            with _raise_instead_of_kill():
                try:
                    for _ in range(_STEPS_PER_SESSION):
                        runner.step()
                    runner.release_all()
                except _KilledError:
                    for lost in worker.attempts:
                        end_attempt(
                            self.ledger, lost.keys, lost.item_ref, lost.number, "lost", "killed"
                        )
        self._observer.observe()

    def history(self) -> History:
        """Return the history after a last sweep."""
        self._observer.observe()
        self.recovery.sweep()
        self.recovery.recover()
        return History.collect(self.config, self._folder, self.ledger)


def run_scenario(folder: Path) -> History:
    """Run a round with every kind of operation and item."""
    scenario = Scenario(folder)
    poison = scenario.submit("poison-client-0")
    first = scenario.submit("first")
    scenario.run_operation("again", key="first", job=first)
    scenario.run_operation("other", key="first", job=first)
    cancelled, deleted = scenario.submit("cancelled"), scenario.submit("deleted")
    scenario.run_operation("cancel", key="cancelled", job=cancelled)
    scenario.work()
    scenario.run_operation("retry", key="poison-client-0", job=poison)
    scenario.work()
    scenario.run_operation("view", key="first", job=first)
    token = scenario.run_operation("list", key="first", job=first)["tokens"][0]
    scenario.run_operation("delete_token", token=token)
    scenario.run_operation("delete_item", key="first", job=first, index=1)
    scenario.run_operation("delete_job", key="deleted", job=deleted)
    return scenario.history()

"""A round in one process, in memory, without chance: what the checks are tried out on."""

import os
import random
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest import mock

from chaos.processes.client import Client
from chaos.processes.generator import Plan
from chaos.processes.history import Evidence
from chaos.processes.lines import Log, read_logs
from chaos.processes.observer import Observer
from chaos.processes.watched_store import Watched
from chaos.processes.workload import Bench
from services.ledger.ledger import Ledger
from services.ledger.recovery import Recovery
from services.ledger.results import end_attempt
from services.ledger.worker import WorkerSession
from services.storage.interface import Store
from services.storage.memory import MemoryStore


class _Died(BaseException):
    """In place of SIGKILL."""


@contextmanager
def _no_kill() -> Generator[None]:
    def die(*_: object) -> None:
        raise _Died

    with mock.patch.object(os, "kill", die):
        yield


class Scene:
    """Its clients, workers and observer, who do what the test says."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.plan = Plan(url="memory:", seed="scene", lease=60, look=0.001)
        store = cast(Store, Watched(MemoryStore()))
        self.ledger = Ledger.open(store, self.plan.settings)
        self.supervisor = Recovery(self.ledger)
        self._folder = folder
        self._client = Client(self.ledger, self.plan, Log(folder, "client-0"))
        self._log = Log(folder, "worker-0")
        self._observer = Observer(self.ledger, self.plan.tenant, Log(folder, "observer-0"))

    def ask(self, op: str, **more: Any) -> dict[str, Any]:
        """One request of the client's, and its answer."""
        self._client.turn({"op": op} | more)
        return read_logs(self._folder)[-1].told

    def submit(self, key: str) -> str:
        return self.ask("submit", key=key)["job"]

    def work(self) -> None:
        """Until nothing is open; whoever dies is lost with all it had in hand."""
        while any(self.supervisor.recover().open_items.values()):
            worker = WorkerSession(self.ledger, self.plan.pool, rng=random.Random(1))
            worker.begin()
            self._log.say("began", worker=worker.lease.worker)
            with _no_kill():
                try:
                    self._turns(worker)
                except _Died:
                    self._bury(worker)
        self._observer.look()

    def evidence(self) -> Evidence:
        """After a last sweep."""
        self._observer.look()
        self.supervisor.sweep()
        self.supervisor.recover()
        return Evidence.gather(self.plan, self._folder, self.ledger)

    def _turns(self, worker: WorkerSession) -> None:
        bench = Bench(worker, self.ledger, self.plan, self._log)
        for _ in range(30):
            bench.turn()
        bench.give_back()

    def _bury(self, worker: WorkerSession) -> None:
        for one in worker.attempts:
            end_attempt(self.ledger, one.keys, one.item_ref, one.number, "lost", "it was killed")


def play(folder: Path) -> Evidence:
    """A round with a bit of everything."""
    scene = Scene(folder)
    poison = scene.submit("poison-client-0")
    first = scene.submit("first")
    scene.ask("again", key="first", job=first)
    scene.ask("other", key="first", job=first)
    cancelled, deleted = scene.submit("cancelled"), scene.submit("deleted")
    scene.ask("cancel", key="cancelled", job=cancelled)
    scene.work()
    scene.ask("retry", key="poison-client-0", job=poison)
    scene.work()
    scene.ask("view", key="first", job=first)
    token = scene.ask("look", key="first", job=first)["tokens"][0]
    scene.ask("delete_token", token=token)
    scene.ask("delete_item", key="first", job=first, index=1)
    scene.ask("delete_job", key="deleted", job=deleted)
    return scene.evidence()

"""The nemesis of the service: kills or pauses its processes, and logs when they are back."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias, get_args

import httpx

from chaos.history import HistoryLog
from chaos.service.processes import node_pids, started_attempts, worker_pids
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import ClaimRecord, unpack
from services.local.service import LocalService
from services.supervisor.__main__ import READY

Kind: TypeAlias = Literal["worker", "paused", "supervisor", "api", "node"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_PAIRS: tuple[tuple[Kind, ...], ...] = (
    ("worker", "supervisor"),
    ("worker", "api"),
    ("worker", "paused"),
    ("paused", "supervisor"),
    ("supervisor", "api"),
    ("node", "api"),
)
_PAUSE_LEASES = 1.5, 2.5
"""Length of a pause in leases: others declare the worker dead and take over."""


def draw_faults(rounds: int, seed: int) -> list[tuple[Kind, ...]]:
    """Return the faults of each round: in every six, each kind by itself and two at once."""
    rng = random.Random(f"deal/{seed}")
    drawn: list[tuple[Kind, ...]] = []
    while len(drawn) < rounds:
        six: list[tuple[Kind, ...]] = [*((kind,) for kind in KINDS), rng.choice(_PAIRS)]
        rng.shuffle(six)
        drawn += six
    return drawn[:rounds]


class ServiceNemesis:
    """Injects the faults of one round. Call `tend` often."""

    def __init__(
        self,
        service: LocalService,
        ledger: Ledger,
        log: HistoryLog,
        rng: random.Random,
        keys: JobKeys,
    ) -> None:
        self._service, self._ledger, self._log = service, ledger, log
        self._rng, self._keys = rng, keys
        self._awaited: dict[str, Callable[[], bool]] = {}
        self._continue_at: dict[int, float] = {}
        self._pause_s = 0.0

    @property
    def is_settled(self) -> bool:
        """Every process that was hit, or its replacement, works again."""
        return not self._awaited and not self._continue_at

    def inject(self, kinds: Sequence[Kind]) -> None:
        """Inject all faults at once. All targets are chosen first, so that no time passes."""
        workers = worker_pids(self._service)
        targets = self._choose_targets(kinds, workers)
        names = {pid: self._worker_names(pid) for pids in targets.values() for pid in pids}
        self._log.append("targets_chosen", workers=workers, left=sorted(set(workers) - set(names)))
        for kind, pids in targets.items():
            self._await_return(kind)
            self._send(pids, signal.SIGSTOP if kind == "paused" else signal.SIGKILL)
            hit = sorted({name for pid in pids for name in names[pid]})
            self._log.append("fault", kind=kind, pids=pids, workers=hit)
            if kind == "paused":
                self._pause_s = self._ledger.settings.lease_s * self._rng.uniform(*_PAUSE_LEASES)
                self._continue_at |= {pid: time.monotonic() + self._pause_s for pid in pids}

    def tend(self) -> None:
        """Continue paused processes that are due, and log which processes are back."""
        if "supervisor" in self._awaited:
            # Otherwise it would continue before a supervisor could declare it dead.
            self._continue_at = dict.fromkeys(self._continue_at, time.monotonic() + self._pause_s)
        for pid, due in list(self._continue_at.items()):
            if time.monotonic() >= due:
                self._continue(pid)
        for name, is_back in list(self._awaited.items()):
            if is_back():
                del self._awaited[name]
                self._log.append("recovered", name=name)

    def continue_all(self) -> None:
        for pid in list(self._continue_at):
            self._continue(pid)

    def missing(self) -> list[str]:
        return [*self._awaited, *(f"process {pid}" for pid in self._continue_at)]

    def _continue(self, pid: int) -> None:
        del self._continue_at[pid]
        self._send([pid], signal.SIGCONT)
        self._log.append("continued", target_pid=pid)

    def _choose_targets(self, kinds: Sequence[Kind], workers: list[int]) -> dict[Kind, list[int]]:
        started = started_attempts(self._service, self._keys.job)
        busy = [pid for pid in started if pid in workers]
        self._rng.shuffle(busy)
        # Busy workers first: to hit an idle one shows little.
        candidates = busy + [pid for pid in workers if pid not in busy]
        targets: dict[Kind, list[int]] = {}
        for kind in kinds:
            match kind:
                case "worker" | "paused":
                    targets[kind] = [candidates.pop(0)] if candidates else []
                case "node":
                    targets[kind] = node_pids(self._service)
                case "supervisor":
                    targets[kind] = [pid] if (pid := self._service.supervisor.pid) else []
                case "api":
                    targets[kind] = [pid] if (pid := self._service.api.pid) else []
        return targets

    def _worker_names(self, pid: int) -> set[str]:
        """Return the ledger's names of a worker process, by the attempts that it has claimed."""
        names = set[str]()
        for index, number in started_attempts(self._service, self._keys.job).get(pid, []):
            key = self._keys.attempt(ItemRef(0, index), number)
            if found := self._ledger.find(key):
                names.add(unpack(key, found[1], ClaimRecord)[0].worker)
        return names

    def _send(self, pids: Sequence[int], number: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _await_return(self, kind: Kind) -> None:
        service = self._service
        if kind in ("supervisor", "node"):
            # The supervisor is connected through its node, and dies with it.
            ready = _ready_count(service)
            self._awaited["supervisor"] = lambda: _ready_count(service) > ready
        if kind == "node":
            node_starts = service.node.starts
            self._awaited["node"] = lambda: (
                service.node.starts > node_starts and _node_listens(service)
            )
        if kind == "api":
            api_starts = service.api.starts
            self._awaited["api"] = lambda: service.api.starts > api_starts and _api_answers(service)


def _ready_count(service: LocalService) -> int:
    """Return how many supervisors have become ready so far."""
    return service.supervisor.output().splitlines().count(READY)


def _api_answers(service: LocalService) -> bool:
    try:
        return httpx.get(f"{service.url}/readyz", timeout=2).is_success
    except httpx.HTTPError:
        return False


def _node_listens(service: LocalService) -> bool:
    arguments = service.node.command.arguments
    port = next(flag.partition("=")[2] for flag in arguments if flag.startswith("--port="))
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0

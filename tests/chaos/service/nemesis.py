"""Who is killed, and when they are there again."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias, get_args

import httpx

from chaos.processes.lines import Log
from chaos.service.processes import node_processes, seats, workers
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import ClaimRecord, unpack
from services.local.service import LocalService
from services.supervisor.__main__ import READY

Kind: TypeAlias = Literal["worker", "stopped", "supervisor", "api", "node"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_PAIRS: tuple[tuple[Kind, ...], ...] = (
    ("worker", "supervisor"),
    ("worker", "api"),
    ("worker", "stopped"),
    ("stopped", "supervisor"),
    ("supervisor", "api"),
    ("node", "api"),
)
_NAP = 1.5, 2.5
"""Leases: long enough for others to hold it for dead, and to end what it was at."""


def deal(rounds: int, seed: int) -> list[tuple[Kind, ...]]:
    """Who is hit in each round. Each six have every kind by itself, and two at once."""
    chance = random.Random(f"deal/{seed}")
    dealt: list[tuple[Kind, ...]] = []
    while len(dealt) < rounds:
        hand: list[tuple[Kind, ...]] = [*((kind,) for kind in KINDS), chance.choice(_PAIRS)]
        chance.shuffle(hand)
        dealt += hand
    return dealt[:rounds]


class Hits:
    """Of one round. `tend` has to be called again and again."""

    def __init__(
        self, service: LocalService, ledger: Ledger, log: Log, chance: random.Random, keys: JobKeys
    ) -> None:
        self._service, self._ledger, self._log = service, ledger, log
        self._chance, self._keys = chance, keys
        self._awaited: dict[str, Callable[[], bool]] = {}
        self._asleep: dict[int, float] = {}
        self._nap = 0.0

    @property
    def settled(self) -> bool:
        """Whoever was hit, or another in its place, is there again."""
        return not self._awaited and not self._asleep

    def strike(self, kinds: Sequence[Kind]) -> None:
        """All at once. Found beforehand, so that nothing comes between one and the next."""
        everybody = workers(self._service)
        targets = self._targets(kinds, everybody)
        names = {pid: self._names(pid) for pids in targets.values() for pid in pids}
        hit = {pid for pids in targets.values() for pid in pids}
        self._log.say("moment", workers=everybody, left=sorted(set(everybody) - hit))
        for kind, pids in targets.items():
            self._await(kind)
            self._send(pids, signal.SIGSTOP if kind == "stopped" else signal.SIGKILL)
            hands = sorted({name for pid in pids for name in names[pid]})
            self._log.say("hit", kind=kind, pids=pids, hands=hands)
            if kind == "stopped":
                self._nap = self._ledger.settings.lease_s * self._chance.uniform(*_NAP)
                self._asleep |= {pid: time.monotonic() + self._nap for pid in pids}

    def tend(self) -> None:
        """Wake who has slept long enough, and say who is there again."""
        if "supervisor" in self._awaited:
            # Else it would wake up before anybody could hold it for dead.
            self._asleep = dict.fromkeys(self._asleep, time.monotonic() + self._nap)
        for pid, until in list(self._asleep.items()):
            if time.monotonic() >= until:
                self._wake(pid)
        for name, is_there in list(self._awaited.items()):
            if is_there():
                del self._awaited[name]
                self._log.say("back", name=name)

    def wake_all(self) -> None:
        for pid in list(self._asleep):
            self._wake(pid)

    def missing(self) -> list[str]:
        return [*self._awaited, *(f"process {pid}" for pid in self._asleep)]

    def _wake(self, pid: int) -> None:
        del self._asleep[pid]
        self._send([pid], signal.SIGCONT)
        self._log.say("woken", pid=pid)

    def _targets(self, kinds: Sequence[Kind], everybody: list[int]) -> dict[Kind, list[int]]:
        busy = [pid for pid in seats(self._service, self._keys.job) if pid in everybody]
        self._chance.shuffle(busy)
        # Those with something in hand first.
        order = busy + [pid for pid in everybody if pid not in busy]
        targets: dict[Kind, list[int]] = {}
        for kind in kinds:
            match kind:
                case "worker" | "stopped":
                    targets[kind] = [order.pop(0)] if order else []
                case "node":
                    targets[kind] = node_processes(self._service)
                case "supervisor":
                    targets[kind] = [pid] if (pid := self._service.supervisor.pid) else []
                case "api":
                    targets[kind] = [pid] if (pid := self._service.api.pid) else []
        return targets

    def _names(self, pid: int) -> set[str]:
        """What the ledger calls a worker's process, by what it has claimed."""
        names = set[str]()
        for index, number in seats(self._service, self._keys.job).get(pid, []):
            key = self._keys.attempt(ItemRef(0, index), number)
            if found := self._ledger.find(key):
                names.add(unpack(key, found[1], ClaimRecord)[0].worker)
        return names

    def _send(self, pids: Sequence[int], what: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, what)

    def _await(self, kind: Kind) -> None:
        service = self._service
        if kind in ("supervisor", "node"):
            # It dies with its node, being connected through it.
            turns = _ready(service)
            self._awaited["supervisor"] = lambda: _ready(service) > turns
        if kind == "node":
            starts = service.node.starts
            self._awaited["node"] = lambda: service.node.starts > starts and _listens(service)
        if kind == "api":
            api = service.api.starts
            self._awaited["api"] = lambda: service.api.starts > api and _answers(service)


def _ready(service: LocalService) -> int:
    """How many supervisors have done their first turn."""
    return service.supervisor.output().splitlines().count(READY)


def _answers(service: LocalService) -> bool:
    try:
        return httpx.get(f"{service.url}/readyz", timeout=2).is_success
    except httpx.HTTPError:
        return False


def _listens(service: LocalService) -> bool:
    given = service.node.command.arguments
    port = next(one.partition("=")[2] for one in given if one.startswith("--port="))
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0

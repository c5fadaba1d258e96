"""Mutants: ledgers that are each broken in one way, to show that the checks can fail."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from chaos.simulation.schedules import SimulationResult, simulate
from services.errors import AlreadyExistsError, PreconditionFailedError
from services.ledger import claims, deletion
from services.ledger import recovery as supervisor
from services.ledger import workers as workforce
from services.ledger.attempts import Attempt
from services.ledger.leases import Lease
from services.ledger.records import LeaseRecord, ResultRecord, pack
from services.ledger.worker import WorkerSession
from services.storage.interface import Head
from services.storage.s3 import S3Store

Change = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way to be wrong, and the check that detects it."""

    change: Change | None
    kind: type[S3Store]
    caught_by: str
    rates: dict[str, float] | None = None
    """Rates of faults, where the drawn ones show it too seldom."""
    fault_duration_s: float | None = None
    """Duration of the faults, for the same reason."""


@contextmanager
def overwrite_at_commit() -> Generator[None]:
    """Check the lease, then put the result, whatever is there."""

    def commit(self: Attempt, record: ResultRecord, payload: bytes = b"") -> None:
        if not self.lease.lost:
            self.ledger.store.put(self.keys.result(self.item_ref), pack(record, payload))
        self.lease.remove_attempt(self.held)

    with patch.object(Attempt, "_commit", commit):
        yield


class IgnoresOwnWrites(S3Store):
    """Takes 412 for a lost race, though it may have been its own write."""

    def create(self, key: str, body: bytes) -> str:
        try:
            return self._put(key, body, IfNoneMatch="*")
        except PreconditionFailedError as error:
            raise AlreadyExistsError(*error.args) from error

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        return self._put(key, body, IfMatch=expected)

    def for_leases(self) -> "IgnoresOwnWrites":
        return IgnoresOwnWrites(self._settings.for_leases(), self._connection.for_leases())


@contextmanager
def swap_by_etag_alone() -> Generator[None]:
    """Give all renewals of a lease equal bytes, hence equal ETags."""

    def body(self: Lease, state: Any) -> bytes:
        with self._lock:
            attempts = tuple(self._attempts.values())
        return pack(
            LeaseRecord(
                nonce="",
                worker=self.worker,
                pool="",
                version=0,
                duration_s=self._ledger.settings.lease_s,
                state=state,
                attempts=tuple(held.model_copy(update={"progress": {}}) for held in attempts),
            )
        )

    with patch.object(Lease, "_next_body", body):
        yield


@contextmanager
def lease_by_local_clock() -> Generator[None]:
    """Compute the age of a lease from this host's clock."""
    seen: dict[str, Any] = {}
    read = workforce.WorkerRegistry._read  # type: ignore[reportPrivateUsage]

    def remember(self: Any, worker: str) -> Any:
        seen["clock"] = self._ledger.store._process.wall
        return read(self, worker)

    def is_expired(head: Head, record: LeaseRecord) -> bool:
        now: datetime = seen["clock"]() if seen else datetime.now(UTC)
        return (now - head.last_modified).total_seconds() > record.duration_s

    with (
        patch.object(workforce.WorkerRegistry, "_read", remember),
        patch.object(workforce, "is_expired", is_expired),
    ):
        yield


@contextmanager
def begin_without_listening() -> Generator[None]:
    """Do not read the commands after a claim."""
    hear = WorkerSession._apply_commands  # type: ignore[reportPrivateUsage]

    def only_later(self: WorkerSession, some: Any) -> None:
        some = list(some)
        if some and all(attempt in self._not_begun for attempt in some):
            return
        hear(self, some)

    with patch.object(WorkerSession, "_apply_commands", only_later):
        yield


@contextmanager
def delete_what_is_there() -> Generator[None]:
    """Delete a result without a tombstone."""

    def bury(ledger: Any, key: str) -> None:
        ledger.store.delete(key)

    with patch.object(deletion, "_bury", bury):
        yield


@contextmanager
def start_from_nothing() -> Generator[None]:
    """Do not look for a checkpoint."""
    with patch.object(claims, "latest_checkpoint", lambda *_: None):
        yield


@contextmanager
def break_without_looking() -> Generator[None]:
    """Break an expired lease whatever has become of it since."""

    def break_lease(ledger: Any, head: Head, record: LeaseRecord) -> bool:
        broken = record.model_copy(update={"nonce": ledger.ids.nonce(), "state": "broken"})
        ledger.lease_store.put(head.key, pack(broken))
        return True

    with patch.object(workforce, "break_lease", break_lease):
        yield


@contextmanager
def call_the_living_released() -> Generator[None]:
    """Do not look up attempts in the leases of live workers."""
    with patch.object(workforce.LiveWorker, "has_attempt", lambda *_: False):
        yield


@contextmanager
def never_alone() -> Generator[None]:
    """Do not isolate the last attempt."""
    claim = claims.Claims._claim

    def never_isolated(self: claims.Claims, *some: Any, isolated: bool) -> Any:
        return claim(self, *some, isolated=False)

    with patch.object(claims.Claims, "_claim", never_isolated):
        yield


@contextmanager
def leave_what_a_tenant_had() -> Generator[None]:
    """Do not delete anything after the command to delete a tenant."""
    with (
        patch.object(deletion, "finish_tenant", lambda *_: None),
        patch.object(supervisor, "finish_tenant", lambda *_: None),
    ):
        yield


MUTANTS: dict[str, Mutant] = {
    "overwrite at commit": Mutant(overwrite_at_commit, S3Store, "results_are_final"),
    "own 412 is taken for lost": Mutant(None, IgnoresOwnWrites, "store_is_consistent"),
    "swap by ETag alone": Mutant(
        swap_by_etag_alone, S3Store, "leases_last", {"slow": 0.5, "pause": 0.05}, 300.0
    ),
    "lease by the local clock": Mutant(lease_by_local_clock, S3Store, "leases_last"),
    "begin without listening": Mutant(
        begin_without_listening, S3Store, "nothing_starts_after_a_command"
    ),
    "delete what is there": Mutant(delete_what_is_there, S3Store, "results_are_final"),
    "start from nothing": Mutant(start_from_nothing, S3Store, "work_is_not_repeated"),
    "call the living released": Mutant(
        call_the_living_released, S3Store, "live_attempts_are_not_ended"
    ),
    "never alone": Mutant(never_alone, S3Store, "last_attempts_are_isolated", {"crash": 0.02}),
    "leave what a tenant had": Mutant(leave_what_a_tenant_had, S3Store, "deleted_bytes_are_gone"),
    "break without looking": Mutant(break_without_looking, S3Store, "leases_last"),
}


def simulate_mutant(task: tuple[int, str | None], *, log: bool = False) -> SimulationResult:
    """Simulate a seed with the mutant of that name, or with the ledger as it is."""
    seed, name = task
    if name is None:
        return simulate(seed, log=log)
    mutant = MUTANTS[name]
    change = mutant.change() if mutant.change else None
    return simulate(
        seed,
        kind=mutant.kind,
        rates=mutant.rates,
        fault_duration_s=mutant.fault_duration_s,
        mutant=change,
        log=log,
    )

"""The history of a round: the events that its processes logged, and every object in the store.

Each process appends its events to a file of its own, one JSON object per line. The checkers compare
them with the objects that the round left in the store.
"""

import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from chaos.config import RoundConfig
from chaos.items import request_of
from services.contracts.jobs import JobRequest
from services.ledger.jobs import read_retried_items
from services.ledger.keys import ItemRef, JobKeys, parse_item_ref, tenant_folder
from services.ledger.ledger import Ledger
from services.ledger.records import (
    ClaimRecord,
    EndedRecord,
    JobRecord,
    ResultRecord,
    Tombstone,
    unpack,
    unpack_result,
    unpack_spec,
)

StoredResult = ResultRecord | Tombstone
Check = Callable[["History"], list[str]]
"""Returns the violations that it finds, one line each."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One event of one process. `time` is CLOCK_MONOTONIC, which a host's processes share."""

    time: float
    process: str
    type: str
    fields: dict[str, Any] = field(default_factory=dict)
    pid: int = 0

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


class HistoryLog:
    """The event log of one process; the process that replaces it appends to the same file."""

    def __init__(self, folder: Path, process: str) -> None:
        self.path = folder / f"{process}.jsonl"
        self.process = process
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        # The previous process may have been killed in the middle of a line.
        os.write(self._file, b"\n")

    def append(self, event_type: str, /, **fields: Any) -> HistoryEvent:
        """Write an event with one system call, so that SIGKILL cannot lose it afterwards."""
        event = HistoryEvent(time.monotonic(), self.process, event_type, fields, os.getpid())
        values = {name: getattr(event, name) for name in event.__slots__}
        os.write(self._file, json.dumps(values).encode() + b"\n")
        return event

    def close(self) -> None:
        os.close(self._file)


def read_log(path: Path) -> list[HistoryEvent]:
    """Return the events of one log, without half-written lines."""
    return [HistoryEvent(**values) for values in _parse(path.read_bytes().split(b"\n"))]


def read_logs(folder: Path) -> list[HistoryEvent]:
    """Return the events of all logs in a folder, sorted by time."""
    events = [event for path in sorted(folder.glob("*.jsonl")) for event in read_log(path)]
    return sorted(events, key=lambda event: event.time)


def _parse(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue
        yield values


@dataclass(frozen=True)
class Operation:
    """A client's operation: its invocation, and its completion if there was one."""

    invocation: HistoryEvent
    completion: HistoryEvent | None

    @property
    def op(self) -> str:
        return self.invocation["op"]

    @property
    def job(self) -> str:
        """The job that it concerns or made; empty if neither is known."""
        fields = [self.completion.fields if self.completion else {}, self.invocation.fields]
        jobs = [event["job"] for event in fields if event.get("job")]
        return jobs[0] if jobs else self.invocation.fields.get("token", "")[4:30]

    @property
    def index(self) -> int | None:
        """The index of the item to be deleted."""
        if "token" in self.invocation.fields:
            return int(self.invocation["token"][-5:])
        return self.invocation.fields.get("index")

    @property
    def error(self) -> str:
        return self.completion.fields.get("error", "") if self.completion else ""

    @property
    def succeeded(self) -> bool:
        return self.completion is not None and not self.error

    def __str__(self) -> str:
        completion = self.completion.fields if self.completion else "never completed"
        return f"{self.invocation.process} invoked {self.invocation.fields}: {completion}"


@dataclass
class History:
    """Everything that one round left. `objects` are the tenant's objects by key."""

    config: RoundConfig
    all_events: list[HistoryEvent]
    objects: dict[str, bytes]
    ledger: Ledger

    @classmethod
    def collect(cls, config: RoundConfig, folder: Path, ledger: Ledger) -> "History":
        """Read the logs in `folder` and the tenant's objects."""
        keys = [head.key for head in ledger.heads(tenant_folder(config.tenant))]
        objects = {head.key: body for head, body in filter(None, ledger.gather(ledger.find, keys))}
        return cls(config, read_logs(folder), objects, ledger)

    def events(self, *types: str) -> list[HistoryEvent]:
        """Return the events of these types, in the order of time."""
        return [event for event in self.all_events if event.type in types]

    @cached_property
    def all_operations(self) -> list[Operation]:
        """Return all operations; one that was invoked again after a kill counts once."""
        completions = {(event.process, event["n"]): event for event in self.events("completed")}
        # Reversed, so that the first invocation of each operation stays.
        first = {(event.process, event["n"]): event for event in reversed(self.events("invoked"))}
        operations = [Operation(event, completions.get(name)) for name, event in first.items()]
        return sorted(operations, key=lambda operation: operation.invocation.time)

    def operations(self, *ops: str) -> list[Operation]:
        """Return the operations of these kinds, in the order of their invocations."""
        return [operation for operation in self.all_operations if operation.op in ops]

    @cached_property
    def jobs(self) -> dict[str, str]:
        """Idempotency keys by job, of the jobs whose submission a client saw acknowledged."""
        submissions = self.operations("submit", "again")
        return {op.job: op.invocation["key"] for op in submissions if op.succeeded}

    def keys(self, job: str) -> JobKeys:
        return JobKeys(self.config.tenant, job)

    def request(self, job: str) -> JobRequest:
        """Return the request that a job was submitted with."""
        return request_of(self.config.seed, self.jobs[job], self.config.pool)

    def script(self, job: str, index: int) -> str:
        return str(self.request(job).items[index].work["script"])

    def spec(self, job: str) -> JobRecord | Tombstone | None:
        key = self.keys(job).spec
        return unpack_spec(key, self.objects[key])[0] if key in self.objects else None

    def objects_below(self, prefix: str) -> dict[str, bytes]:
        """Return the objects with this prefix, by the rest of their keys."""
        return {
            key[len(prefix) :]: body for key, body in self.objects.items() if key.startswith(prefix)
        }

    def results(self, job: str) -> dict[ItemRef, tuple[StoredResult, bytes]]:
        """Return the results of a job's items, with their payloads."""
        prefix = self.keys(job).results
        return {
            parse_item_ref(name)[0]: unpack_result(f"{prefix}{name}", body)
            for name, body in self.objects_below(prefix).items()
        }

    def result(self, job: str, item_ref: ItemRef) -> StoredResult | None:
        """Return the result of an item, or None if it has none."""
        return self.results(job).get(item_ref, (None, b""))[0]

    def claims(self, job: str) -> dict[tuple[ItemRef, int], str]:
        """Return the worker that claimed each attempt."""
        prefix, workers = self.keys(job).attempts, {}
        for name, body in self.objects_below(prefix).items():
            item_ref, (number, *ended) = parse_item_ref(name)
            if not ended:
                workers[item_ref, int(number)] = unpack(name, body, ClaimRecord)[0].worker
        return workers

    def attempt_ends(self, job: str, item_ref: ItemRef) -> dict[int, EndedRecord]:
        """Return how the attempts without a result ended, by number."""
        found = self.objects_below(f"{self.keys(job).attempts}{item_ref}.")
        ended = {name: body for name, body in found.items() if name.endswith(".ended")}
        return {int(n.split(".")[0]): unpack(n, body, EndedRecord)[0] for n, body in ended.items()}

    def commands(self, job: str) -> set[str]:
        """Return the names of a job's commands: cancel, retries, deletions."""
        return set(self.objects_below(self.keys(job).control))

    def rounds(self, job: str) -> list[list[int]]:
        """Return the indices of the items in each round of a job."""
        retries = sum(name.startswith("retry.") for name in self.commands(job))
        spec = self.spec(job)
        count = spec.count if isinstance(spec, JobRecord) else 0
        keys = self.keys(job)
        again = [read_retried_items(self.ledger, keys, r, count) for r in range(1, retries + 1)]
        return [list(range(count)), *again]

    def deletion_invoked(self, job: str, index: int | None = None) -> bool:
        """Return whether a client asked to delete the job, or that item of it."""
        return any(
            operation.job == job and (operation.index is None or operation.index == index)
            for operation in self.operations("delete_job", "delete_item", "delete_token")
        )

    def cancellation_invoked(self, job: str) -> bool:
        return any(operation.job == job for operation in self.operations("cancel"))

    @cached_property
    def events_by_attempt(self) -> dict[tuple[str, ItemRef, int], list[HistoryEvent]]:
        """The workers' events of each attempt."""
        events: dict[tuple[str, ItemRef, int], list[HistoryEvent]] = defaultdict(list)
        for event in self.all_events:
            if "number" in event.fields:
                events[attempt_of(event)].append(event)
        return events


def attempt_of(event: HistoryEvent) -> tuple[str, ItemRef, int]:
    """Return job, item and number of the attempt that a worker's event is about."""
    return event["job"], ItemRef(event["round"], event["index"]), event["number"]


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def is_payload_of(payload: Any, job: str, item_ref: ItemRef, number: int) -> bool:
    """Return whether a payload names this attempt as the one that wrote it."""
    expected = (job, item_ref.round, item_ref.index, number)
    return (payload["job"], payload["round"], payload["index"], payload["number"]) == expected

"""Jobs: the spec as it was submitted, and the commands given since (cancel, retry, delete)."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from services.contracts.jobs import JobItem, JobRequest, Kind, WireModel
from services.errors import DamagedRecordError, DeletedError, NotFoundError, UnknownJobError
from services.ledger.keys import JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import (
    JobCommandRecord,
    JobRecord,
    Tombstone,
    pack,
    unpack,
    unpack_spec,
)


class _Content(WireModel):
    items: list[Any]
    shared: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job's whole spec. It never changes, except that erased items are redacted."""

    keys: JobKeys
    record: JobRecord
    items: list[Any]
    """The items as JSON, validated one by one: of 10,000 items a worker needs a few."""
    shared: dict[str, JsonValue]
    etag: str
    """The version that was read."""

    def item(self, index: int) -> JobItem:
        """Return an item, or raise DamagedRecordError."""
        try:
            return JobItem.model_validate(self.items[index])
        except ValidationError as error:
            raise _damaged(self.keys.spec) from error


def pack_spec(request: JobRequest, nonce: str) -> bytes:
    """Return the bytes of a job's spec."""
    record = JobRecord(
        nonce=nonce,
        kind=request.kind,
        pool=request.pool,
        batch=request.batch,
        count=len(request.items),
        tags=request.tags,
        max_attempts=request.max_attempts,
    )
    return pack(record, request.model_dump_json(include={"items", "shared"}).encode())


def read_spec(ledger: Ledger, keys: JobKeys, kind: Kind | None = None) -> JobSpec:
    """Return a job's whole spec.

    Args:
        ledger: The ledger.
        keys: The job.
        kind: The kind that the job has to be of; None for either.

    Raises:
        UnknownJobError: There is no such job.
        DeletedError: The job was deleted.
        DamagedRecordError: The spec cannot be read.
    """
    if not (found := ledger.find(keys.spec)):
        raise unknown_job(keys)
    record, payload = unpack_spec(keys.spec, found[1])
    job = _check_job(keys, record, kind)
    try:
        content = _Content.model_validate_json(payload)
    except ValidationError as error:
        raise _damaged(keys.spec) from error
    if len(content.items) != job.count:
        raise _damaged(keys.spec)
    return JobSpec(keys, job, content.items, content.shared, found[0].etag)


def read_job(ledger: Ledger, keys: JobKeys, kind: Kind | None = None) -> tuple[datetime, JobRecord]:
    """Return when a job was submitted, and its record without the items.

    Raises:
        UnknownJobError: There is no such job, or it is of another kind.
        DeletedError: The job was deleted.
        DamagedRecordError: The record cannot be read.
    """
    if not (found := ledger.find_record(keys.spec)):
        raise unknown_job(keys)
    record, _ = unpack_spec(keys.spec, found[1])
    return found[0].last_modified, _check_job(keys, record, kind)


Redact = Callable[[Sequence[Any], Mapping[str, JsonValue]], dict[str, JsonValue]]
"""Returns a job's `shared` without what only erased items need, from its items and `shared`."""


def redact_spec(
    ledger: Ledger,
    keys: JobKeys,
    indices: Collection[int],
    redact_shared: Redact = lambda items, shared: dict(shared),
) -> bool:
    """Redact deleted items in a job's spec, and return whether it had any of them unredacted.

    Their number and their places stay: all else refers to items by their index. A worker that has
    read the items before begins none of them, since the command to delete them stands.

    Raises:
        DamagedRecordError: The spec cannot be read.
    """
    while True:
        try:
            spec = read_spec(ledger, keys)
        except (DeletedError, UnknownJobError):
            return False
        items = [
            {"name": f"erased-{index}", "work": {}} if index in indices else item
            for index, item in enumerate(spec.items)
        ]
        shared = redact_shared(items, spec.shared)
        if items == spec.items and shared == spec.shared:
            return False
        record = spec.record.model_copy(update={"nonce": ledger.ids.nonce()})
        body = pack(record, json.dumps({"items": items, "shared": shared}).encode())
        if ledger.compare_and_swap(keys.spec, body, spec.etag):
            return True


def unknown_job(keys: JobKeys) -> UnknownJobError:
    """Return the error that a tenant has no such job."""
    return UnknownJobError(f"{keys.tenant} has no job {keys.job}")


def _damaged(key: str) -> DamagedRecordError:
    return DamagedRecordError(
        f"{key!r} is not what the ledger writes there; restore it, or delete its job"
    )


def _check_job(keys: JobKeys, record: JobRecord | Tombstone, kind: Kind | None) -> JobRecord:
    if isinstance(record, Tombstone):
        raise DeletedError(f"job {keys.job} was deleted")
    if kind and record.kind != kind:
        raise UnknownJobError(f"{keys.tenant} has no {kind} job {keys.job}")
    return record


_INDICES = TypeAdapter(list[int])


@dataclass(frozen=True, slots=True)
class JobCommands:
    """The commands that a job had been given at one moment."""

    cancelled: bool
    deleted: bool
    """Whether the whole job is deleted."""
    deleted_items: frozenset[int]
    retries: int
    """The number of rounds after the first."""

    def is_deleted(self, index: int) -> bool:
        """Return whether an item is deleted, by itself or with its job."""
        return self.deleted or index in self.deleted_items

    @property
    def rounds(self) -> range:
        """Return the numbers of all rounds."""
        return range(self.retries + 1)


def read_commands(ledger: Ledger, keys: JobKeys) -> JobCommands:
    """Return a job's commands, by one listing.

    The moment matters. A process that must not act against a command reads them after the last
    moment at which a new one could escape it: a worker after its claim, a supervisor before its
    scan of the attempts.
    """
    # The names say everything, so that one listing is enough and no command is read.
    names = {head.key[len(keys.control) :] for head in ledger.heads(keys.control)}
    return JobCommands(
        cancelled="cancel" in names,
        deleted="deleted" in names,
        deleted_items=frozenset(_numbers(names, "item.")),
        retries=max(_numbers(names, "retry."), default=0),
    )


def _numbers(names: set[str], prefix: str) -> list[int]:
    """Return the numbers of commands of one type. Foreign objects are ignored."""
    suffixes = (name[len(prefix) :] for name in names if name.startswith(prefix))
    return [int(suffix) for suffix in suffixes if suffix.isascii() and suffix.isdigit()]


def issue_command(ledger: Ledger, key: str, by: str, payload: bytes = b"") -> bool:
    """Give a command, and return whether this call gave it; False if it was given before."""
    record = JobCommandRecord(nonce=ledger.ids.nonce(), by=by)
    return ledger.create_once(key, pack(record, payload)) is not None


def pack_item_indices(indices: list[int]) -> bytes:
    """Return the payload of a command to retry these items."""
    return json.dumps(indices, separators=(",", ":")).encode()


def read_retried_items(ledger: Ledger, keys: JobKeys, round_: int, count: int) -> list[int]:
    """Return which of a job's `count` items a round retries, in order.

    Raises:
        DamagedRecordError: The command cannot be read.
    """
    key = keys.retry(round_)
    try:
        _, payload = unpack(key, ledger.store.read(key).body, JobCommandRecord)
        indices = _INDICES.validate_json(payload)
        if not all(0 <= index < count for index in indices):
            raise ValueError(f"it has items beyond the job's {count}")
        return indices
    except (NotFoundError, ValueError) as error:
        raise _damaged(key) from error

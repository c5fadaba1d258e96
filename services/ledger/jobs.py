"""A job as it was submitted.

What has been asked for about a job since it was submitted: to cancel, retry or delete.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from services.contracts.jobs import Item, JobRequest, Kind, WireModel
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
    """A job's spec whole, never to change."""

    keys: JobKeys
    record: JobRecord
    items: list[Any]
    """As JSON: of many items, few are looked at."""
    shared: dict[str, JsonValue]

    def item(self, index: int) -> Item:
        """Raises: DamagedRecordError."""
        try:
            return Item.model_validate(self.items[index])
        except ValidationError as error:
            raise _damaged(self.keys) from error


def pack_spec(request: JobRequest, nonce: str) -> bytes:
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
    """kind: that it has to be of. Raises: UnknownJobError, DeletedError."""
    if not (found := ledger.find(keys.spec)):
        raise unknown_job(keys)
    record, payload = unpack_spec(keys.spec, found[1])
    job = _alive(keys, record, kind)
    try:
        content = _Content.model_validate_json(payload)
    except ValidationError as error:
        raise _damaged(keys) from error
    if len(content.items) != job.count:
        raise _damaged(keys)
    return JobSpec(keys, job, content.items, content.shared)


def read_job(ledger: Ledger, keys: JobKeys, kind: Kind | None = None) -> tuple[datetime, JobRecord]:
    """When a job was submitted, and what is said of it as a whole. kind: that it has to be of.

    Raises: UnknownJobError, DeletedError.
    """
    if not (line := ledger.find_record(keys.spec)):
        raise unknown_job(keys)
    return line[0].last_modified, _alive(keys, unpack_spec(keys.spec, line[1])[0], kind)


def _damaged(keys: JobKeys) -> DamagedRecordError:
    return DamagedRecordError(
        f"{keys.spec!r} is not what the ledger writes there; restore it, or delete its job"
    )


def unknown_job(keys: JobKeys) -> UnknownJobError:
    return UnknownJobError(f"{keys.tenant} has no job {keys.job}")


def _alive(keys: JobKeys, record: JobRecord | Tombstone, kind: Kind | None) -> JobRecord:
    if isinstance(record, Tombstone):
        raise DeletedError(f"job {keys.job} was deleted")
    if kind and record.kind != kind:
        raise UnknownJobError(f"{keys.tenant} has no {kind} job {keys.job}")
    return record


_MEMBERS = TypeAdapter(list[int])


@dataclass(frozen=True, slots=True)
class JobCommands:
    """All orders that stood there at one moment."""

    cancelled: bool
    deleted: bool
    """The whole job."""
    deleted_items: frozenset[int]
    retries: int
    """Rounds after the first."""

    def is_deleted(self, index: int) -> bool:
        return self.deleted or index in self.deleted_items

    @property
    def rounds(self) -> range:
        return range(self.retries + 1)


def read_commands(ledger: Ledger, keys: JobKeys) -> JobCommands:
    """One listing. Whoever must not act against an order reads it after the last moment at which
    the order could have gone unseen: a worker after its claim, a supervisor before its survey.
    """
    names = {head.key[len(keys.control) :] for head in ledger.heads(keys.control)}
    return JobCommands(
        cancelled="cancel" in names,
        deleted="deleted" in names,
        deleted_items=frozenset(_numbers(names, "item.")),
        retries=max(_numbers(names, "retry."), default=0),
    )


def _numbers(names: set[str], prefix: str) -> list[int]:
    """Those of orders of one kind. What others put there is passed over."""
    rest = (name[len(prefix) :] for name in names if name.startswith(prefix))
    return [int(number) for number in rest if number.isascii() and number.isdigit()]


def issue_command(ledger: Ledger, key: str, by: str, payload: bytes = b"") -> bool:
    """Whether the order was given now; False: it stands already."""
    record = JobCommandRecord(nonce=ledger.ids.nonce(), by=by)
    return ledger.create_once(key, pack(record, payload)) is not None


def pack_item_indices(indices: list[int]) -> bytes:
    return json.dumps(indices, separators=(",", ":")).encode()


def read_retried_items(ledger: Ledger, keys: JobKeys, round_: int, count: int) -> list[int]:
    """Which of `count` items are in a round of retries, in order. Raises: DamagedRecordError."""
    key = keys.retry(round_)
    try:
        _, payload = unpack(key, ledger.store.read(key).body, JobCommandRecord)
        members = _MEMBERS.validate_json(payload)
        if not all(0 <= index < count for index in members):
            raise ValueError(f"it has items beyond the job's {count}")
        return members
    except (NotFoundError, ValueError) as error:
        raise DamagedRecordError(
            f"{key!r} is not what the ledger writes there; restore it, or delete its job"
        ) from error

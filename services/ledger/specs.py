"""A job as it was submitted."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import JsonValue, ValidationError

from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.jobs import Item, JobRequest, Kind, Model
from services.ledger.layout import JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import JobRecord, Tombstone, pack, unpack_spec


class _Content(Model):
    items: list[Any]
    shared: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Spec:
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


def read_spec(ledger: Ledger, keys: JobKeys, kind: Kind | None = None) -> Spec:
    """kind: that it has to be of. Raises: UnknownJobError, DeletedError."""
    if not (found := ledger.find(keys.spec)):
        raise unknown(keys)
    record, payload = unpack_spec(keys.spec, found[1])
    job = _alive(keys, record, kind)
    try:
        content = _Content.model_validate_json(payload)
    except ValidationError as error:
        raise _damaged(keys) from error
    if len(content.items) != job.count:
        raise _damaged(keys)
    return Spec(keys, job, content.items, content.shared)


def read_job(ledger: Ledger, keys: JobKeys, kind: Kind | None = None) -> tuple[datetime, JobRecord]:
    """When a job was submitted, and what is said of it as a whole. kind: that it has to be of.

    Raises: UnknownJobError, DeletedError.
    """
    if not (line := ledger.find_line(keys.spec)):
        raise unknown(keys)
    return line[0].last_modified, _alive(keys, unpack_spec(keys.spec, line[1])[0], kind)


def _damaged(keys: JobKeys) -> DamagedRecordError:
    return DamagedRecordError(
        f"{keys.spec!r} is not what the ledger writes there; restore it, or delete its job"
    )


def unknown(keys: JobKeys) -> UnknownJobError:
    return UnknownJobError(f"{keys.tenant} has no job {keys.job}")


def _alive(keys: JobKeys, record: JobRecord | Tombstone, kind: Kind | None) -> JobRecord:
    if isinstance(record, Tombstone):
        raise DeletedError(f"job {keys.job} was deleted")
    if kind and record.kind != kind:
        raise UnknownJobError(f"{keys.tenant} has no {kind} job {keys.job}")
    return record

"""A job as it was submitted."""

import json
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from services.errors import DeletedError, UnknownJobError
from services.jobs import Item, JobRequest
from services.ledger.layout import JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import JobRecord, Tombstone, pack, unpack_spec


@dataclass(frozen=True)
class Spec:
    """A job's spec whole, never to change."""

    record: JobRecord
    payload: bytes

    @cached_property
    def _content(self) -> dict[str, Any]:
        return json.loads(self.payload)

    @property
    def shared(self) -> dict[str, Any]:
        return self._content["shared"]

    def item(self, index: int) -> Item:
        return Item.model_construct(**self._content["items"][index])

    def name(self, index: int) -> str:
        return self._content["items"][index]["name"]


def pack_spec(request: JobRequest, nonce: str) -> bytes:
    record = JobRecord(
        nonce=nonce,
        kind=request.kind,
        pool=request.pool,
        count=len(request.items),
        tags=request.tags,
        max_attempts=request.max_attempts,
    )
    return pack(record, request.model_dump_json(include={"items", "shared"}).encode())


def read_spec(ledger: Ledger, keys: JobKeys) -> Spec:
    """Raises: UnknownJobError, DeletedError."""
    if not (found := ledger.find(keys.spec)):
        raise unknown(keys)
    record, payload = unpack_spec(keys.spec, found[1])
    return Spec(_alive(keys, record), payload)


def read_job(ledger: Ledger, keys: JobKeys) -> tuple[datetime, JobRecord]:
    """When a job was submitted, and what is said of it as a whole.

    Raises: UnknownJobError, DeletedError.
    """
    if not (line := ledger.find_line(keys.spec)):
        raise unknown(keys)
    return line[0].last_modified, _alive(keys, unpack_spec(keys.spec, line[1])[0])


def unknown(keys: JobKeys) -> UnknownJobError:
    return UnknownJobError(f"{keys.tenant} has no job {keys.job}")


def _alive(keys: JobKeys, record: JobRecord | Tombstone) -> JobRecord:
    if isinstance(record, Tombstone):
        raise DeletedError(f"job {keys.job} was deleted")
    return record

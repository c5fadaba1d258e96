"""Jobs: the spec as it was submitted, and the commands given since (cancel, retry, delete)."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from services.contracts.jobs import JobItem, JobRequest, Kind, WireModel
from services.errors import (
    DamagedRecordError,
    DeletedError,
    InvalidRangeError,
    NotFoundError,
    UnknownJobError,
)
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

_ITEMS_PER_BLOCK = 100
"""The items between two offsets of a spec: half a page."""


class _Content(WireModel):
    items: list[Any]
    shared: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job's whole spec. It never changes, except that erased items are redacted."""

    keys: JobKeys
    record: JobRecord
    submitted: datetime
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


@dataclass(frozen=True, slots=True)
class JobHeader:
    """The beginning of a job's spec: its record, by which single items are found."""

    keys: JobKeys
    record: JobRecord
    submitted: datetime
    etag: str
    body: bytes
    """The first bytes of the spec, with its record at least; of a small job, all of it."""

    def read_items(self, ledger: Ledger, indices: Sequence[int]) -> Mapping[int, JobItem]:
        """Return items by their indices; of a large job, only their blocks are read.

        Raises:
            DeletedError: The job was deleted.
            DamagedRecordError: The spec cannot be read.
        """
        if not self.record.item_offsets:
            spec = read_spec(ledger, self.keys)
            return {index: spec.item(index) for index in indices}
        numbers = sorted({index // _ITEMS_PER_BLOCK for index in indices})
        read = ledger.gather(lambda number: self._read_block(ledger, number), numbers)
        blocks = {n: block for n, block in zip(numbers, read, strict=True) if block is not None}
        if len(blocks) < len(numbers):
            # The spec was replaced since: items of it were redacted, or its job was deleted.
            return read_header(ledger, self.keys).read_items(ledger, indices)
        try:
            return {
                index: JobItem.model_validate(
                    blocks[index // _ITEMS_PER_BLOCK][index % _ITEMS_PER_BLOCK]
                )
                for index in indices
            }
        except (IndexError, ValidationError) as error:
            raise _damaged(self.keys.spec) from error

    def _read_block(self, ledger: Ledger, number: int) -> list[Any] | None:
        """Return a block of items as JSON; None if the spec has another version by now."""
        payload_start = self.body.index(b"\n") + 1
        start, next_start = (
            payload_start + offset for offset in self.record.item_offsets[number : number + 2]
        )
        end = next_start - 1  # without the comma
        try:
            if end <= len(self.body):
                return json.loads(b"[%b]" % self.body[start:end])
            found = ledger.store.read(self.keys.spec, start=start, length=end - start)
            if found.head.etag == self.etag:
                return json.loads(b"[%b]" % found.body)
        except (NotFoundError, InvalidRangeError):
            pass
        except ValueError as error:
            raise _damaged(self.keys.spec) from error
        return None


def pack_spec(request: JobRequest, nonce: str, submitted: datetime) -> bytes:
    """Return the bytes of a job's spec, which was submitted at this time of the store's clock."""
    shared = request.model_dump_json(include={"shared"}).encode()
    payload, offsets = _pack_content(
        [item.model_dump_json().encode() for item in request.items],
        shared.removeprefix(b'{"shared":').removesuffix(b"}"),
    )
    record = JobRecord(
        nonce=nonce,
        kind=request.kind,
        pool=request.pool,
        batch=request.batch,
        count=len(request.items),
        tags=request.tags,
        max_attempts=request.max_attempts,
        item_offsets=offsets,
        submitted=submitted,
    )
    return pack(record, payload)


def _pack_content(items: Sequence[bytes], shared: bytes) -> tuple[bytes, tuple[int, ...]]:
    """Return the payload of a spec from its parts as JSON, and its `item_offsets`."""
    opening = b'{"items":['
    starts = list(accumulate((len(item) + 1 for item in items), initial=len(opening)))
    payload = opening + b",".join(items) + b'],"shared":' + shared + b"}"
    return payload, (*starts[:-1:_ITEMS_PER_BLOCK], starts[-1])


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
    head, body = found
    record, payload = unpack_spec(keys.spec, body)
    job = _check_job(keys, record, kind)
    try:
        content = _Content.model_validate_json(payload)
    except ValidationError as error:
        raise _damaged(keys.spec) from error
    if len(content.items) != job.count:
        raise _damaged(keys.spec)
    submitted = job.submitted or head.last_modified
    return JobSpec(keys, job, submitted, content.items, content.shared, head.etag)


def read_job(ledger: Ledger, keys: JobKeys, kind: Kind | None = None) -> tuple[datetime, JobRecord]:
    """Return when a job was submitted, and its record without the items.

    Raises:
        UnknownJobError: There is no such job, or it is of another kind.
        DeletedError: The job was deleted.
        DamagedRecordError: The record cannot be read.
    """
    header = read_header(ledger, keys, kind)
    return header.submitted, header.record


def read_header(ledger: Ledger, keys: JobKeys, kind: Kind | None = None) -> JobHeader:
    """Return the beginning of a job's spec. Raises as `read_job`."""
    if not (found := ledger.find_record(keys.spec)):
        raise unknown_job(keys)
    head, body = found
    record, _ = unpack_spec(keys.spec, body)
    job = _check_job(keys, record, kind)
    return JobHeader(keys, job, job.submitted or head.last_modified, head.etag, body)


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
        payload, offsets = _pack_content(
            [json.dumps(item).encode() for item in items], json.dumps(shared).encode()
        )
        changes = {
            "nonce": ledger.ids.nonce(),
            "item_offsets": offsets,
            "submitted": spec.submitted,
        }
        body = pack(spec.record.model_copy(update=changes), payload)
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

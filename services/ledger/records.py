"""The content of the ledger's objects: a line of JSON, followed by a payload in some of them.

Every record has a nonce of its own, so that no two writes have the same bytes. A writer whose
answer was lost thereby recognises its own write, and no ETag ever comes back. Records that are
replaced by compare-and-swap also count a version.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from services.contracts.jobs import Kind
from services.errors import DamagedRecordError
from services.ledger.ids import Ids

RECORD_BYTES = 4096
"""Bytes that hold the line of JSON of nearly every record."""

LONG_RECORD_BYTES = 64 * 1024
"""Bytes that hold the line of JSON of a record with many long tags, or with a large report."""

MAX_REASON = 1000
"""Characters that are kept of why an attempt ended."""


class Record(BaseModel):
    """A line of JSON. Reading ignores fields of later versions."""

    # NaN and infinity are not JSON: other programs that read a backup would fail at them.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    nonce: str


class VersionedRecord(Record):
    """A record that is replaced by compare-and-swap, with a count of its versions.

    The records of attempts and leases take their nonces from `Ledger.ids` instead, which
    simulations replace.
    """

    version: int = 0

    def changed(self, **fields: object) -> Self:
        """Return the next version, with these fields changed."""
        update = {"nonce": Ids().nonce(), "version": self.version + 1, **fields}
        return self.model_copy(update=update)


class JobRecord(Record):
    """A job's spec. The payload has its items, and what they share, as JSON."""

    type: Literal["job"] = "job"
    kind: Kind
    pool: str
    batch: str | None = None
    count: int
    tags: dict[str, str]
    max_attempts: int
    item_offsets: tuple[int, ...] = ()
    """Where each block of items begins in the payload, and the end of the last one.

    With these a few items can be read without the others. Specs of earlier versions have none.
    """
    submitted: datetime | None = None
    """When it was submitted, by the store's clock.

    The time of the object would not do: it changes when items are redacted, or a store is restored
    from a copy. Specs of earlier versions have none, and there it has to do.
    """


class Tombstone(Record):
    """The record that replaces a deleted object. It says nothing of the content."""

    type: Literal["deleted"] = "deleted"


class AcceptedRecord(Record):
    """The job that an Idempotency-Key made, and the digest of its request."""

    type: Literal["accepted"] = "accepted"
    digest: str
    job: str


class JobCommandRecord(Record):
    """A command to cancel, retry or delete. A retry's payload is its items' indices as JSON."""

    type: Literal["command"] = "command"
    by: str = ""


class ClaimRecord(Record):
    """The claim of an item by a worker, which begins an attempt."""

    type: Literal["claim"] = "claim"
    worker: str


class EndedRecord(Record):
    """The end of an attempt without a result."""

    type: Literal["ended"] = "ended"
    cause: Literal["failed", "lost", "released"]
    """It failed, its worker vanished, or its worker gave the item back."""
    reason: str


class ResultRecord(Record):
    """The result of an item, which is final. The payload is the token or image."""

    type: Literal["result"] = "result"
    status: Literal["succeeded", "failed", "cancelled"]
    kind: Kind = "training"
    """The job's kind, in a success: an image must not be served as a token."""
    attempt: int
    """The attempt that made it; 0 if there was none."""
    reason: str = ""
    sha256: str = ""
    """The payload's digest, in a success."""
    report: dict[str, JsonValue] = {}
    """A short report by the worker: scores, durations."""


class CheckpointRecord(Record):
    """A checkpoint of an attempt. The payload is the worker's own."""

    type: Literal["checkpoint"] = "checkpoint"
    version: int
    step: int


class HeldAttempt(BaseModel):
    """An attempt that a lease names: claimed by its worker, or about to be."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    tenant: str
    job: str
    round: int
    index: int
    number: int
    progress: dict[str, JsonValue] = {}


class LeaseRecord(Record):
    """A worker's lease. The states broken and released are final."""

    type: Literal["lease"] = "lease"
    worker: str
    pool: str
    version: int
    duration_s: float
    """The age, by the store's clock, from which on it may be broken."""
    state: Literal["held", "broken", "released"]
    attempts: tuple[HeldAttempt, ...] = ()


class RollupRecord(Record):
    """The known final states. The payload has a line per round, and in it a letter per item."""

    type: Literal["rollup"] = "rollup"
    version: int
    complete: bool
    """Whether all items of these rounds have ended."""


R = TypeVar("R", bound=Record)

_SPEC: TypeAdapter[JobRecord | Tombstone] = TypeAdapter(
    Annotated[JobRecord | Tombstone, Field(discriminator="type")]
)
_RESULT: TypeAdapter[ResultRecord | Tombstone] = TypeAdapter(
    Annotated[ResultRecord | Tombstone, Field(discriminator="type")]
)


def pack(record: Record, payload: bytes = b"") -> bytes:
    """Return the bytes of an object."""
    return record.model_dump_json(exclude_defaults=False).encode() + b"\n" + payload


def unpack(key: str, body: bytes, kind: type[R]) -> tuple[R, bytes]:
    """Return the record and payload of an object, or raise DamagedRecordError."""
    return _parse(key, body, kind.model_validate_json)


def unpack_spec(key: str, body: bytes) -> tuple[JobRecord | Tombstone, bytes]:
    """Return a job's record and payload, or raise DamagedRecordError."""
    return _parse(key, body, _SPEC.validate_json)


def unpack_result(key: str, body: bytes) -> tuple[ResultRecord | Tombstone, bytes]:
    """Return an item's result and payload, or raise DamagedRecordError.

    Args:
        key: The object's key, for the error.
        body: All its bytes, or at least those up to the end of the line.
    """
    return _parse(key, body, _RESULT.validate_json)


def _parse(key: str, body: bytes, parse: Any) -> tuple[Any, bytes]:
    line, _, payload = body.partition(b"\n")
    try:
        return parse(line), payload
    except ValidationError as error:
        raise DamagedRecordError(
            f"{key!r} is not what the ledger writes there: {error.errors()[0]['msg']}; restore it, "
            "or delete its job"
        ) from error


def is_tombstone(body: bytes) -> bool:
    """Return whether an object is a tombstone; a damaged one is not."""
    try:
        Tombstone.model_validate_json(body)
    except ValidationError:
        return False
    return True


def shorten_reason(reason: str) -> str:
    """Return a reason cut to MAX_REASON, with anything replaced that is not Unicode."""
    reason = reason.encode("utf-8", "replace").decode()  # File names can be any bytes.
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 3] + "..."

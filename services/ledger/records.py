"""What stands in the ledger's objects: a line of JSON, and for some a payload behind it.

Every record has a nonce of its own, so that no two writes have the same bytes: after a lost answer
a writer recognises its own, and no ETag comes back. Chains of swaps count a version besides.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from services.contracts.jobs import Kind
from services.errors import DamagedRecordError

RECORD_BYTES = 4096
"""Bytes that the line of JSON of nearly every record fits into."""

MAX_REASON = 1000
"""Characters that are kept of why an attempt ended."""


class Record(BaseModel):
    """A line of JSON. Fields that this version does not know are left alone when it reads."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    nonce: str


class JobRecord(Record):
    """A job's spec. The payload is its items, and what they share, as JSON."""

    type: Literal["job"] = "job"
    kind: Kind
    pool: str
    batch: str | None = None
    count: int
    tags: dict[str, str]
    max_attempts: int


class Tombstone(Record):
    """All that is left of what was deleted. It says nothing of it."""

    type: Literal["deleted"] = "deleted"


class AcceptedRecord(Record):
    """Which job was made for an Idempotency-Key, and of what request."""

    type: Literal["accepted"] = "accepted"
    digest: str
    job: str


class JobCommandRecord(Record):
    """Something under control/: someone wants a job cancelled, retried or deleted. For a retry,
    the payload is the indices of its items as JSON.
    """

    type: Literal["order"] = "order"
    by: str = ""


class ClaimRecord(Record):
    """A worker makes an attempt at an item."""

    type: Literal["claim"] = "claim"
    worker: str


class EndedRecord(Record):
    """An attempt ended, and no result came of it."""

    type: Literal["ended"] = "ended"
    cause: Literal["failed", "lost", "released"]
    """It went wrong, its worker vanished, or its worker gave it back unharmed."""
    reason: str


class ResultRecord(Record):
    """How an item ended, for good. The payload is what was made."""

    type: Literal["result"] = "result"
    status: Literal["succeeded", "failed", "cancelled"]
    kind: Kind = "training"
    """Of the job, of a success: where an image lies, nobody may find a token."""
    attempt: int
    """Which one it came of; 0 for none."""
    reason: str = ""
    sha256: str = ""
    """Of the payload, of a success."""
    report: dict[str, JsonValue] = {}
    """What the worker says of it, in few words: scores, seconds."""


class CheckpointRecord(Record):
    """Where an attempt has got to. The payload is the worker's own."""

    type: Literal["checkpoint"] = "checkpoint"
    version: int
    step: int


class HeldAttempt(BaseModel):
    """An attempt that a worker is at, or may be: it is named before it is claimed."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)
    tenant: str
    job: str
    round: int
    index: int
    number: int
    progress: dict[str, JsonValue] = {}


class LeaseRecord(Record):
    """A worker lives, and is at these attempts. Broken and released are for good."""

    type: Literal["lease"] = "lease"
    worker: str
    pool: str
    version: int
    duration_s: float
    """It may be broken when it is older than that, by the store's clock."""
    state: Literal["held", "broken", "released"]
    attempts: tuple[HeldAttempt, ...] = ()


class RollupRecord(Record):
    """Which items have ended, and how. The payload has a line for each round, a letter an item."""

    type: Literal["rollup"] = "rollup"
    version: int
    complete: bool
    """All items of these rounds have ended."""


R = TypeVar("R", bound=Record)

SpecRecord = Annotated[JobRecord | Tombstone, Field(discriminator="type")]
DeliveryRecord = Annotated[ResultRecord | Tombstone, Field(discriminator="type")]

SPEC: TypeAdapter[JobRecord | Tombstone] = TypeAdapter(SpecRecord)
RESULT: TypeAdapter[ResultRecord | Tombstone] = TypeAdapter(DeliveryRecord)


def pack(record: Record, payload: bytes = b"") -> bytes:
    """The bytes of an object."""
    return record.model_dump_json(exclude_defaults=False).encode() + b"\n" + payload


def unpack(key: str, body: bytes, kind: type[R]) -> tuple[R, bytes]:
    """A record and its payload. Raises: DamagedRecordError."""
    return _parsed(key, body, kind.model_validate_json)


def unpack_spec(key: str, body: bytes) -> tuple[JobRecord | Tombstone, bytes]:
    """A job's spec. Raises: DamagedRecordError."""
    return _parsed(key, body, SPEC.validate_json)


def unpack_result(key: str, body: bytes) -> tuple[ResultRecord | Tombstone, bytes]:
    """How an item ended, from all its bytes or those up to the end of the line.

    Raises: DamagedRecordError.
    """
    return _parsed(key, body, RESULT.validate_json)


def _parsed(key: str, body: bytes, parse: Any) -> tuple[Any, bytes]:
    line, _, payload = body.partition(b"\n")
    try:
        return parse(line), payload
    except ValidationError as error:
        raise DamagedRecordError(
            f"{key!r} is not what the ledger writes there: {error.errors()[0]['msg']}; restore it, "
            "or delete its job"
        ) from error


def is_tombstone(body: bytes) -> bool:
    """Whether it is one; what is damaged is none."""
    try:
        Tombstone.model_validate_json(body)
    except ValidationError:
        return False
    return True


def shorten_reason(reason: str) -> str:
    """A reason as it is kept: what is not Unicode in it, such as file names, is replaced."""
    reason = reason.encode("utf-8", "replace").decode()
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 3] + "..."

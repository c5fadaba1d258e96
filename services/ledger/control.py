"""What has been asked for about a job since it was submitted: to cancel, retry or delete."""

import json
from dataclasses import dataclass

from pydantic import TypeAdapter

from services.errors import DamagedRecordError, NotFoundError
from services.ledger.layout import JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import OrderRecord, pack, unpack

_MEMBERS = TypeAdapter(list[int])


@dataclass(frozen=True, slots=True)
class Control:
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


def read_control(ledger: Ledger, keys: JobKeys) -> Control:
    """One listing. Whoever must not act against an order reads it after the last moment at which
    the order could have gone unseen: a worker after its claim, a supervisor before its survey.
    """
    names = {head.key[len(keys.control) :] for head in ledger.heads(keys.control)}
    return Control(
        cancelled="cancel" in names,
        deleted="deleted" in names,
        deleted_items=frozenset(_numbers(names, "item.")),
        retries=max(_numbers(names, "retry."), default=0),
    )


def _numbers(names: set[str], prefix: str) -> list[int]:
    """Those of orders of one kind. What others put there is passed over."""
    rest = (name[len(prefix) :] for name in names if name.startswith(prefix))
    return [int(number) for number in rest if number.isascii() and number.isdigit()]


def order(ledger: Ledger, key: str, by: str, payload: bytes = b"") -> bool:
    """Whether the order was given now; False: it stands already."""
    record = OrderRecord(nonce=ledger.ids.nonce(), by=by)
    return ledger.create(key, pack(record, payload)) is not None


def pack_members(indices: list[int]) -> bytes:
    return json.dumps(indices, separators=(",", ":")).encode()


def read_members(ledger: Ledger, keys: JobKeys, round_: int, count: int) -> list[int]:
    """Which of `count` items are in a round of retries, in order. Raises: DamagedRecordError."""
    key = keys.retry(round_)
    try:
        _, payload = unpack(key, ledger.store.read(key).body, OrderRecord)
        members = _MEMBERS.validate_json(payload)
        if not all(0 <= index < count for index in members):
            raise ValueError(f"it has items beyond the job's {count}")
        return members
    except (NotFoundError, ValueError) as error:
        raise DamagedRecordError(
            f"{key!r} is not what the ledger writes there; restore it, or delete its job"
        ) from error

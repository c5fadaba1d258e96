"""Ends of attempts and results of items. Each is created once: the first writer decides."""

from collections.abc import Sequence
from typing import Literal

from services.contracts.jobs import ItemState
from services.errors import DamagedRecordError
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.ledger import Ledger
from services.ledger.records import (
    EndedRecord,
    ResultRecord,
    Tombstone,
    pack,
    shorten_reason,
    unpack,
    unpack_result,
)

Cause = Literal["failed", "lost", "released"]

_MAX_RELEASES = 8
"""Releases of an item after which it is suspected of causing them."""


def end_attempt(
    ledger: Ledger, keys: JobKeys, item: ItemRef, number: int, cause: Cause, reason: str
) -> bool:
    """Record that an attempt ended without a result, and return whether no end was recorded yet."""
    record = EndedRecord(nonce=ledger.ids.nonce(), cause=cause, reason=shorten_reason(reason))
    # The worker and several supervisors may find different causes; the first one that is written
    # stands for all.
    return bool(ledger.create_once(keys.attempt_end(item, number), pack(record)))


def read_attempt_ends(
    ledger: Ledger, keys: JobKeys, item: ItemRef, last: int
) -> tuple[EndedRecord, ...]:
    """Return the ends of those of the attempts 1 to `last` that ended without a result."""
    ends: list[EndedRecord] = []
    for number in range(1, last + 1):
        key = keys.attempt_end(item, number)
        if not (found := ledger.find(key)):
            continue
        try:
            ends.append(unpack(key, found[1], EndedRecord)[0])
        except DamagedRecordError:
            # Counted as a failure: an item whose records are damaged must not be attempted for
            # ever.
            ends.append(EndedRecord(nonce="", cause="lost", reason="its record is damaged"))
    return tuple(ends)


def count_failures(ends: Sequence[EndedRecord]) -> int:
    """Return how many ends count towards `max_attempts`: all but releases."""
    return sum(end.cause != "released" for end in ends)


def must_run_isolated(ends: Sequence[EndedRecord], max_attempts: int) -> bool:
    """Return whether the next attempt must run with nothing else beside it.

    The last attempt does, so that no item fails for good because of another's poison, and no
    poisonous item takes another with it. So does every attempt at an item that was released again
    and again: an item that breaks whole batches cannot be identified among others, but alone.
    """
    failures = count_failures(ends)
    # With `max_attempts` 1 the first attempt is the last one, and is not isolated: such jobs could
    # not share a batch at all.
    is_last = 0 < failures == max_attempts - 1
    return is_last or len(ends) - failures >= _MAX_RELEASES


def fail_exhausted(
    ledger: Ledger, keys: JobKeys, item: ItemRef, ends: Sequence[EndedRecord]
) -> ItemState:
    """End an item whose attempts are used up, and return its final state."""
    reason = ends[-1].reason if ends else "the records of its attempts are gone"
    return end_item(ledger, keys, item, "failed", len(ends), reason)


def end_item(
    ledger: Ledger,
    keys: JobKeys,
    item: ItemRef,
    status: Literal["failed", "cancelled"],
    attempt: int,
    reason: str = "",
) -> ItemState:
    """End an item without its worker, and return its final state.

    That is another one if a worker has committed in the meantime.
    """
    record = ResultRecord(
        nonce=ledger.ids.nonce(), status=status, attempt=attempt, reason=shorten_reason(reason)
    )
    if ledger.create_once(keys.result(item), pack(record)):
        return ItemState(status)
    return read_item_state(ledger, keys, item)


def read_item_state(ledger: Ledger, keys: JobKeys, item: ItemRef) -> ItemState:
    """Return the final state of an item that has ended in a round."""
    found = ledger.find_record(keys.result(item))
    record = unpack_result(found[0].key, found[1])[0] if found else None
    if record is None or isinstance(record, Tombstone):
        return ItemState.DELETED
    return ItemState(record.status)

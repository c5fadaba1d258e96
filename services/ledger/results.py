"""How attempts and items end. Each end is created once: the first to write it has written it."""

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

_OFTEN = 8
"""Times that an item is given back by chance: more may be its doing."""


def end_attempt(
    ledger: Ledger, keys: JobKeys, place: ItemRef, number: int, cause: Cause, reason: str
) -> None:
    """Say that an attempt came to nothing, unless that has been said."""
    record = EndedRecord(nonce=ledger.ids.nonce(), cause=cause, reason=shorten_reason(reason))
    ledger.create_once(keys.attempt_end(place, number), pack(record))


def read_attempt_ends(
    ledger: Ledger, keys: JobKeys, place: ItemRef, last: int
) -> tuple[EndedRecord, ...]:
    """How attempts 1 to `last` came to nothing, those that did."""
    ended: list[EndedRecord] = []
    for number in range(1, last + 1):
        key = keys.attempt_end(place, number)
        if not (found := ledger.find(key)):
            continue
        try:
            ended.append(unpack(key, found[1], EndedRecord)[0])
        except DamagedRecordError:
            ended.append(EndedRecord(nonce="", cause="lost", reason="its record is damaged"))
    return tuple(ended)


def count_failures(ends: Sequence[EndedRecord]) -> int:
    """Those that count towards `max_attempts`: what was given back unharmed does not."""
    return sum(ended.cause != "released" for ended in ends)


def must_run_isolated(ends: Sequence[EndedRecord], max_attempts: int) -> bool:
    """Whether an item is to be tried alone. Its last attempt is, so that no item ends for good by
    another's poison, and none that may be the cause takes another with it. So are all attempts at
    one that was given back again and again: what breaks under it is taken for nobody's fault.
    """
    failures = count_failures(ends)
    return 0 < failures == max_attempts - 1 or len(ends) - failures >= _OFTEN


def fail_exhausted(
    ledger: Ledger, keys: JobKeys, place: ItemRef, ends: Sequence[EndedRecord]
) -> ItemState:
    """End an item that was tried often enough, and return how it has ended."""
    reason = ends[-1].reason if ends else "the records of its attempts are gone"
    return end_item(ledger, keys, place, "failed", len(ends), reason)


def end_item(
    ledger: Ledger,
    keys: JobKeys,
    place: ItemRef,
    status: Literal["failed", "cancelled"],
    attempt: int,
    reason: str = "",
) -> ItemState:
    """End an item without a worker, and return how it has ended: perhaps otherwise, meanwhile."""
    record = ResultRecord(
        nonce=ledger.ids.nonce(), status=status, attempt=attempt, reason=shorten_reason(reason)
    )
    if ledger.create_once(keys.result(place), pack(record)):
        return ItemState(status)
    return read_item_state(ledger, keys, place)


def read_item_state(ledger: Ledger, keys: JobKeys, place: ItemRef) -> ItemState:
    """How an item ended in a round in which it has."""
    line = ledger.find_record(keys.result(place))
    record = unpack_result(line[0].key, line[1])[0] if line else None
    if record is None or isinstance(record, Tombstone):
        return ItemState.DELETED
    return ItemState(record.status)

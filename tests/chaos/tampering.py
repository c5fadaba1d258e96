"""Ways to falsify a history, each of which a check has to detect."""

import json
from dataclasses import replace
from typing import Any

from chaos.history import History, HistoryEvent, digest
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.records import ResultRecord, Tombstone, pack

LATE = 1e12
"""A time after every event."""


def insert(history: History, event: HistoryEvent) -> History:
    """Add an event at its time."""
    events = sorted([*history.all_events, event], key=lambda event: event.time)
    return replace(history, all_events=events)


def append(history: History, event_type: str, /, **fields: Any) -> History:
    """Add an event after all others."""
    return insert(history, HistoryEvent(LATE, "test", event_type, fields))


def remove(history: History, event: HistoryEvent) -> History:
    """Remove an event."""
    events = [other for other in history.all_events if other is not event]
    return replace(history, all_events=events)


def change(history: History, event: HistoryEvent, /, **fields: Any) -> History:
    """Change fields of an event."""
    changed = replace(event, fields=event.fields | fields)
    events = [changed if other is event else other for other in history.all_events]
    return replace(history, all_events=events)


def put(history: History, key: str, body: bytes | None) -> History:
    """Add, replace or, with None, remove an object."""
    objects = {name: other for name, other in history.objects.items() if name != key}
    return replace(history, objects=objects if body is None else objects | {key: body})


def completion(history: History, op: str) -> HistoryEvent:
    """Return the completion of the client's last operation of a kind."""
    event = history.operations(op)[-1].completion
    assert event
    return event


def refuse(history: History, op: str, error: str) -> History:
    """Let the client's last operation of a kind fail with an error."""
    event = completion(history, op)
    failed = replace(event, fields={"n": event["n"], "error": error})
    return insert(remove(history, event), failed)


def job(history: History, key: str) -> JobKeys:
    """Return the keys of the job with this idempotency key."""
    return history.keys(next(job for job, name in history.jobs.items() if name == key))


def success(
    history: History, key: str = "poison-client-0"
) -> tuple[JobKeys, ItemRef, HistoryEvent]:
    """Return an item that succeeded in its first round, and its worker's event of that."""
    keys = job(history, key)
    event = next(
        event
        for event in history.events("attempt_ended")
        if event["job"] == keys.job and event["how"] == "succeeded" and event["round"] == 0
    )
    return keys, ItemRef(event["round"], event["index"]), event


def poison(history: History) -> tuple[JobKeys, ItemRef]:
    """Return an item that killed its worker."""
    event = history.events("poison")[0]
    return history.keys(event["job"]), ItemRef(event["round"], event["index"])


def replace_result(history: History, keys: JobKeys, item_ref: ItemRef, **values: Any) -> History:
    """Put another result in place of an item's."""
    record = ResultRecord.model_validate(
        {"nonce": "w.n", "status": "failed", "attempt": 1, "reason": "tampered"} | values
    )
    return put(history, keys.result(item_ref), pack(record))


def forge(history: History, *, honest_digest: bool, **fields: Any) -> History:
    """Change the payload of a success, and its digest with it if `honest_digest`."""
    keys, item_ref, _ = success(history)
    record, payload = history.results(keys.job)[item_ref]
    assert isinstance(record, ResultRecord)
    forged = json.dumps(json.loads(payload) | fields).encode()
    sha256 = digest(forged) if honest_digest else record.sha256
    return put(
        history, keys.result(item_ref), pack(record.model_copy(update={"sha256": sha256}), forged)
    )


def tombstone() -> bytes:
    return pack(Tombstone(nonce="tampered"))


def start(history: History, *, resumed: bool = False) -> HistoryEvent:
    """Return the start of an attempt, fresh or resumed from a checkpoint.

    It is of a job of which clients delete nothing.
    """
    keys = job(history, "poison-client-0")
    return next(
        event
        for event in history.events("attempt_started")
        if bool(event["checkpoint"]) is resumed and event["job"] == keys.job
    )

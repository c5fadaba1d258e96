"""Invariants of processes and states: all jobs end, views are true, caches can be rebuilt."""

from typing import Any

from chaos.history import History
from services.contracts.jobs import Counts, ItemState
from services.ledger import queries
from services.ledger.keys import QUEUE_FOLDER, ItemRef
from services.ledger.records import JobRecord, Tombstone
from services.ledger.recovery import Recovery


def process_failed(history: History) -> list[str]:
    """Find processes that exited by themselves, and jobs that recovery found damaged."""
    killed = {event["target_pid"] for event in history.events("killed")}
    terminated = {event["target_pid"] for event in history.events("terminated")}
    poisoned = {event.pid for event in history.events("poison")}
    done = {event.pid for event in history.events("done")}
    found: list[str] = []
    for event in history.events("exited"):
        pid, code = event["target_pid"], event["code"]
        if code == -9:
            expected = pid in killed | poisoned
        elif code == -15:
            expected = pid in terminated  # before the process had installed its handler
        else:
            expected = code == 0 and pid in terminated | done
        if not expected:
            found.append(f"{event['name']} exited with {code} by itself: see its .err")
    for event in history.events("recovery_pass"):
        found += [f"job {job} is damaged: {why}" for job, why in event["damaged"].items()]
    return found


def unfinished_items(history: History) -> list[str]:
    """Find items that did not end, and checkpoints left of those that did."""
    timeout_s = history.config.completion_timeout_s
    found = [
        f"not ended {timeout_s:g} s after the last fault: {event['jobs']}"
        for event in history.events("overdue")
    ]
    for job in _live_jobs(history):
        for index, state in enumerate(_states(history, job)):
            if not state.ended:
                found.append(f"{job} item {index} is {state}")
        left = history.objects_below(history.keys(job).checkpoints)
        found += [f"{job}: checkpoint {name} is left" for name in left]
    return found


def views_differ(history: History) -> list[str]:
    """Find jobs whose view has other counts than their objects."""
    found: list[str] = []
    for job in _live_jobs(history):
        view = queries.view_job(history.ledger, history.config.tenant, job).counts
        counts = Counts.of(_states(history, job))
        if view != counts:
            found.append(f"{job}: its view has {view}, its objects have {counts}")
    return found


def rebuild_differs(history: History) -> list[str]:
    """Delete queue entries and rollups, recover, and find what is not as before."""
    ledger = history.ledger
    before = _views(history)
    caches = [head.key for head in ledger.heads(QUEUE_FOLDER)]
    caches += [history.keys(job).rollup for job in _live_jobs(history)]
    ledger.gather(ledger.store.delete, caches)
    recovery = Recovery(ledger)
    recovery.sweep()
    damaged = recovery.recover().damaged
    found = [f"job {job} is damaged: {why}" for job, why in damaged.items()]
    found += [f"{head.key} is queued, but has ended" for head in ledger.heads(QUEUE_FOLDER)]
    after = _views(history)
    for job in _live_jobs(history):
        if not ledger.exists(history.keys(job).rollup):
            found.append(f"job {job} has no rollup again")
        if before[job] != after[job]:
            found.append(f"job {job} was {before[job]}, and is now {after[job]}")
    return found


def _live_jobs(history: History) -> list[str]:
    """Return the jobs that were not deleted."""
    return [job for job in history.jobs if isinstance(history.spec(job), JobRecord)]


def _states(history: History, job: str) -> list[ItemState]:
    """Derive the states of a job's items from its objects alone."""
    commands, results, rounds = history.commands(job), history.results(job), history.rounds(job)

    def state(index: int) -> ItemState:
        last = max(number for number, indices in enumerate(rounds) if index in indices)
        record = results.get(ItemRef(last, index), (None, b""))[0]
        if f"item.{index:05d}" in commands or isinstance(record, Tombstone):
            return ItemState.DELETED
        if record:
            return ItemState(record.status)
        return ItemState.CANCELLED if "cancel" in commands else ItemState.QUEUED

    return [state(index) for index in range(len(rounds[0]))]


def _views(history: History) -> dict[str, Any]:
    ledger, tenant = history.ledger, history.config.tenant
    return {
        job: (
            queries.view_job(ledger, tenant, job),
            queries.list_items(ledger, tenant, job, limit=1000),
        )
        for job in _live_jobs(history)
    }

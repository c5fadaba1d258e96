"""The invariants of the service: those of the ledger that apply, and those of the whole."""

from chaos.checker.operations import key_made_two_jobs, operation_answered_wrongly
from chaos.checker.results import result_changed
from chaos.checker.states import process_failed, unfinished_items, views_differ
from chaos.history import Check, History, HistoryEvent, digest
from chaos.service.recovery import measure_recovery
from chaos.service.tokens import TOLERANCE
from services.ledger.keys import ItemRef
from services.ledger.records import JobRecord, ResultRecord


def fault_missed(history: History) -> list[str]:
    """Find faults without a target: such a round proves nothing."""
    pids = {event["kind"]: event["pids"] for event in history.events("fault")}
    kinds = history.events("round_started")[0]["kinds"]
    return [f"there was no {kind} to be hit" for kind in kinds if not pids.get(kind)]


def item_not_succeeded_once(history: History) -> list[str]:
    """Find items without exactly one result, or with one that is no success."""
    found: list[str] = []
    for job in history.jobs:
        spec, results = history.spec(job), history.results(job)
        count = spec.count if isinstance(spec, JobRecord) else 0
        expected = {ItemRef(0, index) for index in range(count)}
        if not expected or results.keys() != expected:
            found.append(f"{job} has {count} items, and results {sorted(map(str, results))}")
        for item_ref, (record, _) in results.items():
            if not isinstance(record, ResultRecord) or record.status != "succeeded":
                found.append(f"{job} {item_ref} is {record}")
    return found


def download_differs(history: History) -> list[str]:
    """Find items whose state or token differs between the API and the store."""
    found: list[str] = []
    for job in history.jobs:
        downloads = {ItemRef(0, event["index"]): event for event in _downloads(history, job)}
        for item_ref, (record, payload) in history.results(job).items():
            download = downloads.get(item_ref)
            if not isinstance(record, ResultRecord) or digest(payload) != record.sha256:
                found.append(f"{job} {item_ref}: its payload is not that of {record}")
            elif download is None or download["state"] != record.status:
                found.append(f"{job} {item_ref} is {record.status}, but downloaded: {download}")
            elif download["sha256"] != record.sha256:
                found.append(f"{job} {item_ref} has {record.sha256}, but downloaded: {download}")
    return found


def token_worse(history: History) -> list[str]:
    """Find tokens that are unreadable, not trained to the end, or too far from the reference."""
    steps = history.events("round_started")[0]["steps"]
    found: list[str] = []
    for event in (event for job in history.jobs for event in _downloads(history, job)):
        name = f"{event['job']} item {event['index']}"
        if event["error"]:
            found.append(f"{name}: {event['error']}")
        elif event["steps"] != steps:
            found.append(f"{name} was trained for {event['steps']} of {steps} steps")
        # Negated, so that NaN is found.
        elif not event["angle"] <= TOLERANCE * event["seed_angle"]:
            found.append(
                f"{name}: {event['angle']:.3g} degrees from the reference; two seeds are "
                f"{event['seed_angle']:.3g} apart, of which {TOLERANCE:.0%} is allowed"
            )
    return found


def recovery_late(history: History) -> list[str]:
    """Find interrupted items that were not claimed within a lease and a margin.

    The time counts from when a supervisor and a worker were there to do it.
    """
    if not history.events("fault"):
        return []  # `fault_missed` finds this.
    bound_s = history.config.lease_s + history.events("round_started")[0]["recovery_margin_s"]
    recovery = measure_recovery(history)
    if not recovery.is_complete:
        return [f"of {recovery.interrupted} interrupted items, not all were claimed again"]
    if recovery.ledger_s is not None and recovery.ledger_s > bound_s:
        return [f"it took {recovery.ledger_s:.1f} s, and {bound_s:g} s are allowed: {recovery}"]
    return []


CHECKS: tuple[Check, ...] = (
    fault_missed,
    process_failed,
    operation_answered_wrongly,
    key_made_two_jobs,
    unfinished_items,
    views_differ,
    result_changed,
    item_not_succeeded_once,
    download_differs,
    token_worse,
    recovery_late,
)


def _downloads(history: History, job: str) -> list[HistoryEvent]:
    return [event for event in history.events("downloaded") if event["job"] == job]

"""Invariants of attempts: which may start, from which checkpoint, and why items fail."""

from collections import defaultdict

from chaos.history import History, HistoryEvent, attempt_of, is_payload_of
from chaos.items import may_fail
from services.ledger import queries
from services.ledger.item_results import count_failures
from services.ledger.keys import ItemRef
from services.ledger.records import JobRecord, ResultRecord

ATTEMPT_ENDS = ("attempt_ended", "superseded", "released", "abandoned", "refused")
"""Events after which a worker does not run an attempt any more."""


def attempt_of_cancelled_item(history: History) -> list[str]:
    """Find attempts claimed after a cancellation or deletion was acknowledged."""
    since: dict[tuple[str, int | None], float] = {}
    for operation in history.operations("cancel", "delete_job", "delete_item", "delete_token"):
        if operation.completion and operation.succeeded:
            target = operation.job, operation.index
            since[target] = min(since.get(target, float("inf")), operation.completion.time)
    found: list[str] = []
    for event in history.events("attempt_started"):
        for target in ((event["job"], None), (event["job"], event["index"])):
            # The time of the whole claim, since one listing of commands serves all its attempts.
            if event["requested_at"] > since.get(target, float("inf")):
                found.append(f"stopped at {since[target]:.3f}, but started: {event}")
    return found


def attempt_after_result(history: History) -> list[str]:
    """Find attempts that were claimed and started after their item had ended."""
    ended: dict[tuple[str, ItemRef], HistoryEvent] = {}
    for event in history.events("attempt_ended"):
        job, item_ref, _ = attempt_of(event)
        if event["how"] != "again":
            ended.setdefault((job, item_ref), event)
    return [
        f"the item had ended: {ended[job, item_ref]}, but started: {event}"
        for event in history.events("attempt_started")
        for job, item_ref, _ in [attempt_of(event)]
        if (job, item_ref) in ended and event["claimed_at"] > ended[job, item_ref].time
    ]


def attempt_without_latest_checkpoint(history: History) -> list[str]:
    """Find attempts that ignored an acknowledged checkpoint, or used that of another item."""
    saved: dict[tuple[str, ItemRef], list[HistoryEvent]] = defaultdict(list)
    for event in history.events("checkpoint"):
        saved[attempt_of(event)[:2]].append(event)
    found: list[str] = []
    for event in history.events("attempt_started"):
        job, item_ref, number = attempt_of(event)
        before = [
            earlier["step"]
            for earlier in saved[job, item_ref]
            if earlier.time < event["claimed_at"] and earlier["number"] < number
        ]
        latest = max(before, default=0)
        if event["resume"] < latest and not _had_ended(history, event):
            found.append(f"step {latest} was saved, but it started at {event['resume']}: {event}")
        checkpoint = event["checkpoint"]
        if checkpoint and not (
            is_payload_of(checkpoint, job, item_ref, checkpoint["number"])
            and checkpoint["step"] == event["resume"]
        ):
            found.append(f"the checkpoint of another item: {event}")
    return found


def isolated_attempt_shared(history: History) -> list[str]:
    """Find isolated attempts that a worker ran together with others."""
    found: list[str] = []
    running: dict[str, dict[tuple[str, ItemRef, int], bool]] = defaultdict(dict)
    for event in history.all_events:
        if event.type == "attempt_started":
            attempts = running[event["worker"]]
            attempts[attempt_of(event)] = event["isolated"]
            if len(attempts) > 1 and any(attempts.values()):
                found.append(f"not isolated: {sorted(map(str, attempts))} on {event['worker']}")
        elif event.type in ATTEMPT_ENDS:
            running[event["worker"]].pop(attempt_of(event), None)
    return found


def poison_unexplained(history: History) -> list[str]:
    """Find poison items that did not fail, or whose attempts give no reason."""
    found: list[str] = []
    for job in history.jobs:
        spec = history.spec(job)
        if not isinstance(spec, JobRecord) or history.cancellation_invoked(job):
            continue
        for index, item in enumerate(history.request(job).items):
            if item.work["script"] != "poison" or history.deletion_invoked(job, index):
                continue
            record = history.result(job, ItemRef(0, index))
            if not isinstance(record, ResultRecord) or record.status != "failed":
                found.append(f"{job} {ItemRef(0, index)} is poison, but its result is {record}")
            views = queries.list_attempts(history.ledger, history.config.tenant, job, index)
            first_round = [view for view in views if view.round == 0]
            failures = [view for view in first_round if view.cause in ("lost", "failed")]
            explained = all(view.reason and view.ended for view in first_round)
            if len(failures) < spec.max_attempts or not explained:
                found.append(f"{job} item {index} is poison, but its attempts are {first_round}")
    return found


def failure_without_cause(history: History) -> list[str]:
    """Find items that failed without a failure of their own and without enough lost attempts.

    The last attempt of an item is isolated, so it must not be lost to another item's poison.
    """
    poisoned = {event["worker"] for event in history.events("poison")}
    found: list[str] = []
    for job, item_ref in failed_innocents(history):
        ends = history.attempt_ends(job, item_ref)
        claims = history.claims(job)
        lost = [number for number, end in ends.items() if end.cause == "lost"]
        unscripted = [
            number
            for number, end in ends.items()
            if end.cause == "failed"
            and (history.script(job, item_ref.index), number) != ("flaky", 1)
        ]
        too_few = count_failures(list(ends.values())) < history.request(job).max_attempts
        if too_few or unscripted:
            found.append(f"{job} {item_ref} failed after {sorted(ends.items())}")
        elif claims.get((item_ref, max(lost))) in poisoned:
            found.append(f"{job} {item_ref}: another's poison killed its last attempt {max(lost)}")
    return found


def failed_innocents(history: History) -> list[tuple[str, ItemRef]]:
    """Return the failed items whose scripts do not let them fail."""
    return [
        (job, item_ref)
        for job in history.jobs
        for item_ref, (record, _) in history.results(job).items()
        if isinstance(record, ResultRecord)
        and record.status == "failed"
        and not may_fail(history.script(job, item_ref.index), item_ref.round)
    ]


def _had_ended(history: History, event: HistoryEvent) -> bool:
    """Return whether others had ended the item and removed its checkpoints."""
    job, item_ref, number = attempt_of(event)
    if history.deletion_invoked(job, item_ref.index):
        return True
    record = history.result(job, item_ref)
    return isinstance(record, ResultRecord) and record.attempt < number

"""The checks of the ledger find nothing in a good history, and each detects its tampering."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.checker import CHECKS, Check, violations
from chaos.checker.attempts import (
    attempt_after_result,
    attempt_of_cancelled_item,
    attempt_without_latest_checkpoint,
    failure_without_cause,
    isolated_attempt_shared,
    poison_unexplained,
)
from chaos.checker.operations import (
    conflict_missed,
    deletion_undone,
    key_made_two_jobs,
    operation_answered_wrongly,
    submission_lost,
)
from chaos.checker.results import result_changed, result_dishonest, success_lost
from chaos.checker.states import process_failed, rebuild_differs, unfinished_items, views_differ
from chaos.history import History, HistoryEvent, HistoryLog, read_log
from chaos.processes.scenario import Scenario, run_scenario
from chaos.tampering import (
    LATE,
    append,
    change,
    completion,
    forge,
    insert,
    job,
    poison,
    put,
    refuse,
    remove,
    replace_result,
    start,
    success,
    tombstone,
)
from services.ledger.keys import ItemRef
from services.ledger.records import EndedRecord, pack

Tampering = Callable[[History], History]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    return run_scenario(tmp_path_factory.mktemp("scenario") / "logs")


def _deleted_item_restored(history: History) -> History:
    """Put a result in place of a deleted item's tombstone."""
    keys, item_ref, _ = success(history, "first")
    index = history.operations("delete_item")[0].invocation["index"]
    return replace_result(history, keys, ItemRef(0, index), reason=f"as {item_ref}")


def _innocent_lost_to_poison(history: History) -> History:
    """Let an innocent item fail after four lost attempts, the last lost to poison."""
    keys, item_ref, _ = success(history)
    by = history.events("poison")[0]["worker"]
    claim = b'{"nonce":"n","type":"claim","worker":"%s"}\n' % by.encode()
    for number in range(1, 5):
        end = pack(EndedRecord(nonce="n", cause="lost", reason="killed"))
        history = put(history, keys.attempt_end(item_ref, number), end)
        history = put(history, keys.attempt(item_ref, number), claim)
    return replace_result(history, keys, item_ref, attempt=4)


def _later_checkpoint(history: History) -> History:
    """Add a checkpoint before a claim, later than the one that the attempt resumed from."""
    event = start(history, resumed=True)
    changed = event.fields | {"number": event["number"] - 1, "step": event["resume"] + 1}
    return insert(history, HistoryEvent(event["claimed_at"] - 1e-6, "test", "checkpoint", changed))


def _attempt_beside_isolated_one(history: History) -> History:
    event = next(event for event in history.events("attempt_started") if event["isolated"])
    beside = event.fields | {"index": 4999, "isolated": False}
    return insert(history, HistoryEvent(event.time + 1e-9, "test", "attempt_started", beside))


def _deleted_result_restored(history: History) -> History:
    event = next(event for event in history.events("result_seen") if not event["live"])
    return insert(
        history,
        HistoryEvent(LATE, "test", "result_seen", event.fields | {"live": True, "sha256": "0"}),
    )


TAMPERINGS: list[tuple[Check, Tampering]] = [
    (process_failed, lambda h: append(h, "exited", name="worker-9", target_pid=1, code=1)),
    (process_failed, lambda h: append(h, "exited", name="worker-9", target_pid=1, code=-9)),
    (process_failed, lambda h: append(h, "exited", name="worker-9", target_pid=1, code=0)),
    (process_failed, lambda h: append(h, "recovery_pass", damaged={"job": "why"})),
    (operation_answered_wrongly, lambda h: remove(h, completion(h, "view"))),
    (operation_answered_wrongly, lambda h: refuse(h, "cancel", "ConflictError")),
    (operation_answered_wrongly, lambda h: refuse(h, "again", "UnknownJobError")),
    (operation_answered_wrongly, lambda h: refuse(h, "retry", "DeletedError")),
    (operation_answered_wrongly, lambda h: refuse(h, "retry", "ConflictError")),
    (operation_answered_wrongly, lambda h: change(h, completion(h, "view"), total=4)),
    (submission_lost, lambda h: put(h, job(h, "first").spec, None)),
    (submission_lost, lambda h: put(h, job(h, "first").spec, tombstone())),
    (submission_lost, lambda h: put(h, job(h, "first").spec, h.objects[job(h, "cancelled").spec])),
    (key_made_two_jobs, lambda h: change(h, completion(h, "again"), job=job(h, "cancelled").job)),
    (key_made_two_jobs, lambda h: change(h, completion(h, "again"), created=True)),
    (
        conflict_missed,
        lambda h: change(h, completion(h, "other"), error="", job="x", created=False),
    ),
    (unfinished_items, lambda h: put(h, success(h)[0].result(success(h)[1]), None)),
    (unfinished_items, lambda h: put(h, success(h)[0].checkpoint(success(h)[1], 1), b"{}\n")),
    (unfinished_items, lambda h: append(h, "overdue", jobs=["x"])),
    (views_differ, lambda h: replace_result(h, *success(h)[:2])),
    (views_differ, lambda h: put(h, job(h, "cancelled").cancellation, None)),
    (result_changed, lambda h: change(h, _seen_result(h), sha256="0")),
    (result_changed, _deleted_result_restored),
    (result_changed, lambda h: put(h, success(h)[0].result(success(h)[1]), None)),
    (result_changed, lambda h: append(h, "result_vanished", key="x")),
    (result_dishonest, lambda h: forge(h, honest_digest=False, once="0")),
    (result_dishonest, lambda h: forge(h, honest_digest=True, index=4999)),
    (result_dishonest, lambda h: forge(h, honest_digest=True, worker="another")),
    (
        result_dishonest,
        lambda h: put(h, success(h)[0].attempt(success(h)[1], success(h)[2]["number"]), None),
    ),
    (success_lost, lambda h: put(h, success(h)[0].result(success(h)[1]), tombstone())),
    (success_lost, lambda h: forge(h, honest_digest=True, once="0")),
    (deletion_undone, _deleted_item_restored),
    (deletion_undone, lambda h: change(h, completion(h, "delete_token"), read="its payload")),
    (deletion_undone, lambda h: put(h, job(h, "first").checkpoint(ItemRef(0, 1), 1), b"{}\n")),
    (
        deletion_undone,
        lambda h: change(h, h.operations("delete_token")[0].invocation, token=_readable_token(h)),
    ),
    (
        deletion_undone,
        lambda h: put(h, job(h, "deleted").spec, h.objects[job(h, "first").spec]),
    ),
    (deletion_undone, lambda h: put(h, job(h, "deleted").attempt(ItemRef(0, 0), 1), b"{}\n")),
    (deletion_undone, lambda h: replace_result(h, job(h, "deleted"), ItemRef(0, 0))),
    (
        attempt_of_cancelled_item,
        lambda h: change(h, start(h), job=job(h, "cancelled").job, requested_at=LATE),
    ),
    (
        attempt_of_cancelled_item,
        lambda h: change(h, start(h), job=job(h, "first").job, index=1, requested_at=LATE),
    ),
    (attempt_after_result, lambda h: change(h, start(h), claimed_at=LATE)),
    (attempt_without_latest_checkpoint, _later_checkpoint),
    (
        attempt_without_latest_checkpoint,
        lambda h: change(
            h,
            start(h, resumed=True),
            checkpoint=start(h, resumed=True)["checkpoint"] | {"index": 4999},
        ),
    ),
    (isolated_attempt_shared, _attempt_beside_isolated_one),
    (poison_unexplained, lambda h: replace_result(h, *poison(h), status="succeeded", sha256="0")),
    (poison_unexplained, lambda h: put(h, poison(h)[0].result(poison(h)[1]), None)),
    (failure_without_cause, lambda h: replace_result(h, *success(h)[:2])),
    (failure_without_cause, _innocent_lost_to_poison),
]


def _seen_result(history: History) -> HistoryEvent:
    """Return the first sight of a result that was never deleted."""
    keys, item_ref, _ = success(history)
    return next(
        event for event in history.events("result_seen") if event["key"] == keys.result(item_ref)
    )


def _readable_token(history: History) -> str:
    return completion(history, "list")["tokens"][-1]


def test_an_untampered_history_has_no_violations(history: History) -> None:
    assert violations(history) == []
    assert len(history.events("poison")) == 4
    assert completion(history, "retry")["count"] > 0


@pytest.mark.parametrize(("check", "tampering"), TAMPERINGS)
def test_each_check_detects_the_tampering_that_it_is_for(
    history: History, check: Check, tampering: Tampering
) -> None:
    assert check(tampering(history))


def test_every_check_has_a_tampering() -> None:
    assert {check for check, _ in TAMPERINGS} == set(CHECKS)


def test_a_poisoned_item_without_reasons_is_found(history: History) -> None:
    keys, item_ref = poison(history)
    ended = keys.attempt_end(item_ref, 2)
    body = history.ledger.store.read(ended).body
    history.ledger.store.delete(ended)
    try:
        assert poison_unexplained(history)
    finally:
        history.ledger.store.create(ended, body)


def test_a_state_that_only_the_rollup_has_is_found(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path / "logs")
    job = scenario.submit("first")
    scenario.work()
    history = scenario.history()
    assert rebuild_differs(history) == []
    result = history.keys(job).result(ItemRef(0, 0))
    history.ledger.store.delete(result)
    assert rebuild_differs(history)


def test_a_log_survives_half_a_line(tmp_path: Path) -> None:
    log = HistoryLog(tmp_path, "client-0")
    log.append("invoked", n=0)
    with log.path.open("ab") as file:
        file.write(b'{"time": 1, "pro')
    HistoryLog(tmp_path, "client-0").append("completed", n=0)
    events = read_log(log.path)
    assert [event.type for event in events] == ["invoked", "completed"]
    assert events[0].pid == os.getpid()

"""A cancelled job begins nothing, and ends what it has begun."""

from typing import Any

import pytest

from services.contracts.jobs import ItemState, JobState
from services.errors import ConflictError
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.queries import list_attempts, list_items
from services.ledger.records import ClaimRecord, pack
from services.ledger.recovery import Recovery
from services.ledger.submissions import cancel, retry


def test_what_runs_hears_it_and_what_has_succeeded_stays(anywhere: Any) -> None:
    job = anywhere.submit(4)
    worker = anywhere.worker()
    first, second, third = worker.claim(3)
    first.succeed(b"made")
    assert cancel(anywhere.ledger, "acme", job)
    assert not cancel(anywhere.ledger, "acme", job)
    assert anywhere.view(job).state is JobState.CANCELLING
    assert anywhere.counts(job) == {"succeeded": 1, "running": 2, "cancelled": 1}
    worker.heartbeat()
    assert [attempt.stop_reason for attempt in (first, second, third)] == [
        None,
        "cancelled",
        "cancelled",
    ]
    for attempt in (second, third):
        attempt.abandon()
    assert worker.attempts == []
    assert anywhere.view(job).state is JobState.CANCELLED
    assert anywhere.counts(job) == {"succeeded": 1, "cancelled": 3}
    anywhere.wait()
    worker.heartbeat()
    assert worker.claim(4) == []
    anywhere.recover()
    assert anywhere.counts(job) == {"succeeded": 1, "cancelled": 3}
    assert not anywhere.has_queue_entry(job)
    states = [item.state for item in list_items(anywhere.ledger, "acme", job).items]
    assert states.count(ItemState.CANCELLED) == 3


def test_what_was_nearly_done_may_still_succeed(scene: Any) -> None:
    job = scene.submit(1)
    worker = scene.worker()
    [attempt] = worker.claim(1)
    cancel(scene.ledger, "acme", job)
    attempt.succeed(b"made")
    worker.heartbeat()
    assert attempt.stop_reason is None
    assert scene.view(job).state is JobState.SUCCEEDED


def test_at_every_request_of_a_claim_a_cancelled_item_does_not_begin(new_scene: Any) -> None:
    """But for a cancellation that comes after all that the claim asks for."""
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(2)
        worker = scene.worker()
        ordered = list[int]()

        def do(scene: Any = scene, job: str = job, ordered: list[int] = ordered) -> None:
            cancel(scene.ledger, "acme", job)
            ordered.append(len(scene.store.requests))

        scene.store.requests.clear()
        with scene.store.interrupted(at, do) as came:
            given = worker.claim(2)
        if came:
            assert given == []
            assert worker.attempts == []
            scene.recover()
            assert scene.counts(job) == {"cancelled": 2}
        at += 1
    assert at > 5


def test_a_worker_that_vanished_is_no_reason_to_wait_for_ever(scene: Any) -> None:
    job = scene.submit(2)
    scene.claim(1)
    cancel(scene.ledger, "acme", job)
    scene.wait(30)
    scene.recover()
    assert scene.view(job).state is JobState.CANCELLING
    scene.wait(100)
    scene.recover()
    assert scene.view(job).state is JobState.CANCELLED
    assert scene.counts(job) == {"cancelled": 2}
    assert not scene.has_queue_entry(job)


def test_what_waits_for_another_attempt_is_closed_by_the_supervisor(scene: Any) -> None:
    job = scene.submit(1)
    scene.claim()[0].fail("no")
    cancel(scene.ledger, "acme", job)
    assert scene.view(job).state is JobState.CANCELLING
    scene.wait()
    assert scene.claim() == []
    scene.recover()
    assert scene.view(job).state is JobState.CANCELLED


def test_a_failure_before_the_cancellation_is_still_listed_as_one(scene: Any) -> None:
    job = scene.submit(1)
    scene.claim()[0].fail("out of memory")
    cancel(scene.ledger, "acme", job)
    scene.recover()
    [view] = list_attempts(scene.ledger, "acme", job, 0)
    assert (view.cause, view.reason) == ("failed", "out of memory")


def test_a_job_that_has_ended_stays_as_it_is(scene: Any) -> None:
    job = scene.submit(2)
    scene.work_off()
    cancel(scene.ledger, "acme", job)
    assert scene.view(job).state is JobState.SUCCEEDED
    scene.recover()
    assert scene.view(job).state is JobState.SUCCEEDED


def test_a_cancelled_job_is_not_retried(scene: Any) -> None:
    job = scene.submit(1)
    scene.claim()[0].fail("no", retry=False)
    cancel(scene.ledger, "acme", job)
    with pytest.raises(
        ConflictError, match=f"job {job} was cancelled: submit its items as a new job"
    ):
        retry(scene.ledger, "acme", job)


def test_a_retry_and_a_cancellation_at_once_leave_nothing_running(new_scene: Any) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(1)
        scene.claim()[0].fail("no", retry=False)
        with scene.store.interrupted(
            at, lambda scene=scene, job=job: cancel(scene.ledger, "acme", job)
        ) as came:
            try:
                retry(scene.ledger, "acme", job)
            except ConflictError:
                assert came
        if came:
            scene.wait()
            assert scene.claim() == []
            scene.recover()
            assert scene.view(job).state in (JobState.CANCELLED, JobState.FAILED)
            assert not scene.has_queue_entry(job)
        at += 1


def test_a_claim_that_came_too_late_changes_nothing_of_what_is_seen(scene: Any) -> None:
    """By a worker that died before it heard the order; the rollup, which knew, is lost."""
    job = scene.submit(2)
    cancel(scene.ledger, "acme", job)
    scene.recover()
    before = list_items(scene.ledger, "acme", job)
    keys = JobKeys("acme", job)
    late = ClaimRecord(nonce="n", worker="0123456789abcdef")
    assert scene.ledger.create_once(keys.attempt(ItemRef(0, 0), 1), pack(late))
    scene.ledger.store.delete(keys.rollup)
    scene.wait(100)
    supervisor = Recovery(scene.ledger)
    supervisor.sweep()
    supervisor.recover()
    assert scene.ledger.exists(keys.result(ItemRef(0, 0))), "it was not ended as an attempt"
    assert list_items(scene.ledger, "acme", job) == before

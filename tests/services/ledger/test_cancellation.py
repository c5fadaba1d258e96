"""A cancelled job begins nothing, and ends what it has begun."""

from typing import Any

import pytest
from interruptions import at_each_request

from services.contracts.jobs import ItemState, JobState
from services.errors import ConflictError
from services.ledger.keys import ItemRef, JobKeys
from services.ledger.queries import list_attempts, list_items
from services.ledger.records import ClaimRecord, pack
from services.ledger.recovery import Recovery
from services.ledger.submissions import cancel, retry


def test_cancellation_stops_running_items_and_keeps_results(anywhere: Any) -> None:
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


def test_an_attempt_that_was_nearly_done_may_still_succeed(harness: Any) -> None:
    job = harness.submit(1)
    worker = harness.worker()
    [attempt] = worker.claim(1)
    cancel(harness.ledger, "acme", job)
    attempt.succeed(b"made")
    worker.heartbeat()
    assert attempt.stop_reason is None
    assert harness.view(job).state is JobState.SUCCEEDED


def test_at_every_request_of_a_claim_a_cancelled_item_does_not_begin(new_harness: Any) -> None:
    """The only exception is a cancellation after the last request of the claim."""
    for at, harness in at_each_request(new_harness):
        job = harness.submit(2)
        worker = harness.worker()
        ordered = list[int]()

        def do(harness: Any = harness, job: str = job, ordered: list[int] = ordered) -> None:
            cancel(harness.ledger, "acme", job)
            ordered.append(len(harness.store.requests))

        harness.store.requests.clear()
        with harness.store.interrupted(at, do) as reached:
            claimed = worker.claim(2)
        if reached:
            assert claimed == []
            assert worker.attempts == []
            harness.recover()
            assert harness.counts(job) == {"cancelled": 2}
    assert at >= 5


def test_a_worker_that_vanished_is_no_reason_to_wait_for_ever(harness: Any) -> None:
    job = harness.submit(2)
    harness.claim(1)
    cancel(harness.ledger, "acme", job)
    harness.wait(30)
    harness.recover()
    assert harness.view(job).state is JobState.CANCELLING
    harness.wait(100)
    harness.recover()
    assert harness.view(job).state is JobState.CANCELLED
    assert harness.counts(job) == {"cancelled": 2}
    assert not harness.has_queue_entry(job)


def test_the_supervisor_closes_items_that_wait_for_another_attempt(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].fail("no")
    cancel(harness.ledger, "acme", job)
    assert harness.view(job).state is JobState.CANCELLING
    harness.wait()
    assert harness.claim() == []
    harness.recover()
    assert harness.view(job).state is JobState.CANCELLED


def test_a_failure_before_the_cancellation_is_still_listed_as_one(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].fail("out of memory")
    cancel(harness.ledger, "acme", job)
    harness.recover()
    [view] = list_attempts(harness.ledger, "acme", job, 0)
    assert (view.cause, view.reason) == ("failed", "out of memory")


def test_a_job_that_has_ended_stays_as_it_is(harness: Any) -> None:
    job = harness.submit(2)
    harness.work_off()
    cancel(harness.ledger, "acme", job)
    assert harness.view(job).state is JobState.SUCCEEDED
    harness.recover()
    assert harness.view(job).state is JobState.SUCCEEDED


def test_a_cancelled_job_is_not_retried(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].fail("no", retry=False)
    cancel(harness.ledger, "acme", job)
    with pytest.raises(
        ConflictError, match=f"job {job} was cancelled: submit its items as a new job"
    ):
        retry(harness.ledger, "acme", job)


def test_a_retry_and_a_cancellation_at_once_leave_nothing_running(new_harness: Any) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(1)
        harness.claim()[0].fail("no", retry=False)
        with harness.store.interrupted(
            at, lambda harness=harness, job=job: cancel(harness.ledger, "acme", job)
        ) as reached:
            try:
                retry(harness.ledger, "acme", job)
            except ConflictError:
                assert reached
        if reached:
            harness.wait()
            assert harness.claim() == []
            harness.recover()
            assert harness.view(job).state in (JobState.CANCELLED, JobState.FAILED)
            assert not harness.has_queue_entry(job)


def test_a_claim_after_the_cancellation_does_not_change_the_job(harness: Any) -> None:
    """The worker died before it read the cancellation, and the rollup that had it is lost."""
    job = harness.submit(2)
    cancel(harness.ledger, "acme", job)
    harness.recover()
    before = list_items(harness.ledger, "acme", job)
    keys = JobKeys("acme", job)
    late = ClaimRecord(nonce="n", worker="0123456789abcdef")
    assert harness.ledger.create_once(keys.attempt(ItemRef(0, 0), 1), pack(late))
    harness.ledger.store.delete(keys.rollup)
    harness.wait(100)
    supervisor = Recovery(harness.ledger)
    supervisor.sweep()
    supervisor.recover()
    assert harness.ledger.exists(keys.result(ItemRef(0, 0))), "it was not ended as an attempt"
    assert list_items(harness.ledger, "acme", job) == before

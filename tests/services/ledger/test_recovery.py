"""Nothing is forgotten, and nothing that is damaged stops the rest."""

from typing import Any

import pytest
from interruptions import at_each_request

from services import metrics
from services.ledger.keys import ItemRef
from services.ledger.submissions import cancel, retry


def test_hints_are_rebuilt_from_the_jobs(anywhere: Any) -> None:
    waiting, finished, other = (
        anywhere.submit(1),
        anywhere.submit(1),
        anywhere.submit(1, "other"),
    )
    for attempt in anywhere.claim(3):
        if attempt.keys.job == finished:
            attempt.succeed(b"")
        else:
            attempt.release("ending")
    anywhere.recover()
    before = anywhere.keys("queue/")
    for key in before:
        anywhere.store.delete(key)
    anywhere.supervisor().sweep()
    assert anywhere.keys("queue/") == before
    assert anywhere.has_queue_entry(waiting)
    assert anywhere.has_queue_entry(other, "other")
    assert not anywhere.has_queue_entry(finished)


def test_an_ended_job_leaves_the_queue(harness: Any) -> None:
    job, other = harness.submit(2), harness.submit(2)
    seen = harness.recover()
    assert (seen.jobs, seen.finished, seen.open_items) == (2, 0, {"default": 4})
    harness.work_off(lambda attempt: attempt.succeed(b"") if attempt.keys.job == job else None)
    seen = harness.recover()
    assert (seen.jobs, seen.finished, seen.open_items) == (2, 1, {"default": 2})
    assert not harness.has_queue_entry(job)
    assert harness.has_queue_entry(other)
    assert harness.recover().jobs == 1


def test_a_sweep_does_not_touch_ended_jobs(harness: Any) -> None:
    job = harness.submit(2)
    harness.work_off()
    harness.recover()
    harness.supervisor().sweep()
    assert not harness.has_queue_entry(job)
    with harness.store.counted() as requests:
        harness.supervisor().sweep()
    assert not [name for name, _ in requests if name not in ("read", "head", "list")]


def test_checkpoints_that_were_left_over_are_swept(harness: Any) -> None:
    harness.submit(2)
    first, second = harness.claim(2)
    for attempt in (first, second):
        attempt.checkpoint(1, b"half")
    with harness.store.crashing(1, applied=False):
        first.succeed(b"")
    assert len(harness.holds("half")) == 2
    harness.supervisor().sweep()
    assert harness.holds("half") == [second.keys.checkpoint(second.item_ref, 1)]


def test_two_supervisors_at_any_moment_of_each_other_agree(new_harness: Any) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(4, max_attempts=1)
        succeeded, lost, _ = harness.claim(3)
        succeeded.succeed(b"")
        harness.wait(100)
        with harness.store.interrupted(at, harness.recover):
            harness.recover()
        assert harness.counts(job) == {"succeeded": 1, "failed": 2, "queued": 1}
        ends = [key for key in harness.keys(lost.keys.attempts) if key.endswith("ended")]
        assert len(ends) == 2
        assert harness.has_queue_entry(job)
    assert at >= 10


@pytest.mark.parametrize("applied", [False, True])
def test_a_recovery_that_ended_at_any_write_is_done_by_the_next(
    new_harness: Any, applied: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        job, cancelled = harness.submit(2, max_attempts=1), harness.submit(2)
        assert len(harness.claim(3)) == 3
        cancel(harness.ledger, "acme", cancelled)
        harness.wait(100)
        with harness.store.crashing(at, applied=applied):
            harness.recover()
        harness.supervisor().sweep()
        harness.recover()
        assert harness.counts(cancelled) == {"cancelled": 2}
        assert not harness.has_queue_entry(cancelled)
        assert set(harness.counts(job)) <= {"failed", "queued"}
    assert at >= 5


def test_a_sweep_at_any_moment_of_a_submission_does_no_harm(new_harness: Any) -> None:
    for at, harness in at_each_request(new_harness):
        with harness.store.interrupted(at, harness.supervisor().sweep):
            job = harness.submit(1)
        assert harness.has_queue_entry(job)
        assert harness.work_off() == 1


def test_a_submission_at_any_moment_of_a_sweep_or_recovery_is_found(new_harness: Any) -> None:
    for name in ("sweep", "recover"):
        for at, harness in at_each_request(new_harness):
            harness.submit(1)
            harness.work_off()
            jobs = list[str]()
            with harness.store.interrupted(
                at, lambda harness=harness, jobs=jobs: jobs.append(harness.submit(1))
            ):
                getattr(harness.supervisor(), name)()
            assert harness.work_off() == len(jobs)


def test_a_worker_keeps_its_claims_at_any_moment_of_a_recovery(new_harness: Any) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(2)
        assert len(harness.claim(1)) == 1
        harness.wait(100)
        worker, claimed = harness.worker(), list[Any]()
        with harness.store.interrupted(
            at, lambda worker=worker, claimed=claimed: claimed.extend(worker.claim(2))
        ):
            harness.recover()
        worker.heartbeat()
        harness.recover()
        assert [attempt.stop_reason for attempt in claimed] == [None] * len(claimed)
        for attempt in claimed:
            attempt.succeed(b"")
        assert harness.counts(job).get("succeeded", 0) == len(claimed)


def test_the_end_of_a_cancelled_job_is_the_same_with_and_without_its_rollup(harness: Any) -> None:
    job = harness.submit(5)
    for attempt in harness.claim(2):
        attempt.fail("no", retry=bool(attempt.item_ref.index % 2))
    cancel(harness.ledger, "acme", job)
    harness.wait(100)
    harness.recover()
    before = harness.counts(job)
    harness.store.delete(f"t/acme/jobs/{job}/rollup")
    assert harness.counts(job) == before


def test_rounds_are_in_the_rollup_and_without_it_the_same(harness: Any) -> None:
    job = harness.submit(5)
    for _ in range(3):
        harness.work_off(lambda attempt: attempt.fail("no", retry=False))
        harness.recover()
        retry(harness.ledger, "acme", job)
    first = harness.claim(2)
    for attempt in first:
        assert attempt.item_ref == ItemRef(3, attempt.item_ref.index)
        attempt.succeed(b"")
    harness.recover()
    before = harness.counts(job)
    assert before == {"succeeded": 2, "queued": 3}
    assert harness.store.read(f"t/acme/jobs/{job}/rollup").body.count(b"\n") == 4
    harness.store.delete(f"t/acme/jobs/{job}/rollup")
    assert harness.counts(job) == before


def test_ends_that_no_worker_has_counted_are_counted(harness: Any) -> None:
    counted = metrics.PrometheusMetrics(process="supervisor")
    metrics.use(counted)
    harness.submit(1, max_attempts=1)
    harness.claim(1)
    harness.wait(100)  # The worker has died.
    cancelled = harness.submit(2)
    cancel(harness.ledger, "acme", cancelled)
    harness.recover()
    harness.recover()
    text = counted.exposition()[0].decode()
    assert 'dti_attempts_total{cause="lost"} 1.0' in text
    assert 'dti_subjects_total{outcome="failed"} 1.0' in text
    assert 'dti_subjects_total{outcome="cancelled"} 2.0' in text


def test_an_end_that_a_worker_has_counted_is_not_counted_again(harness: Any) -> None:
    counted = metrics.PrometheusMetrics(process="supervisor")
    metrics.use(counted)
    harness.submit(1, max_attempts=1)
    (attempt,) = harness.claim(1)
    attempt.fail("it broke")
    harness.recover()
    text = counted.exposition()[0].decode()
    assert "dti_attempts_total{" not in text
    assert "dti_subjects_total{" not in text

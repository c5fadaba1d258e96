"""Failed items are tried again, in a round of their own."""

from typing import Any

import pytest
from interruptions import at_each_request

from services.contracts.jobs import JobState
from services.errors import ConflictError
from services.ledger.queries import list_attempts, list_items, read_token
from services.ledger.queue import enqueue
from services.ledger.submissions import retry


def _failed(harness: Any, count: int = 4) -> str:
    """Return a job whose items with odd numbers have failed."""
    job = harness.submit(count)

    def do(attempt: Any) -> None:
        if attempt.item_ref.index % 2:
            attempt.fail("no", retry=False)
        else:
            attempt.succeed(b"at once")

    assert harness.work_off(do) == count
    return job


def test_only_failed_items_are_tried_again_as_often_as_at_first(anywhere: Any) -> None:
    job = _failed(anywhere)
    assert anywhere.view(job).state is JobState.PARTIALLY_SUCCEEDED
    assert retry(anywhere.ledger, "acme", job) == 2
    assert retry(anywhere.ledger, "acme", job) == 0
    assert anywhere.view(job).state is JobState.RUNNING
    assert anywhere.counts(job) == {"succeeded": 2, "queued": 2}
    attempts = anywhere.claim(8)
    assert sorted((a.item_ref.round, a.item_ref.index, a.number) for a in attempts) == [
        (1, 1, 1),
        (1, 3, 1),
    ]
    assert [a.earlier_ends for a in attempts] == [(), ()]
    for attempt in attempts:
        attempt.succeed(b"in the end")
    assert anywhere.counts(job) == {"succeeded": 4}
    tokens = [item.token for item in list_items(anywhere.ledger, "acme", job).items]
    assert tokens == [f"tok_{job}{index % 2:02d}{index:05d}" for index in range(4)]
    assert read_token(anywhere.ledger, "acme", tokens[1]).payload == b"in the end"
    views = list_attempts(anywhere.ledger, "acme", job, 1)
    assert [(v.round, v.number, v.cause) for v in views] == [(0, 1, "failed"), (1, 1, "succeeded")]


def test_an_item_may_fail_in_round_after_round(harness: Any) -> None:
    job = harness.submit(1, max_attempts=1)
    for round_ in range(99):
        [attempt] = harness.claim()
        assert attempt.item_ref.round == round_
        attempt.fail("no")
        if round_ % 10 == 5:
            harness.recover()
        if round_ < 98:
            assert retry(harness.ledger, "acme", job) == 1
        harness.wait()
    assert retry(harness.ledger, "acme", job) == 1
    harness.claim()[0].fail("no")
    with pytest.raises(ConflictError, match="retried 99 times, which is the limit"):
        retry(harness.ledger, "acme", job)


def test_running_items_continue_while_others_are_retried(harness: Any) -> None:
    job = harness.submit(2)
    first, second = harness.claim(2)
    first.fail("no", retry=False)
    assert retry(harness.ledger, "acme", job) == 1
    assert harness.counts(job) == {"running": 1, "queued": 1}
    second.succeed(b"")
    assert harness.work_off() == 1
    assert harness.counts(job) == {"succeeded": 2}


def test_two_retries_at_once_make_one_round(new_harness: Any) -> None:
    for at, harness in at_each_request(new_harness):
        job = _failed(harness)
        harness.recover()
        counted = list[int]()

        def do(harness: Any = harness, job: str = job, counted: list[int] = counted) -> None:
            counted.append(retry(harness.ledger, "acme", job))

        with harness.store.interrupted(at, do) as reached:
            do()
        assert sorted(counted) == ([0, 2] if reached else [2])
        assert harness.work_off() == 2
        assert harness.counts(job) == {"succeeded": 4}
    assert at >= 4


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("finished", [False, True])
def test_a_retry_at_any_moment_of_a_recovery_finds_workers(
    new_harness: Any, applied: bool, finished: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        job = _failed(harness)
        if finished:
            harness.recover()
            enqueue(harness.ledger, "default", "acme", job)
        with harness.store.interrupted(
            at, lambda harness=harness, job=job: retry(harness.ledger, "acme", job), applied=applied
        ) as reached:
            harness.recover()
        if reached:
            assert harness.has_queue_entry(job)
            assert harness.work_off() == 2


@pytest.mark.parametrize("applied", [False, True])
def test_a_recovery_at_any_moment_of_a_retry_leaves_it_to_workers(
    new_harness: Any, applied: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        job = _failed(harness)
        with harness.store.interrupted(at, harness.recover, applied=applied):
            assert retry(harness.ledger, "acme", job) == 2
        assert harness.has_queue_entry(job)
        harness.recover()
        assert harness.work_off() == 2
        assert harness.counts(job) == {"succeeded": 4}


def test_two_supervisors_and_a_retry_leave_a_hint(new_harness: Any) -> None:
    """The second supervisor comes in anywhere after the retry, which comes in anywhere."""
    for at in range(12):
        for later in range(12):
            harness = new_harness()
            job = _failed(harness, 2)

            def do(harness: Any = harness, job: str = job, later: int = later) -> None:
                retry(harness.ledger, "acme", job)
                left = later

                def step(*_: str) -> None:
                    nonlocal left
                    left -= 1
                    if left == -1:
                        harness.store.before = None
                        harness.recover()

                harness.store.before = step

            with harness.store.interrupted(at, do) as reached:
                harness.recover()
            if reached:
                assert harness.has_queue_entry(job), (at, later)


def test_after_a_crash_at_any_write_of_a_retry_a_sweep_finds_it(new_harness: Any) -> None:
    for at in range(2):
        for applied in (False, True):
            harness = new_harness()
            job = _failed(harness)
            harness.recover()
            with harness.store.crashing(at, applied=applied):
                retry(harness.ledger, "acme", job)
            harness.supervisor().sweep()
            retry(harness.ledger, "acme", job)
            assert harness.has_queue_entry(job)
            assert harness.work_off() == 2


def test_after_a_crash_at_any_write_of_a_retry_calling_it_again_is_enough(new_harness: Any) -> None:
    for at in range(2):
        for applied in (False, True):
            harness = new_harness()
            job = _failed(harness)
            harness.recover()
            with harness.store.crashing(at, applied=applied):
                retry(harness.ledger, "acme", job)
            retry(harness.ledger, "acme", job)
            assert harness.has_queue_entry(job)

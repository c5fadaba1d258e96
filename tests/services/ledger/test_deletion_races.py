"""Whatever happens within a deletion, or a deletion within whatever, nothing is left of it."""

from typing import Any

import pytest
from deletions import (
    DELETIONS,
    Deletion,
    delete_its_first_item,
    delete_its_tenant,
    submit_secrets,
    token_of,
)
from interruptions import at_each_request

from services.errors import DeletedError, SupersededError
from services.ledger.deletion import delete_tenant
from services.ledger.queries import read_token
from services.ledger.submissions import retry, submit


def _commit_within(new_harness: Any, delete: Deletion, applied: bool, checkpoint: bool) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(1)
        [attempt] = harness.claim()

        def do(attempt: Any = attempt) -> None:
            if checkpoint:
                attempt.checkpoint(1, b"secret")
            try:
                attempt.succeed(b"secret")
            except SupersededError:
                return

        with harness.store.interrupted(at, do, applied=applied):
            delete(harness, job)
        assert harness.holds("secret") == []


@pytest.mark.parametrize("delete", DELETIONS)
@pytest.mark.parametrize("applied", [False, True])
def test_a_commit_at_any_moment_of_a_deletion_leaves_nothing(
    new_harness: Any, delete: Deletion, applied: bool
) -> None:
    _commit_within(new_harness, delete, applied, checkpoint=False)


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_checkpoint_at_any_moment_of_a_deletion_goes_with_its_attempt(
    new_harness: Any, delete: Deletion
) -> None:
    _commit_within(new_harness, delete, applied=True, checkpoint=True)


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_claim_at_any_moment_of_a_deletion_does_not_outlive_it(
    new_harness: Any, delete: Deletion
) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(1)
        worker, claimed = harness.worker(), list[Any]()
        with harness.store.interrupted(
            at, lambda worker=worker, claimed=claimed: claimed.extend(worker.claim(1))
        ):
            delete(harness, job)
        worker.heartbeat()
        assert [attempt.stop_reason for attempt in claimed] == ["deleted"] * len(claimed)
        for attempt in claimed:
            with pytest.raises(SupersededError):
                attempt.succeed(b"secret")
        harness.supervisor().sweep()
        harness.recover()
        assert not harness.has_queue_entry(job) or delete is delete_its_first_item
        harness.wait()
        assert harness.claim() == []


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_deletion_at_any_moment_of_a_claim_stops_it(new_harness: Any, delete: Deletion) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(1)
        worker = harness.worker()
        with harness.store.interrupted(
            at, lambda harness=harness, job=job: delete(harness, job)
        ) as reached:
            claimed = worker.claim(1)
        if reached:
            assert claimed == []
            assert worker.attempts == []


@pytest.mark.parametrize("delete", DELETIONS)
@pytest.mark.parametrize("applied", [False, True])
def test_a_retry_at_any_moment_of_a_deletion_brings_nothing_back(
    new_harness: Any, delete: Deletion, applied: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(1)
        harness.claim()[0].fail("no", retry=False)

        def do(harness: Any = harness, job: str = job) -> None:
            try:
                retry(harness.ledger, "acme", job)
            except DeletedError:
                return

        with harness.store.interrupted(at, do, applied=applied):
            delete(harness, job)
        assert harness.claim() == []
        harness.recover()
        harness.supervisor().sweep()
        harness.recover()
        assert not harness.has_queue_entry(job)


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_deletion_at_any_moment_of_a_retry_brings_nothing_back(
    new_harness: Any, delete: Deletion
) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(1)
        harness.claim()[0].fail("no", retry=False)
        with harness.store.interrupted(
            at, lambda harness=harness, job=job: delete(harness, job)
        ) as reached:
            try:
                retry(harness.ledger, "acme", job)
            except DeletedError:
                assert reached
        assert not reached or harness.claim() == []


@pytest.mark.parametrize("delete", DELETIONS)
@pytest.mark.parametrize("applied", [False, True])
def test_a_deletion_that_ended_at_any_write_is_finished_by_a_sweep(
    new_harness: Any, delete: Deletion, applied: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        job, other = submit_secrets(harness), submit_secrets(harness, "other")
        waiting = harness.submit(1)
        [attempt] = harness.claim()
        attempt.checkpoint(1, b"secret checkpoint of acme")
        with harness.store.crashing(at, applied=applied):
            delete(harness, job)
        if at or applied:  # or it was never asked for
            harness.supervisor().sweep()
            harness.recover()
            harness.supervisor().sweep()
            with pytest.raises(DeletedError):
                read_token(harness.ledger, "acme", token_of(job))
            assert harness.holds("secret 0 of acme") == []
            left = harness.holds("secret checkpoint of acme")
            assert not [key for key in left if delete is delete_its_tenant or waiting not in key]
        assert harness.counts(other, "other") == {"succeeded": 2}


@pytest.mark.parametrize("applied", [False, True])
def test_a_tenant_deleted_at_any_moment_of_a_submission_keeps_nothing(
    new_harness: Any, applied: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        with harness.store.interrupted(
            at, lambda harness=harness: delete_tenant(harness.ledger, "acme"), applied=applied
        ) as reached:
            try:
                submit(harness.ledger, "acme", "key", harness.request())
            except DeletedError:
                assert reached
        if reached:
            assert harness.claim() == []
            harness.supervisor().sweep()
            harness.recover()
            assert harness.holds("item 0") == []
            assert harness.keys("queue/") == []
            assert harness.keys("t/acme/idempotency/") == []


@pytest.mark.parametrize("applied", [False, True])
def test_a_submission_at_any_moment_of_a_tenants_deletion_keeps_nothing(
    new_harness: Any, applied: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        submit_secrets(harness)

        def do(harness: Any = harness) -> None:
            try:
                submit(harness.ledger, "acme", "key", harness.request())
            except DeletedError:
                return

        with harness.store.interrupted(at, do, applied=applied) as reached:
            delete_tenant(harness.ledger, "acme")
        if reached:
            harness.supervisor().sweep()
            harness.recover()
            assert harness.holds("item 0") == harness.holds("secret") == []
            assert harness.keys("queue/") == []


def test_a_repeated_submission_meets_a_deletion_with_the_right_error(new_harness: Any) -> None:
    for at, harness in at_each_request(new_harness):
        submit(harness.ledger, "acme", "key", harness.request())
        with harness.store.interrupted(
            at, lambda harness=harness: delete_tenant(harness.ledger, "acme")
        ) as reached:
            try:
                submit(harness.ledger, "acme", "key", harness.request())
            except DeletedError:
                assert reached


@pytest.mark.parametrize("delete", DELETIONS)
@pytest.mark.parametrize("applied", [False, True])
def test_a_recovery_at_any_moment_of_a_deletion_and_after_it_agree(
    new_harness: Any, delete: Deletion, applied: bool
) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(2)
        harness.claim()
        harness.wait(100)
        with harness.store.interrupted(at, harness.recover, applied=applied):
            delete(harness, job)
        harness.recover()
        if delete is delete_its_first_item:
            assert harness.counts(job) == {"queued": 1, "deleted": 1}
        else:
            assert not harness.has_queue_entry(job)


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_deletion_at_any_moment_of_a_recovery_does_not_stop_it(
    new_harness: Any, delete: Deletion
) -> None:
    for at, harness in at_each_request(new_harness):
        job = harness.submit(2)
        harness.claim()
        harness.wait(100)
        with harness.store.interrupted(at, lambda harness=harness, job=job: delete(harness, job)):
            harness.recover()

"""Deleted data is gone from every place and does not come back."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from deletions import DELETIONS, Deletion, submit_secrets, token_of
from interruptions import at_each_request

from services.contracts.jobs import ItemState
from services.errors import DeletedError, InvalidIdError, SupersededError, UnknownJobError
from services.ledger.deletion import delete_item, delete_job, delete_tenant, delete_token
from services.ledger.queries import list_attempts, list_items, list_jobs, read_token, view_job
from services.ledger.submissions import retry


def test_a_deleted_token_is_nowhere(anywhere: Any) -> None:
    job = submit_secrets(anywhere)
    delete_token(anywhere.ledger, "acme", token_of(job))
    delete_token(anywhere.ledger, "acme", token_of(job))
    with pytest.raises(DeletedError, match="was deleted"):
        read_token(anywhere.ledger, "acme", token_of(job))
    assert anywhere.counts(job) == {"succeeded": 1, "deleted": 1}
    assert anywhere.holds("secret") == [f"t/acme/jobs/{job}/results/00.00001"]
    view = list_items(anywhere.ledger, "acme", job).items[0]
    assert (view.state, view.token, view.report) == (ItemState.DELETED, None, None)


def test_a_deleted_job_is_nowhere(anywhere: Any) -> None:
    job, other = submit_secrets(anywhere), submit_secrets(anywhere)
    delete_job(anywhere.ledger, "acme", job)
    delete_job(anywhere.ledger, "acme", job)
    for read in (view_job, list_items, lambda *a: list_attempts(*a, 0), lambda *a: retry(*a)):
        with pytest.raises(DeletedError, match=job):
            read(anywhere.ledger, "acme", job)
    with pytest.raises(DeletedError):
        read_token(anywhere.ledger, "acme", token_of(job))
    assert [view.job for view in list_jobs(anywhere.ledger, "acme").jobs] == [other]
    for words in ("secret", "item 0"):
        assert not [key for key in anywhere.holds(words) if other not in key]


def test_tombstones_say_nothing(harness: Any) -> None:
    job = submit_secrets(harness)
    delete_job(harness.ledger, "acme", job)
    for name in ("spec", "results/00.00000", "results/00.00001"):
        stone = json.loads(harness.store.read(f"t/acme/jobs/{job}/{name}").body)
        assert set(stone) == {"nonce", "type"}
        assert stone["type"] == "deleted"
    left = [key.split("/")[4] for key in harness.keys(f"t/acme/jobs/{job}/")]
    assert set(left) == {"spec", "results", "control"}


def test_a_deleted_tenant_is_nowhere_and_others_are_as_before(anywhere: Any) -> None:
    job, other = submit_secrets(anywhere), submit_secrets(anywhere, "other")
    delete_tenant(anywhere.ledger, "acme")
    delete_tenant(anywhere.ledger, "acme")
    anywhere.recover()
    assert anywhere.holds("of acme") == []
    assert list_jobs(anywhere.ledger, "acme").jobs == ()
    with pytest.raises(DeletedError):
        view_job(anywhere.ledger, "acme", job)
    assert not anywhere.keys("t/acme/idempotency/")
    assert anywhere.counts(other, "other") == {"succeeded": 2}
    assert read_token(anywhere.ledger, "other", token_of(other)).payload == b"secret 0 of other"
    delete_tenant(anywhere.ledger, "other")
    assert anywhere.holds("secret") == []


def test_an_item_deleted_before_it_ran_never_runs(harness: Any) -> None:
    job = harness.submit(3)
    delete_item(harness.ledger, "acme", job, 1)
    assert {attempt.item_ref.index for attempt in harness.claim(8)} == {0, 2}
    assert harness.counts(job) == {"running": 2, "deleted": 1}


@pytest.mark.parametrize("delete", DELETIONS)
def test_deletion_stops_running_attempts_and_leaves_nothing(harness: Any, delete: Deletion) -> None:
    job = harness.submit(1)
    worker = harness.worker()
    [attempt] = worker.claim(1)
    attempt.checkpoint(1, b"secret")
    delete(harness, job)
    worker.heartbeat()
    assert attempt.stop_reason == "deleted"
    attempt.abandon()
    assert worker.attempts == []
    assert harness.holds("secret") == []


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_running_attempt_cannot_commit_after_the_deletion(harness: Any, delete: Deletion) -> None:
    job = harness.submit(1)
    [attempt] = harness.claim()
    delete(harness, job)
    with pytest.raises(SupersededError, match="has ended as deleted"):
        attempt.succeed(b"secret")
    assert harness.holds("secret") == []


def test_deleting_what_does_not_exist_is_refused(harness: Any) -> None:
    job = submit_secrets(harness)
    for index in (-1, 2):
        with pytest.raises(UnknownJobError, match=f"job {job} has no item {index}"):
            delete_item(harness.ledger, "acme", job, index)
    for do in (
        lambda: delete_job(harness.ledger, "other", job),
        lambda: delete_item(harness.ledger, "other", job, 0),
        lambda: delete_token(harness.ledger, "other", token_of(job)),
        lambda: delete_token(harness.ledger, "acme", token_of(job, 2)),
    ):
        with pytest.raises(UnknownJobError):
            do()
    with pytest.raises(InvalidIdError):
        delete_token(harness.ledger, "acme", "x")
    with pytest.raises(InvalidIdError):
        delete_tenant(harness.ledger, "../acme")
    assert harness.counts(job) == {"succeeded": 2}


@pytest.mark.parametrize("round_", [0, 5])
def test_a_token_that_there_is_not_deletes_no_item(harness: Any, round_: int) -> None:
    job = harness.submit(1)
    with pytest.raises(UnknownJobError):
        delete_token(harness.ledger, "acme", f"tok_{job}{round_:02d}00000")
    assert harness.counts(job) == {"queued": 1}


def test_an_item_whose_deletion_is_unfinished_shows_nothing(harness: Any) -> None:
    job = submit_secrets(harness)
    with harness.store.crashing(1, applied=False):
        delete_item(harness.ledger, "acme", job, 0)
    view = list_items(harness.ledger, "acme", job).items[0]
    assert (view.state, view.token, view.report) == (ItemState.DELETED, None, None)


@pytest.mark.parametrize("delete", [delete_job, delete_tenant])
def test_recovery_finishes_a_deletion_that_was_only_requested(
    new_harness: Any, delete: Callable[..., None]
) -> None:
    """It needs no sweep, and works for an ended job as well."""
    for at, harness in at_each_request(new_harness):
        job = submit_secrets(harness)
        harness.recover()
        harness.submit(1)
        harness.claim(1)
        target = ("acme", job) if delete is delete_job else ("acme",)
        with harness.store.crashing(at, applied=True):
            delete(harness.ledger, *target)
        if at > 0:
            harness.recover()
            assert harness.holds("secret") == []
    assert at >= 5

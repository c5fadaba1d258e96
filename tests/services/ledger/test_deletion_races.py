"""Whatever happens within a deletion, or a deletion within whatever, nothing is left of it."""

from collections.abc import Callable
from typing import Any

import pytest

from services.errors import DeletedError, SupersededError
from services.ledger.deletion import delete_item, delete_job, delete_tenant
from services.ledger.queries import read_token
from services.ledger.submissions import retry, submit


def _secret(scene: Any, tenant: str = "acme") -> str:
    """A job of two items that have made secrets, one by way of a checkpoint."""
    job = scene.submit(2, tenant)
    for attempt in scene.claim(2):
        attempt.checkpoint(1, f"secret checkpoint of {tenant}".encode())
        attempt.succeed(f"secret {attempt.item_ref.index} of {tenant}".encode(), {"why": "secret"})
    return job


def _token(job: str, index: int = 0) -> str:
    return f"tok_{job}00{index:05d}"


def _job(scene: Any, job: str) -> None:
    delete_job(scene.ledger, "acme", job)


def _item(scene: Any, job: str) -> None:
    delete_item(scene.ledger, "acme", job, 0)


def _tenant(scene: Any, _: str) -> None:
    delete_tenant(scene.ledger, "acme")


DELETIONS = [_item, _job, _tenant]
Deletion = Callable[[Any, str], None]


def _commit_within(new_scene: Any, delete: Deletion, applied: bool, checkpoint: bool) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(1)
        [attempt] = scene.claim()

        def do(attempt: Any = attempt) -> None:
            if checkpoint:
                attempt.checkpoint(1, b"secret")
            try:
                attempt.succeed(b"secret")
            except SupersededError:
                return

        with scene.store.interrupted(at, do, applied=applied) as came:
            delete(scene, job)
        assert scene.holds("secret") == []
        at += 1


@pytest.mark.parametrize("delete", DELETIONS)
@pytest.mark.parametrize("applied", [False, True])
def test_a_commit_at_any_moment_of_a_deletion_leaves_nothing(
    new_scene: Any, delete: Deletion, applied: bool
) -> None:
    _commit_within(new_scene, delete, applied, checkpoint=False)


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_checkpoint_at_any_moment_of_a_deletion_goes_with_its_attempt(
    new_scene: Any, delete: Deletion
) -> None:
    _commit_within(new_scene, delete, applied=True, checkpoint=True)


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_claim_at_any_moment_of_a_deletion_does_not_outlive_it(
    new_scene: Any, delete: Deletion
) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(1)
        worker, given = scene.worker(), list[Any]()
        with scene.store.interrupted(
            at, lambda worker=worker, given=given: given.extend(worker.claim(1))
        ) as came:
            delete(scene, job)
        worker.heartbeat()
        assert [attempt.stop_reason for attempt in given] == ["deleted"] * len(given)
        for attempt in given:
            with pytest.raises(SupersededError):
                attempt.succeed(b"secret")
        scene.supervisor().sweep()
        scene.recover()
        assert not scene.has_queue_entry(job) or delete is _item
        scene.wait()
        assert scene.claim() == []
        at += 1


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_deletion_at_any_moment_of_a_claim_is_heard(new_scene: Any, delete: Deletion) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(1)
        worker = scene.worker()
        with scene.store.interrupted(at, lambda scene=scene, job=job: delete(scene, job)) as came:
            given = worker.claim(1)
        if came:
            assert given == []
            assert worker.attempts == []
        at += 1


@pytest.mark.parametrize("delete", DELETIONS)
@pytest.mark.parametrize("applied", [False, True])
def test_a_retry_at_any_moment_of_a_deletion_brings_nothing_back(
    new_scene: Any, delete: Deletion, applied: bool
) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(1)
        scene.claim()[0].fail("no", retry=False)

        def do(scene: Any = scene, job: str = job) -> None:
            try:
                retry(scene.ledger, "acme", job)
            except DeletedError:
                return

        with scene.store.interrupted(at, do, applied=applied) as came:
            delete(scene, job)
        assert scene.claim() == []
        scene.recover()
        scene.supervisor().sweep()
        scene.recover()
        assert not scene.has_queue_entry(job)
        at += 1


@pytest.mark.parametrize("delete", DELETIONS)
def test_a_deletion_at_any_moment_of_a_retry_brings_nothing_back(
    new_scene: Any, delete: Deletion
) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(1)
        scene.claim()[0].fail("no", retry=False)
        with scene.store.interrupted(at, lambda scene=scene, job=job: delete(scene, job)) as came:
            try:
                retry(scene.ledger, "acme", job)
            except DeletedError:
                assert came
        assert not came or scene.claim() == []
        at += 1


@pytest.mark.parametrize("delete", DELETIONS)
@pytest.mark.parametrize("applied", [False, True])
def test_a_deletion_that_ended_at_any_write_is_finished_by_a_sweep(
    new_scene: Any, delete: Deletion, applied: bool
) -> None:
    at, crashed = 0, [True]
    while crashed:
        scene = new_scene()
        job, other = _secret(scene), _secret(scene, "other")
        waiting = scene.submit(1)
        [attempt] = scene.claim()
        attempt.checkpoint(1, b"secret checkpoint of acme")
        with scene.store.crashing(at, applied=applied) as crashed:
            delete(scene, job)
        if at or applied:  # or it was never asked for
            scene.supervisor().sweep()
            scene.recover()
            scene.supervisor().sweep()
            with pytest.raises(DeletedError):
                read_token(scene.ledger, "acme", _token(job))
            assert scene.holds("secret 0 of acme") == []
            left = scene.holds("secret checkpoint of acme")
            assert not [key for key in left if delete is _tenant or waiting not in key]
        assert scene.counts(other, "other") == {"succeeded": 2}
        at += 1


@pytest.mark.parametrize("applied", [False, True])
def test_a_tenant_deleted_at_any_moment_of_a_submission_keeps_nothing(
    new_scene: Any, applied: bool
) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        with scene.store.interrupted(
            at, lambda scene=scene: delete_tenant(scene.ledger, "acme"), applied=applied
        ) as came:
            try:
                submit(scene.ledger, "acme", "key", scene.request())
            except DeletedError:
                assert came
        if came:
            assert scene.claim() == []
            scene.supervisor().sweep()
            scene.recover()
            assert scene.holds("item 0") == []
            assert scene.keys("queue/") == []
            assert scene.keys("t/acme/idempotency/") == []
        at += 1


@pytest.mark.parametrize("applied", [False, True])
def test_a_submission_at_any_moment_of_a_tenants_deletion_keeps_nothing(
    new_scene: Any, applied: bool
) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        _secret(scene)

        def do(scene: Any = scene) -> None:
            try:
                submit(scene.ledger, "acme", "key", scene.request())
            except DeletedError:
                return

        with scene.store.interrupted(at, do, applied=applied) as came:
            delete_tenant(scene.ledger, "acme")
        if came:
            scene.supervisor().sweep()
            scene.recover()
            assert scene.holds("item 0") == scene.holds("secret") == []
            assert scene.keys("queue/") == []
        at += 1


def test_a_repeated_submission_meets_a_deletion_with_the_right_error(new_scene: Any) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        submit(scene.ledger, "acme", "key", scene.request())
        with scene.store.interrupted(
            at, lambda scene=scene: delete_tenant(scene.ledger, "acme")
        ) as came:
            try:
                submit(scene.ledger, "acme", "key", scene.request())
            except DeletedError:
                assert came
        at += 1


@pytest.mark.parametrize("delete", DELETIONS)
@pytest.mark.parametrize("applied", [False, True])
def test_a_recovery_at_any_moment_of_a_deletion_and_after_it_agree(
    new_scene: Any, delete: Deletion, applied: bool
) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(2)
        scene.claim()
        scene.wait(100)
        with scene.store.interrupted(at, scene.recover, applied=applied) as came:
            delete(scene, job)
        scene.recover()
        if delete is _item:
            assert scene.counts(job) == {"queued": 1, "deleted": 1}
        else:
            assert not scene.has_queue_entry(job)
        at += 1


@pytest.mark.parametrize("delete", [_item, _job, _tenant])
def test_a_deletion_at_any_moment_of_a_recovery_does_not_stop_it(
    new_scene: Any, delete: Deletion
) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(2)
        scene.claim()
        scene.wait(100)
        with scene.store.interrupted(at, lambda scene=scene, job=job: delete(scene, job)) as came:
            scene.recover()
        at += 1

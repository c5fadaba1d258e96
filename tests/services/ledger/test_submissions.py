"""A job is made once, whatever happens meanwhile."""

from typing import Any

import pytest

from services.errors import ConflictError, DeletedError, InvalidIdError, UnknownJobError
from services.ledger import deletion
from services.ledger.submissions import MAX_IDEMPOTENCY_KEY, Submission, cancel, retry, submit


def test_the_same_request_with_the_same_key_is_the_same_job(anywhere: Any) -> None:
    request = anywhere.request(3, tags={"a": "b"})
    first = submit(anywhere.ledger, "acme", "key", request)
    assert first.created
    anywhere.wait(1)
    assert submit(anywhere.ledger, "acme", "key", request) == Submission(first.job, False)
    view = anywhere.view(first.job)
    assert (view.count, view.tags, view.pool, view.kind) == (3, {"a": "b"}, "default", "training")
    assert len(anywhere.keys("queue/")) == 1


def test_another_request_with_the_same_key_is_a_conflict_that_names_the_job(scene: Any) -> None:
    first = submit(scene.ledger, "acme", "key", scene.request(3))
    with pytest.raises(ConflictError, match=rf"'key'.*made job {first.job}: use a new key"):
        submit(scene.ledger, "acme", "key", scene.request(4))
    assert scene.view(first.job).count == 3


def test_a_key_is_one_tenants_own(scene: Any) -> None:
    jobs = {submit(scene.ledger, who, "key", scene.request()).job for who in ("acme", "other")}
    assert len(jobs) == 2


@pytest.mark.parametrize("key", ["", "x" * (MAX_IDEMPOTENCY_KEY + 1)])
def test_a_key_of_a_wrong_length_is_refused(scene: Any, key: str) -> None:
    with pytest.raises(ConflictError, match=rf"has {len(key)} characters: give 1 to 255"):
        submit(scene.ledger, "acme", key, scene.request())
    assert scene.keys() == []


def test_any_text_is_a_key(scene: Any) -> None:
    for key in ("x" * MAX_IDEMPOTENCY_KEY, "../../a", "ä\n", " "):
        assert submit(scene.ledger, "acme", key, scene.request()).created


def test_what_is_no_tenant_is_refused_before_anything_is_written(scene: Any) -> None:
    with pytest.raises(InvalidIdError):
        submit(scene.ledger, "A/B", "key", scene.request())
    assert scene.keys() == []


def test_after_a_crash_at_any_write_the_same_call_makes_one_whole_job(new_scene: Any) -> None:
    for applied in (False, True):
        crashed, at = True, 0
        while crashed:
            scene = new_scene()
            request = scene.request()
            with scene.store.crashing(at, applied=applied) as crashed:
                submit(scene.ledger, "acme", "key", request)
            scene.supervisor().sweep()  # in between, it does no harm
            job = submit(scene.ledger, "acme", "key", request).job
            assert submit(scene.ledger, "acme", "key", request) == Submission(job, False)
            assert [key for key in scene.keys("") if key.endswith("/spec")] == [
                f"t/acme/jobs/{job}/spec"
            ]
            assert scene.has_queue_entry(job)
            assert scene.work_off() == 3
            assert scene.counts(job) == {"succeeded": 3}
            at += 1
        assert at - 1 == 3  # the key, the spec, the hint


def test_a_crash_between_spec_and_hint_is_mended_by_a_sweep(scene: Any) -> None:
    with scene.store.crashing(1, applied=True):
        submit(scene.ledger, "acme", "key", scene.request())
    assert scene.keys("queue/") == []
    scene.supervisor().sweep()
    assert scene.work_off() == 3


def test_a_deleted_tenant_makes_no_more_jobs(scene: Any) -> None:
    request = scene.request()
    submit(scene.ledger, "acme", "old", request)
    deletion.delete_tenant(scene.ledger, "acme")
    for key in ("old", "new"):
        with pytest.raises(DeletedError, match="deleted"):
            submit(scene.ledger, "acme", key, request)
    scene.supervisor().sweep()
    scene.recover()
    assert scene.holds("item 1") == []
    assert scene.claim() == []
    assert submit(scene.ledger, "other", "new", request).created


def test_the_key_of_a_deleted_job_stays_used(scene: Any) -> None:
    job = submit(scene.ledger, "acme", "key", scene.request()).job
    deletion.delete_job(scene.ledger, "acme", job)
    with pytest.raises(DeletedError, match=job):
        submit(scene.ledger, "acme", "key", scene.request())


def test_what_is_asked_of_no_job_is_refused(scene: Any) -> None:
    job = scene.submit()
    deleted = scene.submit()
    deletion.delete_job(scene.ledger, "acme", deleted)
    for do in (cancel, retry):
        with pytest.raises(UnknownJobError, match=f"other has no job {job}"):
            do(scene.ledger, "other", job)
        with pytest.raises(InvalidIdError, match="is not a job's id"):
            do(scene.ledger, "acme", "x")
        with pytest.raises(DeletedError, match=deleted):
            do(scene.ledger, "acme", deleted)

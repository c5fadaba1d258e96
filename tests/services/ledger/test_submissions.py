"""A job is made once, whatever happens meanwhile."""

import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.errors import ConflictError, DeletedError, InvalidIdError, UnknownJobError
from services.ledger import deletion
from services.ledger.jobs import redact_spec
from services.ledger.keys import JobKeys
from services.ledger.records import JobRecord, pack, unpack_spec
from services.ledger.submissions import MAX_IDEMPOTENCY_KEY, Submission, cancel, retry, submit
from services.storage.directory import DirectoryStore


def test_the_same_request_with_the_same_key_is_the_same_job(anywhere: Any) -> None:
    request = anywhere.request(3, tags={"a": "b"})
    first = submit(anywhere.ledger, "acme", "key", request)
    assert first.created
    anywhere.wait(1)
    assert submit(anywhere.ledger, "acme", "key", request) == Submission(first.job, False)
    view = anywhere.view(first.job)
    assert (view.count, view.tags, view.pool, view.kind) == (3, {"a": "b"}, "default", "training")
    assert len(anywhere.keys("queue/")) == 1


def test_another_request_with_the_same_key_is_a_conflict_that_names_the_job(harness: Any) -> None:
    first = submit(harness.ledger, "acme", "key", harness.request(3))
    with pytest.raises(ConflictError, match=rf"'key'.*made job {first.job}: use a new key"):
        submit(harness.ledger, "acme", "key", harness.request(4))
    assert harness.view(first.job).count == 3


def test_a_key_is_one_tenants_own(harness: Any) -> None:
    jobs = {
        submit(harness.ledger, tenant, "key", harness.request()).job for tenant in ("acme", "other")
    }
    assert len(jobs) == 2


@pytest.mark.parametrize("key", ["", "x" * (MAX_IDEMPOTENCY_KEY + 1)])
def test_a_key_of_a_wrong_length_is_refused(harness: Any, key: str) -> None:
    with pytest.raises(ConflictError, match=rf"has {len(key)} characters: give 1 to 255"):
        submit(harness.ledger, "acme", key, harness.request())
    assert harness.keys() == []


def test_any_text_is_a_key(harness: Any) -> None:
    for key in ("x" * MAX_IDEMPOTENCY_KEY, "../../a", "ä\n", " "):
        assert submit(harness.ledger, "acme", key, harness.request()).created


def test_an_invalid_tenant_is_refused_before_anything_is_written(harness: Any) -> None:
    with pytest.raises(InvalidIdError):
        submit(harness.ledger, "A/B", "key", harness.request())
    assert harness.keys() == []


def test_after_a_crash_at_any_write_the_same_call_makes_one_whole_job(new_harness: Any) -> None:
    for applied in (False, True):
        crashed, at = True, 0
        while crashed:
            harness = new_harness()
            request = harness.request()
            with harness.store.crashing(at, applied=applied) as crashed:
                submit(harness.ledger, "acme", "key", request)
            harness.supervisor().sweep()  # in between, it does no harm
            job = submit(harness.ledger, "acme", "key", request).job
            assert submit(harness.ledger, "acme", "key", request) == Submission(job, False)
            assert [key for key in harness.keys("") if key.endswith("/spec")] == [
                f"t/acme/jobs/{job}/spec"
            ]
            assert harness.has_queue_entry(job)
            assert harness.work_off() == 3
            assert harness.counts(job) == {"succeeded": 3}
            at += 1
        assert at - 1 == 3  # the key, the spec, the hint


def test_a_crash_between_spec_and_hint_is_mended_by_a_sweep(harness: Any) -> None:
    with harness.store.crashing(1, applied=True):
        submit(harness.ledger, "acme", "key", harness.request())
    assert harness.keys("queue/") == []
    harness.supervisor().sweep()
    assert harness.work_off() == 3


def test_a_deleted_tenant_makes_no_more_jobs(harness: Any) -> None:
    request = harness.request()
    submit(harness.ledger, "acme", "old", request)
    deletion.delete_tenant(harness.ledger, "acme")
    for key in ("old", "new"):
        with pytest.raises(DeletedError, match="deleted"):
            submit(harness.ledger, "acme", key, request)
    harness.supervisor().sweep()
    harness.recover()
    assert harness.holds("item 1") == []
    assert harness.claim() == []
    assert submit(harness.ledger, "other", "new", request).created


def test_the_key_of_a_deleted_job_stays_used(harness: Any) -> None:
    job = submit(harness.ledger, "acme", "key", harness.request()).job
    deletion.delete_job(harness.ledger, "acme", job)
    with pytest.raises(DeletedError, match=job):
        submit(harness.ledger, "acme", "key", harness.request())


def test_requests_for_a_job_that_does_not_exist_are_refused(harness: Any) -> None:
    job = harness.submit()
    deleted = harness.submit()
    deletion.delete_job(harness.ledger, "acme", deleted)
    for do in (cancel, retry):
        with pytest.raises(UnknownJobError, match=f"other has no job {job}"):
            do(harness.ledger, "other", job)
        with pytest.raises(InvalidIdError, match="is not a job's id"):
            do(harness.ledger, "acme", "x")
        with pytest.raises(DeletedError, match=deleted):
            do(harness.ledger, "acme", deleted)


def test_a_restored_copy_of_a_store_has_the_times_of_its_jobs(
    new_harness: Any, tmp_path: Path
) -> None:
    store = DirectoryStore(tmp_path / "store")
    job = new_harness(store).submit(2)
    view = new_harness(store).view(job)
    assert abs((view.submitted - store.now()).total_seconds()) < 60
    # As `cp -r` does: the files of a copy have the time of copying.
    copied = shutil.copytree(
        tmp_path / "store", tmp_path / "copy", symlinks=True, copy_function=shutil.copyfile
    )
    yesterday = time.time() - 86_400
    for file in copied.rglob("*"):
        os.utime(file, (yesterday, yesterday), follow_symlinks=False)
    copy = DirectoryStore(copied)
    assert copy.head(JobKeys("acme", job).spec).age > timedelta(hours=23)
    assert new_harness(copy).view(job).submitted == view.submitted


@pytest.mark.parametrize("earlier_version", [False, True])
def test_a_job_keeps_its_time_when_its_items_are_redacted(
    harness: Any, earlier_version: bool
) -> None:
    job = harness.submit(2)
    keys = JobKeys("acme", job)
    if earlier_version:  # whose specs have no time
        record, payload = unpack_spec(keys.spec, harness.ledger.store.read(keys.spec).body)
        assert isinstance(record, JobRecord)
        harness.damage(keys.spec, pack(record.model_copy(update={"submitted": None}), payload))
    submitted = harness.view(job).submitted
    harness.wait(1000)
    assert redact_spec(harness.ledger, keys, {1})
    assert harness.view(job).submitted == submitted == harness.now() - timedelta(seconds=1000)

"""One damaged object harms nothing beside it, and can be got rid of."""

from typing import Any

import pytest

from services.errors import DamagedRecordError, DeletedError
from services.ledger.deletion import delete_item, delete_job
from services.ledger.queries import list_jobs, view_job
from services.ledger.submissions import retry
from services.ledger.workers import ProgressReader


def _spec(job: str) -> str:
    return f"t/acme/jobs/{job}/spec"


def _halve(harness: Any, key: str) -> None:
    """Damage the bytes after the line of JSON."""
    line, _, payload = harness.store.read(key).body.partition(b"\n")
    harness.damage(key, line + b"\n" + payload[: len(payload) // 2])


def test_a_damaged_spec_is_reported_and_other_jobs_go_on(harness: Any) -> None:
    damaged, other = harness.submit(2), harness.submit(2)
    harness.damage(_spec(damaged))
    assert {attempt.keys.job for attempt in harness.claim(8)} == {other}
    harness.wait(100)
    seen = harness.recover()
    assert list(seen.damaged) == [damaged]
    assert seen.jobs == 2
    assert "restore it, or delete its job" in seen.damaged[damaged]
    assert {attempt.number for attempt in harness.claim(8)} == {2}
    with pytest.raises(DamagedRecordError, match=f"{damaged}/spec"):
        view_job(harness.ledger, "acme", damaged)


def test_a_spec_whose_items_are_damaged_stops_no_worker(harness: Any) -> None:
    damaged, other = harness.submit(2), harness.submit(2)
    _halve(harness, _spec(damaged))
    worker = harness.worker()
    assert {a.keys.job for _ in range(4) for a in worker.claim(8)} == {other}


def test_a_damaged_retry_stops_no_supervisor(harness: Any) -> None:
    damaged, other = harness.submit(20), harness.submit(2)
    harness.work_off(lambda attempt: attempt.fail("no", retry=False))
    retry(harness.ledger, "acme", damaged)
    _halve(harness, f"t/acme/jobs/{damaged}/control/retry.01")
    assert list(harness.recover().damaged) == [damaged]
    assert harness.counts(other) == {"failed": 2}


def test_a_damaged_spec_stops_no_sweep(harness: Any) -> None:
    jobs = [harness.submit(1) for _ in range(3)]
    harness.damage(_spec(jobs[1]))
    for key in harness.keys("queue/"):
        harness.store.delete(key)
    harness.supervisor().sweep()
    assert [harness.has_queue_entry(job) for job in (jobs[0], jobs[2])] == [True, True]


def test_a_damaged_job_hides_no_other_from_its_tenant(harness: Any) -> None:
    damaged, other = harness.submit(1), harness.submit(1)
    harness.damage(_spec(damaged))
    assert other in [view.job for view in list_jobs(harness.ledger, "acme").jobs]


@pytest.mark.parametrize("name", ["spec", "results/00.00000"])
def test_a_damaged_job_can_be_deleted(harness: Any, name: str) -> None:
    job = harness.submit(2)
    for attempt in harness.claim(2):
        attempt.succeed(b"secret")
    harness.damage(f"t/acme/jobs/{job}/{name}", b"damaged secret")
    delete_job(harness.ledger, "acme", job)
    assert harness.holds("secret") == []
    with pytest.raises(DeletedError):
        view_job(harness.ledger, "acme", job)


def test_a_damaged_result_can_be_deleted_by_itself(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].succeed(b"secret")
    harness.damage(f"t/acme/jobs/{job}/results/00.00000", b"damaged secret")
    delete_item(harness.ledger, "acme", job, 0)
    assert harness.holds("secret") == []


def test_a_damaged_checkpoint_costs_only_itself(harness: Any) -> None:
    harness.submit(1)
    for step in (1, 2):
        [attempt] = harness.claim()
        attempt.checkpoint(step, b"%d" % step)
        attempt.release("ending")
        harness.wait()
    harness.damage(attempt.keys.checkpoint(attempt.item_ref, 2))
    [attempt] = harness.claim()
    assert (attempt.number, attempt.resume_from.step) == (3, 1)


@pytest.mark.parametrize("body", [b"damaged", b"", b'{"nonce":"a","version":3}\n...'])
def test_a_damaged_rollup_is_ignored_and_written_anew(harness: Any, body: bytes) -> None:
    job = harness.submit(3)
    harness.claim()[0].succeed(b"")
    harness.recover()
    key = f"t/acme/jobs/{job}/rollup"
    before = harness.store.read(key).body.partition(b"\n")[2]
    harness.damage(key, body)
    assert harness.counts(job) == {"queued": 2, "succeeded": 1}
    harness.recover()
    assert harness.store.read(key).body.partition(b"\n")[2] == before


@pytest.mark.parametrize(("old", "new"), [(b"\n fff", b"\n f"), (b"\n f", b"\n ?")])
def test_a_rollup_with_a_whole_line_and_damaged_letters_is_ignored(
    harness: Any, old: bytes, new: bytes
) -> None:
    job = harness.submit(4)
    succeed = iter([True, False, False, False])
    attempts = {attempt.item_ref.index: attempt for attempt in harness.claim(4)}
    for index, good in enumerate(succeed):
        attempts[index].succeed(b"") if good else attempts[index].fail("no", retry=False)
    retry(harness.ledger, "acme", job)
    harness.work_off(lambda attempt: attempt.fail("no", retry=False))
    harness.recover()
    key = f"t/acme/jobs/{job}/rollup"
    body = harness.store.read(key).body
    assert old in body
    harness.damage(key, body.replace(old, new))
    assert harness.counts(job) == {"succeeded": 1, "failed": 3}


def test_a_damaged_lease_stops_neither_supervisor_nor_readers(harness: Any) -> None:
    job = harness.submit(1)
    worker = harness.worker()
    harness.damage(f"service/workers/{worker.lease.worker}")
    assert ProgressReader(harness.ledger, 0).read("acme", job) == {}
    harness.wait(1000)
    harness.recover()


def test_a_damaged_claim_is_given_an_end(harness: Any) -> None:
    job = harness.submit(1)
    [attempt] = harness.claim()
    harness.damage(attempt.keys.attempt(attempt.item_ref, 1))
    harness.wait(1000)
    harness.recover()
    assert harness.counts(job) == {"queued": 1}


@pytest.mark.parametrize("key", ["queue/stray", "queue/default/acme/stray", "t/Stray/x"])
def test_a_stray_object_stops_nothing(harness: Any, key: str) -> None:
    job = harness.submit(1)
    harness.store.put(key, b"")
    harness.recover()
    harness.supervisor().sweep()
    assert [attempt.keys.job for attempt in harness.claim(1)] == [job]


@pytest.mark.parametrize(
    "name", ["control/item.x", "control/x", "attempts/x", "results/x", "checkpoints/x"]
)
def test_a_stray_object_in_a_job_stops_no_other_job(harness: Any, name: str) -> None:
    damaged, job = harness.submit(1), harness.submit(1)
    harness.store.put(f"t/acme/jobs/{damaged}/{name}", b"")
    harness.recover()
    harness.supervisor().sweep()
    worker = harness.worker()
    assert job in {attempt.keys.job for attempt in worker.claim(2)}
    worker.heartbeat()
    delete_job(harness.ledger, "acme", damaged)
    assert set(harness.recover().damaged) == set()


@pytest.mark.parametrize("name", ["spec", "control/retry.01"])
@pytest.mark.parametrize("body", [b"", b"damaged", None])
def test_a_lost_or_empty_object_stops_no_other_job(
    harness: Any, name: str, body: bytes | None
) -> None:
    damaged, job = harness.submit(1, tags={"damaged": "yes"}), harness.submit(1)
    for _ in range(2):
        [attempt] = harness.worker(accepts=lambda record: bool(record.tags)).claim(1)
        attempt.fail("no", retry=False)
        retry(harness.ledger, "acme", damaged)
    key = f"t/acme/jobs/{damaged}/{name}"
    if body is None:
        harness.store.delete(key)
    else:
        harness.damage(key, body)
    harness.recover()
    harness.supervisor().sweep()
    assert [attempt.keys.job for attempt in harness.claim(2)] == [job]


def test_members_of_a_retry_beyond_the_job_are_reported(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].fail("no", retry=False)
    retry(harness.ledger, "acme", job)
    key = f"t/acme/jobs/{job}/control/retry.01"
    harness.damage(key, harness.store.read(key).body.replace(b"[0]", b"[7]"))
    assert "retry.01" in harness.recover().damaged[job]


def test_an_attempt_whose_end_is_damaged_counts_as_lost(harness: Any) -> None:
    job = harness.submit(1)
    [attempt] = harness.claim()
    attempt.fail("no")
    harness.damage(attempt.keys.attempt_end(attempt.item_ref, 1))
    harness.wait()
    [second] = harness.claim()
    assert [(ended.cause, ended.reason) for ended in second.earlier_ends] == [
        ("lost", "its record is damaged")
    ]
    assert harness.counts(job) == {"running": 1}

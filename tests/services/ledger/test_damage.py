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


def _halve(scene: Any, key: str) -> None:
    """The line of JSON is whole, what is behind it is not."""
    line, _, payload = scene.store.read(key).body.partition(b"\n")
    scene.damage(key, line + b"\n" + payload[: len(payload) // 2])


def test_a_damaged_spec_is_reported_and_other_jobs_go_on(scene: Any) -> None:
    damaged, other = scene.submit(2), scene.submit(2)
    scene.damage(_spec(damaged))
    assert {attempt.keys.job for attempt in scene.claim(8)} == {other}
    scene.wait(100)
    seen = scene.recover()
    assert list(seen.damaged) == [damaged]
    assert seen.jobs == 2
    assert "restore it, or delete its job" in seen.damaged[damaged]
    assert {attempt.number for attempt in scene.claim(8)} == {2}
    with pytest.raises(DamagedRecordError, match=f"{damaged}/spec"):
        view_job(scene.ledger, "acme", damaged)


def test_a_spec_whose_items_are_damaged_stops_no_worker(scene: Any) -> None:
    damaged, other = scene.submit(2), scene.submit(2)
    _halve(scene, _spec(damaged))
    worker = scene.worker()
    assert {a.keys.job for _ in range(4) for a in worker.claim(8)} == {other}


def test_a_damaged_retry_stops_no_supervisor(scene: Any) -> None:
    damaged, other = scene.submit(20), scene.submit(2)
    scene.work_off(lambda attempt: attempt.fail("no", retry=False))
    retry(scene.ledger, "acme", damaged)
    _halve(scene, f"t/acme/jobs/{damaged}/control/retry.01")
    assert list(scene.recover().damaged) == [damaged]
    assert scene.counts(other) == {"failed": 2}


def test_a_damaged_spec_stops_no_sweep(scene: Any) -> None:
    jobs = [scene.submit(1) for _ in range(3)]
    scene.damage(_spec(jobs[1]))
    for key in scene.keys("queue/"):
        scene.store.delete(key)
    scene.supervisor().sweep()
    assert [scene.has_queue_entry(job) for job in (jobs[0], jobs[2])] == [True, True]


def test_a_damaged_job_hides_no_other_from_its_tenant(scene: Any) -> None:
    damaged, other = scene.submit(1), scene.submit(1)
    scene.damage(_spec(damaged))
    assert other in [view.job for view in list_jobs(scene.ledger, "acme").jobs]


@pytest.mark.parametrize("name", ["spec", "results/00.00000"])
def test_a_damaged_job_can_be_deleted(scene: Any, name: str) -> None:
    job = scene.submit(2)
    for attempt in scene.claim(2):
        attempt.succeed(b"secret")
    scene.damage(f"t/acme/jobs/{job}/{name}", b"damaged secret")
    delete_job(scene.ledger, "acme", job)
    assert scene.holds("secret") == []
    with pytest.raises(DeletedError):
        view_job(scene.ledger, "acme", job)


def test_a_damaged_result_can_be_deleted_by_itself(scene: Any) -> None:
    job = scene.submit(1)
    scene.claim()[0].succeed(b"secret")
    scene.damage(f"t/acme/jobs/{job}/results/00.00000", b"damaged secret")
    delete_item(scene.ledger, "acme", job, 0)
    assert scene.holds("secret") == []


def test_a_damaged_checkpoint_costs_only_itself(scene: Any) -> None:
    scene.submit(1)
    for step in (1, 2):
        [attempt] = scene.claim()
        attempt.checkpoint(step, b"%d" % step)
        attempt.release("ending")
        scene.wait()
    scene.damage(attempt.keys.checkpoint(attempt.item_ref, 2))
    [attempt] = scene.claim()
    assert (attempt.number, attempt.resume_from.step) == (3, 1)


@pytest.mark.parametrize("body", [b"damaged", b"", b'{"nonce":"a","version":3}\n...'])
def test_a_damaged_rollup_is_ignored_and_written_anew(scene: Any, body: bytes) -> None:
    job = scene.submit(3)
    scene.claim()[0].succeed(b"")
    scene.recover()
    key = f"t/acme/jobs/{job}/rollup"
    before = scene.store.read(key).body.partition(b"\n")[2]
    scene.damage(key, body)
    assert scene.counts(job) == {"queued": 2, "succeeded": 1}
    scene.recover()
    assert scene.store.read(key).body.partition(b"\n")[2] == before


@pytest.mark.parametrize(("old", "new"), [(b"\n fff", b"\n f"), (b"\n f", b"\n ?")])
def test_a_rollup_with_a_whole_line_and_damaged_letters_is_ignored(
    scene: Any, old: bytes, new: bytes
) -> None:
    job = scene.submit(4)
    succeed = iter([True, False, False, False])
    attempts = {attempt.item_ref.index: attempt for attempt in scene.claim(4)}
    for index, good in enumerate(succeed):
        attempts[index].succeed(b"") if good else attempts[index].fail("no", retry=False)
    retry(scene.ledger, "acme", job)
    scene.work_off(lambda attempt: attempt.fail("no", retry=False))
    scene.recover()
    key = f"t/acme/jobs/{job}/rollup"
    body = scene.store.read(key).body
    assert old in body
    scene.damage(key, body.replace(old, new))
    assert scene.counts(job) == {"succeeded": 1, "failed": 3}


def test_a_damaged_lease_stops_neither_supervisor_nor_readers(scene: Any) -> None:
    job = scene.submit(1)
    worker = scene.worker()
    scene.damage(f"service/workers/{worker.lease.worker}")
    assert ProgressReader(scene.ledger, 0).read("acme", job) == {}
    scene.wait(1000)
    scene.recover()


def test_a_damaged_claim_is_given_an_end(scene: Any) -> None:
    job = scene.submit(1)
    [attempt] = scene.claim()
    scene.damage(attempt.keys.attempt(attempt.item_ref, 1))
    scene.wait(1000)
    scene.recover()
    assert scene.counts(job) == {"queued": 1}


@pytest.mark.parametrize("key", ["queue/stray", "queue/default/acme/stray", "t/Stray/x"])
def test_a_stray_object_stops_nothing(scene: Any, key: str) -> None:
    job = scene.submit(1)
    scene.store.put(key, b"")
    scene.recover()
    scene.supervisor().sweep()
    assert [attempt.keys.job for attempt in scene.claim(1)] == [job]


@pytest.mark.parametrize(
    "name", ["control/item.x", "control/x", "attempts/x", "results/x", "checkpoints/x"]
)
def test_a_stray_object_in_a_job_stops_no_other_job(scene: Any, name: str) -> None:
    damaged, job = scene.submit(1), scene.submit(1)
    scene.store.put(f"t/acme/jobs/{damaged}/{name}", b"")
    scene.recover()
    scene.supervisor().sweep()
    worker = scene.worker()
    assert job in {attempt.keys.job for attempt in worker.claim(2)}
    worker.heartbeat()
    delete_job(scene.ledger, "acme", damaged)
    assert set(scene.recover().damaged) == set()


@pytest.mark.parametrize("name", ["spec", "control/retry.01"])
@pytest.mark.parametrize("body", [b"", b"damaged", None])
def test_a_lost_or_empty_object_stops_no_other_job(
    scene: Any, name: str, body: bytes | None
) -> None:
    damaged, job = scene.submit(1, tags={"damaged": "yes"}), scene.submit(1)
    for _ in range(2):
        [attempt] = scene.worker(accepts=lambda record: bool(record.tags)).claim(1)
        attempt.fail("no", retry=False)
        retry(scene.ledger, "acme", damaged)
    key = f"t/acme/jobs/{damaged}/{name}"
    if body is None:
        scene.store.delete(key)
    else:
        scene.damage(key, body)
    scene.recover()
    scene.supervisor().sweep()
    assert [attempt.keys.job for attempt in scene.claim(2)] == [job]


def test_members_of_a_retry_beyond_the_job_are_reported(scene: Any) -> None:
    job = scene.submit(1)
    scene.claim()[0].fail("no", retry=False)
    retry(scene.ledger, "acme", job)
    key = f"t/acme/jobs/{job}/control/retry.01"
    scene.damage(key, scene.store.read(key).body.replace(b"[0]", b"[7]"))
    assert "retry.01" in scene.recover().damaged[job]


def test_an_attempt_whose_end_is_damaged_counts_as_lost(scene: Any) -> None:
    job = scene.submit(1)
    [attempt] = scene.claim()
    attempt.fail("no")
    scene.damage(attempt.keys.attempt_end(attempt.item_ref, 1))
    scene.wait()
    [second] = scene.claim()
    assert [(ended.cause, ended.reason) for ended in second.earlier_ends] == [
        ("lost", "its record is damaged")
    ]
    assert scene.counts(job) == {"running": 1}

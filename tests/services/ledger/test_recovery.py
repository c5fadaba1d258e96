"""Nothing is forgotten, and nothing that is damaged stops the rest."""

from typing import Any

import pytest

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


def test_what_has_ended_leaves_the_queue(scene: Any) -> None:
    job, other = scene.submit(2), scene.submit(2)
    seen = scene.recover()
    assert (seen.jobs, seen.finished, seen.open_items) == (2, 0, {"default": 4})
    scene.work_off(lambda attempt: attempt.succeed(b"") if attempt.keys.job == job else None)
    seen = scene.recover()
    assert (seen.jobs, seen.finished, seen.open_items) == (2, 1, {"default": 2})
    assert not scene.has_queue_entry(job)
    assert scene.has_queue_entry(other)
    assert scene.recover().jobs == 1


def test_a_sweep_leaves_what_has_ended_alone(scene: Any) -> None:
    job = scene.submit(2)
    scene.work_off()
    scene.recover()
    scene.supervisor().sweep()
    assert not scene.has_queue_entry(job)
    with scene.store.counted() as requests:
        scene.supervisor().sweep()
    assert not [name for name, _ in requests if name not in ("read", "head", "list")]


def test_checkpoints_that_were_left_over_are_swept(scene: Any) -> None:
    scene.submit(2)
    first, second = scene.claim(2)
    for attempt in (first, second):
        attempt.checkpoint(1, b"half")
    with scene.store.crashing(1, applied=False):
        first.succeed(b"")
    assert len(scene.holds("half")) == 2
    scene.supervisor().sweep()
    assert scene.holds("half") == [second.keys.checkpoint(second.item_ref, 1)]


def test_two_supervisors_at_any_moment_of_each_other_agree(new_scene: Any) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(4, max_attempts=1)
        succeeded, lost, _ = scene.claim(3)
        succeeded.succeed(b"")
        scene.wait(100)
        with scene.store.interrupted(at, scene.recover) as came:
            scene.recover()
        assert scene.counts(job) == {"succeeded": 1, "failed": 2, "queued": 1}
        ends = [key for key in scene.keys(lost.keys.attempts) if key.endswith("ended")]
        assert len(ends) == 2
        assert scene.has_queue_entry(job)
        at += 1
    assert at > 10


@pytest.mark.parametrize("applied", [False, True])
def test_a_recovery_that_ended_at_any_write_is_done_by_the_next(
    new_scene: Any, applied: bool
) -> None:
    at, crashed = 0, [True]
    while crashed:
        scene = new_scene()
        job, cancelled = scene.submit(2, max_attempts=1), scene.submit(2)
        assert len(scene.claim(3)) == 3
        cancel(scene.ledger, "acme", cancelled)
        scene.wait(100)
        with scene.store.crashing(at, applied=applied) as crashed:
            scene.recover()
        scene.supervisor().sweep()
        scene.recover()
        assert scene.counts(cancelled) == {"cancelled": 2}
        assert not scene.has_queue_entry(cancelled)
        assert set(scene.counts(job)) <= {"failed", "queued"}
        at += 1
    assert at > 5


def test_a_sweep_at_any_moment_of_a_submission_does_no_harm(new_scene: Any) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        with scene.store.interrupted(at, scene.supervisor().sweep) as came:
            job = scene.submit(1)
        assert scene.has_queue_entry(job)
        assert scene.work_off() == 1
        at += 1


def test_a_submission_at_any_moment_of_a_sweep_or_recovery_is_found(new_scene: Any) -> None:
    for name in ("sweep", "recover"):
        at, came = 0, [True]
        while came:
            scene = new_scene()
            scene.submit(1)
            scene.work_off()
            jobs = list[str]()
            with scene.store.interrupted(
                at, lambda scene=scene, jobs=jobs: jobs.append(scene.submit(1))
            ) as came:
                getattr(scene.supervisor(), name)()
            assert scene.work_off() == len(jobs)
            at += 1


def test_a_worker_at_any_moment_of_a_recovery_keeps_what_it_claims(new_scene: Any) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        job = scene.submit(2)
        assert len(scene.claim(1)) == 1
        scene.wait(100)
        worker, given = scene.worker(), list[Any]()
        with scene.store.interrupted(
            at, lambda worker=worker, given=given: given.extend(worker.claim(2))
        ) as came:
            scene.recover()
        worker.heartbeat()
        scene.recover()
        assert [attempt.stop_reason for attempt in given] == [None] * len(given)
        for attempt in given:
            attempt.succeed(b"")
        assert scene.counts(job).get("succeeded", 0) == len(given)
        at += 1


def test_the_end_of_a_cancelled_job_is_the_same_with_and_without_its_rollup(scene: Any) -> None:
    job = scene.submit(5)
    for attempt in scene.claim(2):
        attempt.fail("no", retry=bool(attempt.item_ref.index % 2))
    cancel(scene.ledger, "acme", job)
    scene.wait(100)
    scene.recover()
    before = scene.counts(job)
    scene.store.delete(f"t/acme/jobs/{job}/rollup")
    assert scene.counts(job) == before


def test_rounds_are_in_the_rollup_and_without_it_the_same(scene: Any) -> None:
    job = scene.submit(5)
    for _ in range(3):
        scene.work_off(lambda attempt: attempt.fail("no", retry=False))
        scene.recover()
        retry(scene.ledger, "acme", job)
    first = scene.claim(2)
    for attempt in first:
        assert attempt.item_ref == ItemRef(3, attempt.item_ref.index)
        attempt.succeed(b"")
    scene.recover()
    before = scene.counts(job)
    assert before == {"succeeded": 2, "queued": 3}
    assert scene.store.read(f"t/acme/jobs/{job}/rollup").body.count(b"\n") == 4
    scene.store.delete(f"t/acme/jobs/{job}/rollup")
    assert scene.counts(job) == before

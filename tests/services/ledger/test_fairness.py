"""Tenants share the workers; a tenant's own jobs go by age."""

from collections import Counter
from typing import Any

from services.ledger.attempts import Attempt


def _tenants(attempts: list[Attempt]) -> Counter[str]:
    return Counter(attempt.keys.tenant for attempt in attempts)


def test_a_small_job_does_not_wait_for_a_backlog_before_a_worker_of_one(harness: Any) -> None:
    harness.submit(3000, "whale")
    worker = harness.worker()
    for _ in range(50):
        worker.claim(1)[0].succeed(b"")
    harness.submit(10, "minnow")
    harness.wait(3)
    order = [attempt.keys.tenant for _ in range(20) for attempt in _one_by_one(worker)]
    assert Counter(order) == {"whale": 10, "minnow": 10}
    assert all(len(set(order[place : place + 2])) == 2 for place in range(0, 20, 2))


def _one_by_one(worker: Any) -> list[Attempt]:
    attempts = worker.claim(1)
    for attempt in attempts:
        attempt.succeed(b"")
    return attempts


def test_a_free_slot_goes_to_the_tenant_with_the_fewest_running_items(harness: Any) -> None:
    harness.submit(3000, "whale")
    worker = harness.worker()
    in_hand = worker.claim(8)
    assert _tenants(in_hand) == {"whale": 8}
    harness.submit(10, "minnow")
    harness.wait(3)
    for attempt in in_hand[:3]:
        attempt.succeed(b"")
    assert _tenants(worker.claim(8)) == {"minnow": 3}
    in_hand[3].succeed(b"")
    assert _tenants(worker.claim(8)) == {"minnow": 1}
    assert _tenants(worker.attempts) == {"whale": 4, "minnow": 4}


def test_eight_slots_are_shared_evenly_from_the_start(harness: Any) -> None:
    harness.submit(100, "whale")
    harness.submit(5, "minnow")
    worker = harness.worker()
    assert _tenants(worker.claim(8)) == {"whale": 4, "minnow": 4}


def test_slots_that_one_tenant_does_not_need_go_to_others(harness: Any) -> None:
    harness.submit(100, "whale")
    harness.submit(2, "minnow")
    assert _tenants(harness.claim(8)) == {"whale": 6, "minnow": 2}


def test_jobs_of_a_tenant_do_not_add_to_its_share(harness: Any) -> None:
    for _ in range(20):
        harness.submit(5, "many")
    harness.submit(20, "one")
    assert _tenants(harness.claim(8)) == {"many": 4, "one": 4}


def test_a_long_attempt_elsewhere_earns_its_tenant_no_precedence(harness: Any) -> None:
    harness.submit(1, "idle")
    harness.claim(1)  # by another worker, which is at it for long
    harness.submit(200, "busy")
    worker = harness.worker()
    for _ in range(60):
        _one_by_one(worker)
    harness.submit(50, "idle")
    harness.wait(17)
    order = [attempt.keys.tenant for _ in range(20) for attempt in _one_by_one(worker)]
    assert abs(order.count("idle") - order.count("busy")) <= 2


def test_a_tenants_older_jobs_come_before_later_ones(harness: Any) -> None:
    jobs = []
    for _ in range(40):
        jobs.append(harness.submit(1))
        harness.wait(1)
    claimed = [attempt.keys.job for attempt in harness.claim(40)]
    assert set(claimed[:16]) == set(jobs[:16])
    assert set(claimed[16:32]) == set(jobs[16:32])
    assert set(claimed[32:]) == set(jobs[32:])


def test_near_jobs_are_shuffled_so_that_workers_do_not_crowd(harness: Any) -> None:
    for _ in range(16):
        harness.submit(1)
        harness.wait(1)
    first = {harness.claim(1)[0].keys.job for _ in range(6)}
    assert len(first) == 6
    with harness.store.counted() as requests:
        harness.claim(1)
    assert sum(name == "create" for name, _ in requests) <= 8

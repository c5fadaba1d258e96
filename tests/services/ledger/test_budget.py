"""How many requests to the store a subject takes."""

from collections import Counter
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("items", "limit", "seconds", "most"),
    [
        # The claim, the commands, the result; and listings, which fast workers share among many.
        (2000, 1, 0.05, 3.3),
        (2000, 8, 0.4, 2.4),
        # A worker slower than the lifetime of a listing lists again for each claim.
        (200, 1, 10, 9.2),
        (400, 8, 80, 3.1),
    ],
)
def test_a_subject_takes_few_requests(
    scene: Any, items: int, limit: int, seconds: float, most: float
) -> None:
    job = scene.submit(items)
    worker, done = scene.worker(), 0
    with scene.store.counted() as requests:
        while done < items:
            attempts = worker.claim(limit)
            for attempt in attempts:
                attempt.succeed(b"")
            done += len(attempts)
            scene.wait(seconds)
            worker.lease._renewed_at = (
                scene.seconds
            )  # renewals cost by the hour, not by the subject
    kinds = Counter(name for name, _ in requests)
    assert kinds["create"] == 2 * items
    assert len(requests) / items <= most, kinds
    assert scene.counts(job) == {"succeeded": items}


def test_an_idle_worker_asks_seldom(scene: Any) -> None:
    for _ in range(20):
        scene.submit(1)
        assert len(scene.claim(1)) == 1
    worker = scene.worker()
    with scene.store.counted() as requests:
        for _ in range(20 * 60):
            scene.wait(0.5)
            worker.lease._renewed_at = scene.seconds
            worker.claim(1)
    assert len(requests) / 600 <= 8.6  # a second, of 20 jobs whose items are all running


def test_a_supervisor_asks_little_of_a_large_job_that_runs(scene: Any) -> None:
    scene.submit(10_000)
    scene.claim(8)
    supervisor = scene.supervisor()
    scene.wait(40)
    supervisor.recover()
    with scene.store.counted() as requests:
        supervisor.recover()
    # The queue, the tenant, the leases; spec, commands and rollup; two listings a block; one lease.
    assert len(requests) <= 3 + 3 + 2 * 10 + 1, Counter(requests).most_common(5)

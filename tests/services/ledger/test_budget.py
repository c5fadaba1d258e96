"""The number of requests to the store for each subject."""

from collections import Counter
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("items", "limit", "seconds", "max_requests"),
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
    harness: Any, items: int, limit: int, seconds: float, max_requests: float
) -> None:
    job = harness.submit(items)
    worker, done = harness.worker(), 0
    with harness.store.counted() as requests:
        while done < items:
            attempts = worker.claim(limit)
            for attempt in attempts:
                attempt.succeed(b"")
            done += len(attempts)
            harness.wait(seconds)
            worker.lease._renewed_at = (
                harness.seconds
            )  # renewals cost by the hour, not by the subject
    kinds = Counter(name for name, _ in requests)
    assert kinds["create"] == 2 * items
    assert len(requests) / items <= max_requests, kinds
    assert harness.counts(job) == {"succeeded": items}


def test_an_idle_worker_asks_seldom(harness: Any) -> None:
    for _ in range(20):
        harness.submit(1)
        assert len(harness.claim(1)) == 1
    worker = harness.worker()
    with harness.store.counted() as requests:
        for _ in range(20 * 60):
            harness.wait(0.5)
            worker.lease._renewed_at = harness.seconds
            worker.claim(1)
    assert len(requests) / 600 <= 8.6  # a second, of 20 jobs whose items are all running


def test_a_supervisor_asks_little_of_a_large_job_that_runs(harness: Any) -> None:
    harness.submit(10_000)
    harness.claim(8)
    supervisor = harness.supervisor()
    harness.wait(40)
    supervisor.recover()
    with harness.store.counted() as requests:
        supervisor.recover()
    # The queue, the tenant, the leases; spec, commands and rollup; two listings a block; one lease.
    assert len(requests) <= 3 + 3 + 2 * 10 + 1, Counter(requests).most_common(5)

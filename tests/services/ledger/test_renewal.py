"""A beat beside what its worker does, and a worker's own end."""

from dataclasses import replace
from typing import Any

import pytest

from services.errors import UnavailableError
from services.ledger.queries import list_attempts
from services.ledger.submissions import cancel
from services.storage.memory import MemoryStore


def test_a_beat_asks_nothing_of_the_connections_for_bulk(harness: Any) -> None:
    """They may be slow for longer than a lease."""
    quick = MemoryStore(harness.now)
    ledger = replace(harness.ledger, lease_store=quick)
    harness.submit(1)
    worker = harness.worker(ledger)
    with harness.store.counted() as requests:
        assert len(worker.claim(1)) == 1
    assert requests
    with harness.store.counted() as requests:
        worker.heartbeat()
    assert requests == []


def test_an_attempt_that_a_heartbeat_stops_during_its_claim_is_released_or_ended(
    new_harness: Any,
) -> None:
    """The heartbeat comes at each request of the claim, also those that end a stopped attempt.

    No attempt may stay open that no caller was given.
    """
    at = 0
    while _beat_in_a_claim(new_harness(), at):
        at += 1
    assert at > 10


def _beat_in_a_claim(harness: Any, at: int) -> bool:
    """Send a heartbeat at a request of a claim; return whether the claim had so many requests.

    One of its two jobs is cancelled right before it is claimed, the other at the heartbeat.
    """
    early, late = harness.submit(1), harness.submit(1)
    worker = harness.worker()
    requests, reached = 0, False

    def step(name: str, key: str) -> None:
        nonlocal requests, reached
        if name == "create" and f"{early}/attempts/" in key:
            harness.store.before = None
            cancel(harness.ledger, "acme", early)
            harness.store.before = step
        if requests == at:
            harness.store.before, reached = None, True
            cancel(harness.ledger, "acme", late)
            worker.heartbeat()
        requests += 1

    harness.store.before = step
    claimed = worker.claim(2)
    harness.store.before = None
    assert worker.attempts == claimed
    return reached


def test_a_beat_hears_of_other_jobs_though_one_cannot_be_read(harness: Any) -> None:
    jobs = [harness.submit(1), harness.submit(1)]
    worker = harness.worker()
    attempts = {attempt.keys.job: attempt for attempt in worker.claim(2)}
    for job in jobs:
        cancel(harness.ledger, "acme", job)
    down = attempts[jobs[0]].keys.control

    def refuse(_: str, key: str) -> None:
        if key == down:
            raise UnavailableError("not this one")

    harness.store.before = refuse
    with pytest.raises(UnavailableError):
        worker.heartbeat()
    harness.store.before = None
    assert [attempts[job].stop_reason for job in jobs] == [None, "cancelled"]


def test_items_that_an_ended_worker_had_not_begun_cost_no_attempt(harness: Any) -> None:
    job = harness.submit(1, max_attempts=1)
    worker = harness.worker()
    claimed: list[str] = []

    def refuse(name: str, key: str) -> None:
        claimed.extend([key] if name == "create" else [])
        if claimed and key.endswith("control/"):
            raise UnavailableError("the orders cannot be read")

    harness.store.before = refuse
    with pytest.raises(UnavailableError):
        worker.claim(1)
    harness.store.before = None
    worker.end()
    harness.wait(100)
    harness.recover()
    [view] = list_attempts(harness.ledger, "acme", job, 0)
    assert (view.cause, "has ended without it" in view.reason) == ("released", True)
    [attempt] = harness.claim()
    assert attempt.number == 2

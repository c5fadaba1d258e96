"""A beat beside what its worker does, and a worker's own end."""

from dataclasses import replace
from typing import Any

import pytest

from services.errors import UnavailableError
from services.ledger.queries import list_attempts
from services.ledger.submissions import cancel
from services.storage.memory import MemoryStore


def test_a_beat_asks_nothing_of_the_connections_for_bulk(scene: Any) -> None:
    """They may be slow for longer than a lease."""
    quick = MemoryStore(scene.now)
    ledger = replace(scene.ledger, lease_store=quick)
    scene.submit(1)
    worker = scene.worker(ledger)
    with scene.store.counted() as requests:
        assert len(worker.claim(1)) == 1
    assert requests
    with scene.store.counted() as requests:
        worker.heartbeat()
    assert requests == []


def test_what_a_beat_stops_while_a_claim_is_made_is_given_or_ended(new_scene: Any) -> None:
    """At whatever request of the claim it comes, also of those that end what was stopped before:
    nothing stays in hand that nobody was given.
    """
    at = 0
    while _beat_in_a_claim(new_scene(), at):
        at += 1
    assert at > 10


def _beat_in_a_claim(scene: Any, at: int) -> bool:
    """Whether the claim had so many requests. One of its two jobs is cancelled right before it is
    claimed, the other when the beat comes.
    """
    early, late = scene.submit(1), scene.submit(1)
    worker = scene.worker()
    requests, came = 0, False

    def step(name: str, key: str) -> None:
        nonlocal requests, came
        if name == "create" and f"{early}/attempts/" in key:
            scene.store.before = None
            cancel(scene.ledger, "acme", early)
            scene.store.before = step
        if requests == at:
            scene.store.before, came = None, True
            cancel(scene.ledger, "acme", late)
            worker.heartbeat()
        requests += 1

    scene.store.before = step
    given = worker.claim(2)
    scene.store.before = None
    assert worker.attempts == given
    return came


def test_a_beat_hears_of_other_jobs_though_one_cannot_be_read(scene: Any) -> None:
    jobs = [scene.submit(1), scene.submit(1)]
    worker = scene.worker()
    attempts = {attempt.keys.job: attempt for attempt in worker.claim(2)}
    for job in jobs:
        cancel(scene.ledger, "acme", job)
    down = attempts[jobs[0]].keys.control

    def refuse(_: str, key: str) -> None:
        if key == down:
            raise UnavailableError("not this one")

    scene.store.before = refuse
    with pytest.raises(UnavailableError):
        worker.heartbeat()
    scene.store.before = None
    assert [attempts[job].stop_reason for job in jobs] == [None, "cancelled"]


def test_what_an_ended_worker_had_not_begun_costs_no_attempt(scene: Any) -> None:
    job = scene.submit(1, max_attempts=1)
    worker = scene.worker()
    claimed: list[str] = []

    def refuse(name: str, key: str) -> None:
        claimed.extend([key] if name == "create" else [])
        if claimed and key.endswith("control/"):
            raise UnavailableError("the orders cannot be read")

    scene.store.before = refuse
    with pytest.raises(UnavailableError):
        worker.claim(1)
    scene.store.before = None
    worker.end()
    scene.wait(100)
    scene.recover()
    [view] = list_attempts(scene.ledger, "acme", job, 0)
    assert (view.cause, "has ended without it" in view.reason) == ("released", True)
    [attempt] = scene.claim()
    assert attempt.number == 2

"""Workers vanish; what they had in hand goes on elsewhere."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.errors import LeaseLostError, SupersededError
from services.ledger.leases import read_lease
from services.ledger.queries import list_attempts, read_token
from services.ledger.workers import remove_dead_leases
from services.storage.interface import Head
from services.storage.memory import MemoryStore


def test_after_the_lease_another_worker_resumes_from_the_checkpoint(harness: Any) -> None:
    job = harness.submit(1)
    [first] = harness.claim()
    first.checkpoint(40, b"half")
    harness.wait(50)
    harness.recover()
    assert harness.claim() == []
    assert harness.counts(job) == {"running": 1}
    harness.wait(12)
    harness.recover()
    assert harness.counts(job) == {"queued": 1}
    [second] = harness.claim()
    assert (second.number, second.resume_from.step, second.resume_from.payload) == (2, 40, b"half")
    [ended] = second.earlier_ends
    assert ended.cause == "lost"
    assert first.lease.worker in ended.reason
    second.succeed(b"whole")
    assert harness.counts(job) == {"succeeded": 1}


def test_workers_that_vanish_too_often_end_the_item(harness: Any) -> None:
    job = harness.submit(1, max_attempts=2)
    for _ in range(2):
        assert len(harness.claim()) == 1
        harness.wait(100)
        harness.recover()
    assert harness.counts(job) == {"failed": 1}
    assert harness.claim() == []
    assert "was killed, or did not renew" in list_attempts(harness.ledger, "acme", job, 0)[1].reason


def test_an_attempt_that_was_lost_is_listed_as_lost_also_if_it_was_the_last(harness: Any) -> None:
    job = harness.submit(1, max_attempts=2)
    for _ in range(2):
        assert len(harness.claim()) == 1
        harness.wait(100)
        harness.recover()
    views = list_attempts(harness.ledger, "acme", job, 0)
    assert [view.cause for view in views] == ["lost", "lost"]


def test_a_worker_that_wakes_up_cannot_overwrite_the_results_of_others(harness: Any) -> None:
    job = harness.submit(1)
    sleeper = harness.worker()
    [first] = sleeper.claim(1)
    first.checkpoint(1, b"of the first")
    harness.wait(100)
    harness.recover()
    [second] = harness.claim()
    second.checkpoint(2, b"of the second")
    second.succeed(b"by the second")
    with pytest.raises(SupersededError, match=r"'item 0'.*has ended as succeeded, by another"):
        first.succeed(b"by the first")
    for do in (first.fail, first.release):
        do("too late")
    with pytest.raises(SupersededError):
        first.fail("too late", retry=False)
    with pytest.raises(SupersededError, match="the item has ended"):
        first.checkpoint(3, b"too late")
    assert read_token(harness.ledger, "acme", f"tok_{job}0000000").payload == b"by the second"
    assert harness.holds("too late") == []
    assert sleeper.attempts == []


def test_one_that_wakes_up_first_wins_and_the_other_hears_it(harness: Any) -> None:
    job = harness.submit(1)
    [first] = harness.claim()
    harness.wait(100)
    harness.recover()
    [second] = harness.claim()
    first.succeed(b"by the first")
    with pytest.raises(SupersededError):
        second.succeed(b"by the second")
    assert read_token(harness.ledger, "acme", f"tok_{job}0000000").result.attempt == 1
    views = list_attempts(harness.ledger, "acme", job, 0)
    assert [view.cause for view in views] == ["succeeded", ""]


def test_a_success_stays_though_its_worker_vanishes_at_once(harness: Any) -> None:
    job = harness.submit(1)
    [attempt] = harness.claim()
    attempt.succeed(b"whole")
    harness.wait(1000)
    for _ in range(3):
        harness.recover()
    assert harness.counts(job) == {"succeeded": 1}
    assert harness.claim() == []


def test_a_claim_that_its_living_worker_does_not_know_of_is_given_back(harness: Any) -> None:
    job = harness.submit(1, max_attempts=1)
    worker = harness.worker()
    [attempt] = worker.claim(1)
    worker.lease.remove_attempt(attempt.held)  # as if the answer to its claim had been lost
    for _ in range(4):
        harness.wait(14)
        worker.heartbeat()
        harness.recover()
    assert harness.counts(job) == {"running": 1}
    harness.wait(14)
    worker.heartbeat()
    harness.recover()
    [view] = list_attempts(harness.ledger, "acme", job, 0)
    assert (view.cause, view.reason) == (
        "released",
        f"worker {worker.lease.worker} lives, but does not hold it",
    )
    assert worker.claim(1)[0].number == 2


def test_leases_of_the_dead_are_forgotten_and_they_stay_dead(harness: Any) -> None:
    harness.submit(1)
    vanished, ended, living = harness.worker(), harness.worker(), harness.worker()
    vanished.claim(1)
    ended.end()
    for _ in range(80):
        harness.wait(20)
        living.heartbeat()
        remove_dead_leases(harness.ledger)
    assert harness.keys("service/") == [f"service/workers/{living.lease.worker}"]
    with pytest.raises(LeaseLostError):
        vanished.heartbeat()
    harness.recover()
    assert [attempt.number for attempt in harness.claim()] == [2]


def test_a_lease_is_remembered_for_a_while(harness: Any) -> None:
    worker = harness.worker()
    harness.wait(100)
    remove_dead_leases(harness.ledger)
    assert read_lease(harness.ledger, worker.lease.worker)[1].state == "held"
    harness.wait(600)
    remove_dead_leases(harness.ledger)
    assert read_lease(harness.ledger, worker.lease.worker)[1].state == "broken"
    harness.wait(500)
    remove_dead_leases(harness.ledger)
    assert read_lease(harness.ledger, worker.lease.worker)[1].state == "broken"
    harness.wait(200)
    remove_dead_leases(harness.ledger)
    assert read_lease(harness.ledger, worker.lease.worker) is None


class JumpingStore(MemoryStore):
    """A store whose time of day jumps, while ages stay right, as those of a directory do."""

    jumped = timedelta()

    def _head(self, key: str, version: Any) -> Head:
        head = super()._head(key, version)
        return replace(
            head, last_modified=head.last_modified + self.jumped, date=head.date + self.jumped
        )


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_jump_of_the_time_of_day_in_a_pass_ends_no_attempt(new_harness: Any, hours: int) -> None:
    """The claim is listed before the jump; the lease, last renewed before the claim, after it."""
    harness = new_harness()
    store = JumpingStore(harness.now)
    harness.store.inner = store
    job = harness.submit(1)
    worker = harness.worker()
    [attempt] = worker.claim(1)
    harness.wait(40)
    assert attempt.lease.worker == worker.lease.worker

    def jump(name: str, key: str) -> None:
        if name == "list" and "/attempts/" in key:
            store.jumped = timedelta(hours=hours)

    harness.store.after = jump
    harness.recover()
    harness.store.after = None
    assert store.jumped
    assert harness.counts(job) == {"running": 1}
    worker.heartbeat()
    attempt.succeed(b"made")
    assert harness.counts(job) == {"succeeded": 1}

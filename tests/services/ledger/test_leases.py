"""Leases decide which workers are alive, by the store's clock alone."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from interruptions import at_each_request

from services.errors import LeaseLostError, OutcomeUnknownError, UnavailableError
from services.ledger.leases import break_lease, is_expired, read_lease
from services.ledger.workers import WorkerRegistry, all_leases


def _state(harness: Any, worker: Any) -> str:
    return read_lease(harness.ledger, worker.lease.worker)[1].state


def test_renewals_are_a_chain(anywhere: Any) -> None:
    worker = anywhere.worker()
    for _ in range(5):
        worker.heartbeat()
    _, record = read_lease(anywhere.ledger, worker.lease.worker)
    assert (record.version, record.state, record.duration_s) == (6, "held", 60)


@pytest.mark.parametrize(("over_s", "expired"), [(-1, False), (0.9, False), (1.1, True)])
def test_a_lease_holds_a_second_longer_as_stores_round_times(
    harness: Any, over_s: float, expired: bool
) -> None:
    worker = harness.worker()
    head, record = read_lease(harness.ledger, worker.lease.worker)
    now = head.last_modified + timedelta(seconds=record.duration_s + over_s)
    assert is_expired(replace(head, date=now), record) is expired


def test_a_worker_that_renews_its_lease_keeps_its_attempts(harness: Any) -> None:
    harness.submit(2)
    worker = harness.worker()
    attempts = worker.claim(2)
    for _ in range(40):
        harness.wait(15)
        worker.heartbeat()
        harness.recover()
    assert worker.attempts == attempts
    assert [attempt.stop_reason for attempt in attempts] == [None, None]
    for attempt in attempts:
        attempt.succeed(b"")


def test_a_lease_is_broken_only_when_it_is_older_than_its_length(harness: Any) -> None:
    harness.submit(1)
    worker = harness.worker()
    [attempt] = worker.claim(1)
    harness.wait(60)
    harness.recover()
    assert _state(harness, worker) == "held"
    worker.heartbeat()
    harness.wait(61.5)
    harness.recover()
    assert _state(harness, worker) == "broken"
    with pytest.raises(LeaseLostError, match="not renewed within 60 s"):
        worker.heartbeat()
    assert attempt.stop_reason == "lost"


def test_a_clock_that_is_wrong_breaks_no_lease_and_keeps_none(new_harness: Any) -> None:
    for wrong in (lambda: 0.0, lambda: 1e12, lambda: -1e12):
        harness = new_harness()
        harness.submit(1)
        worker = harness.worker(harness.open(wrong))
        assert len(worker.claim(1)) == 1
        harness.wait(50)
        mender = type(harness.supervisor())(harness.open(lambda: 1e15))
        mender.recover()
        assert _state(harness, worker) == "held"
        harness.wait(50)
        mender.recover()
        assert _state(harness, worker) == "broken"


def test_a_worker_that_has_not_renewed_lately_begins_nothing(harness: Any) -> None:
    harness.submit(2)
    worker = harness.worker()
    harness.wait(31)
    assert worker.claim(2) == []
    worker.heartbeat()
    assert len(worker.claim(2)) == 2


def test_all_running_attempts_stop_when_the_lease_is_lost(harness: Any) -> None:
    harness.submit(3)
    worker = harness.worker()
    attempts = worker.claim(3)
    attempts[0].succeed(b"")
    harness.wait(100)
    harness.recover()
    for _ in range(2):
        with pytest.raises(LeaseLostError):
            worker.heartbeat()
    assert [attempt.stop_reason for attempt in attempts] == [None, "lost", "lost"]
    with pytest.raises(LeaseLostError, match="was broken"):
        attempts[1].checkpoint(1, b"")
    for attempt in attempts[1:]:
        attempt.abandon()
    assert worker.attempts == []
    assert worker.claim(3) == []


@contextmanager
def _no_answers_after_the_next_write(harness: Any) -> Iterator[None]:
    """Apply the next write without an answer, and fail all requests after it."""

    def lose() -> None:
        harness.store.before = lambda *_: fail()
        raise OutcomeUnknownError("no answer")

    def fail() -> None:
        raise UnavailableError("no answer")

    with harness.store.interrupted(0, lose, applied=True, writes=True):
        yield


@pytest.mark.parametrize("applied", [False, True])
def test_a_renewal_whose_answer_was_lost_is_adopted(harness: Any, applied: bool) -> None:
    worker = harness.worker()

    def lose() -> None:
        raise OutcomeUnknownError("no answer")

    with harness.store.interrupted(0, lose, applied=applied, writes=True):
        worker.heartbeat()
    worker.heartbeat()
    assert _state(harness, worker) == "held"
    assert read_lease(harness.ledger, worker.lease.worker)[1].version == 3


def test_a_renewal_that_was_given_up_on_may_still_have_been_made(harness: Any) -> None:
    worker = harness.worker()
    with _no_answers_after_the_next_write(harness), pytest.raises(UnavailableError):
        worker.heartbeat()
    worker.heartbeat()
    assert _state(harness, worker) == "held"


def test_breaking_and_renewing_at_once_leaves_one_of_both(harness: Any) -> None:
    harness.submit(1)
    worker = harness.worker()
    [attempt] = worker.claim(1)
    harness.wait(100)
    head, record = read_lease(harness.ledger, worker.lease.worker)
    assert is_expired(head, record)
    worker.heartbeat()
    assert not break_lease(harness.ledger, head, record)
    assert WorkerRegistry(harness.ledger).find_live(worker.lease.worker)
    worker.heartbeat()
    assert attempt.stop_reason is None


def test_at_every_request_of_a_recovery_a_renewal_keeps_or_loses_all(new_harness: Any) -> None:
    for at, harness in at_each_request(new_harness):
        harness.submit(1)
        worker = harness.worker()
        [attempt] = worker.claim(1)
        harness.wait(100)
        lost = list[bool]()

        def beat(worker: Any = worker, lost: list[bool] = lost) -> None:
            try:
                worker.heartbeat()
            except LeaseLostError:
                lost.append(True)

        with harness.store.interrupted(at, beat) as reached:
            harness.recover()
        ended = harness.ledger.exists(attempt.keys.attempt_end(attempt.item_ref, 1))
        if reached:
            assert bool(lost) == (_state(harness, worker) == "broken")
            assert lost or not ended
            assert attempt.stop_reason == ("lost" if lost else None)


def test_a_released_lease_frees_its_attempts_without_waiting_for_its_end(harness: Any) -> None:
    harness.submit(2)
    worker = harness.worker()
    assert len(worker.claim(2)) == 2
    worker.end()
    harness.wait(31)  # an attempt that is younger than half a lease is not looked into
    harness.recover()
    assert sorted(attempt.number for attempt in harness.claim(2)) == [2, 2]


def test_a_released_item_can_be_claimed_at_once(harness: Any) -> None:
    harness.submit(2)
    for attempt in harness.claim(2):
        attempt.release("ending")
    assert [attempt.number for attempt in harness.claim(2)] == [2, 2]


def test_a_worker_that_has_ended_claims_nothing(harness: Any) -> None:
    harness.submit(1)
    worker = harness.worker()
    worker.end()
    assert worker.claim(1) == []


def test_a_worker_that_has_ended_does_not_come_back(harness: Any) -> None:
    worker = harness.worker()
    worker.end()
    with pytest.raises(LeaseLostError):
        worker.heartbeat()
    assert _state(harness, worker) == "released"


def test_ending_is_safe_to_call_again(harness: Any) -> None:
    worker = harness.worker()
    with _no_answers_after_the_next_write(harness), pytest.raises(UnavailableError):
        worker.end()
    worker.end()
    assert _state(harness, worker) == "released"


def test_an_item_that_is_claimed_while_the_lease_is_lost_is_not_begun(new_harness: Any) -> None:
    for at, harness in at_each_request(new_harness):
        harness.submit(1)
        worker = harness.worker()

        def lose(harness: Any = harness, worker: Any = worker) -> None:
            harness.wait(100)
            WorkerRegistry(harness.ledger).find_live(worker.lease.worker)
            with pytest.raises(LeaseLostError):
                worker.heartbeat()

        with harness.store.interrupted(at, lose) as reached:
            claimed = worker.claim(1)
        assert not reached or claimed == []


def test_progress_is_seen_with_the_next_renewal(harness: Any) -> None:
    harness.submit(2)
    worker = harness.worker()
    first, second = worker.claim(2)
    first.report_progress({"step": 5})
    worker.heartbeat()
    [lease] = all_leases(harness.ledger)
    reported = {held.index: held.progress for held in lease.attempts}
    assert reported == {first.item_ref.index: {"step": 5}, second.item_ref.index: {}}
    first.succeed(b"")
    first.report_progress({"step": 6})
    worker.heartbeat()
    [lease] = all_leases(harness.ledger)
    assert [held.index for held in lease.attempts] == [second.item_ref.index]


def test_progress_that_cannot_be_written_does_not_cost_the_lease(harness: Any) -> None:
    harness.submit(1)
    worker = harness.worker()
    [attempt] = worker.claim(1)
    with suppress(TypeError, ValueError):  # said where it was done
        attempt.report_progress({"image": object()})
    worker.heartbeat()

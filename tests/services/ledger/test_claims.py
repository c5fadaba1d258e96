"""The items that a worker is given, and the facts that come with them."""

from collections import Counter
from typing import Any

from interruptions import at_each_request

from services.contracts.jobs import ItemState
from services.errors import UnavailableError
from services.ledger.queries import list_attempts, list_items

PATIENCE = 2000
"""Requests, far more than any claim needs: then it goes round in circles."""


class Circling(Exception):
    """A claim has made more requests than it can need."""


def _patient(harness: Any) -> Any:
    def give_up() -> None:
        raise Circling

    return harness.store.interrupted(PATIENCE, give_up)


def test_each_item_is_given_to_one_of_many_workers(anywhere: Any) -> None:
    job = anywhere.submit(12)
    workers = [anywhere.worker() for _ in range(4)]
    claimed = [attempt for worker in workers for attempt in worker.claim(4)]
    assert sorted(attempt.item_ref.index for attempt in claimed) == list(range(12))
    for a in claimed:
        first = (a.number, a.resume_from, a.earlier_ends, a.isolated, a.stop_reason)
        assert first == (1, None, (), False, None)
    assert all(a.item.name == f"item {a.item_ref.index}" for a in claimed)
    assert all(a.item.work == {"number": a.item_ref.index} for a in claimed)
    assert anywhere.counts(job) == {"running": 12}
    anywhere.wait(3)
    assert anywhere.claim(4) == []


def test_an_item_goes_to_one_worker_though_all_have_seen_it_free(new_harness: Any) -> None:
    for at, harness in at_each_request(new_harness):
        harness.submit(1)
        other, worker, claimed = harness.worker(), harness.worker(), list[Any]()
        with harness.store.interrupted(
            at, lambda other=other, claimed=claimed: claimed.extend(other.claim(1))
        ):
            claimed.extend(worker.claim(1))
        assert len(claimed) == 1
    assert at >= 5


def test_the_limit_counts_running_attempts(harness: Any) -> None:
    harness.submit(10)
    worker = harness.worker()
    first = worker.claim(3)
    assert len(first) == 3
    assert worker.claim(3) == []
    first[0].succeed(b"")
    first[1].fail("no")
    assert len(worker.claim(4)) == 3
    assert len(worker.attempts) == 4
    assert len(harness.worker().claim(0)) == 0


def test_the_shared_part_of_a_job_comes_with_each_item(harness: Any) -> None:
    harness.submit(2, shared={"backbone": "x"})
    assert [attempt.shared for attempt in harness.claim(2)] == [{"backbone": "x"}] * 2


def test_a_worker_claims_only_items_that_it_accepts_from_its_pool(harness: Any) -> None:
    harness.submit(2, kind="generation")
    harness.submit(2, pool="large")
    job = harness.submit(2)
    worker = harness.worker(accepts=lambda record: record.kind == "training")
    assert {attempt.keys.job for attempt in worker.claim(8)} == {job}


def test_failures_up_to_the_most_end_the_item_with_all_reasons_kept(harness: Any) -> None:
    job = harness.submit(1, max_attempts=3)
    for number in (1, 2, 3):
        [attempt] = harness.claim()
        assert attempt.number == number
        assert [ended.reason for ended in attempt.earlier_ends] == ["no 1", "no 2"][: number - 1]
        attempt.fail(f"no {number}")
        assert harness.counts(job) == ({"queued": 1} if number < 3 else {"failed": 1})
        harness.wait()
    assert harness.claim() == []
    views = list_attempts(harness.ledger, "acme", job, 0)
    assert [(v.number, v.cause, v.reason) for v in views] == [
        (number, "failed", f"no {number}") for number in (1, 2, 3)
    ]
    assert all(view.ended is not None and view.claimed <= view.ended for view in views)
    [item] = list_items(harness.ledger, "acme", job, state=ItemState.FAILED).items
    assert (item.reason, item.attempt, item.token) == ("no 3", 3, None)


def test_an_item_that_always_fails_is_not_tried_again(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].fail("no face", retry=False)
    assert harness.counts(job) == {"failed": 1}
    harness.wait()
    assert harness.claim() == []


def test_a_released_attempt_is_no_failure(harness: Any) -> None:
    job = harness.submit(1, max_attempts=1)
    for number in range(1, 6):
        [attempt] = harness.claim()
        assert attempt.number == number
        attempt.release("making room")
        harness.wait()
    [attempt] = harness.claim()
    attempt.fail("no")
    assert harness.counts(job) == {"failed": 1}
    causes = [view.cause for view in list_attempts(harness.ledger, "acme", job, 0)]
    assert causes == ["released"] * 5 + ["failed"]


def test_an_item_that_is_released_again_and_again_ends_at_last(harness: Any) -> None:
    job = harness.submit(1)
    for _ in range(99):
        harness.claim()[0].release("making room")
        harness.wait()
    assert harness.claim() == []
    assert harness.counts(job) == {"failed": 1}


def test_a_long_reason_is_kept_in_short(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].fail("x" * 100_000)
    [view] = list_attempts(harness.ledger, "acme", job, 0)
    assert len(view.reason) == 1000
    assert view.reason.endswith("x...")


def test_a_reason_with_the_bytes_of_a_file_name_is_kept(harness: Any) -> None:
    job = harness.submit(1)
    [attempt] = harness.claim()
    attempt.fail("cannot open " + b"caf\xe9".decode(errors="surrogateescape"))
    assert harness.counts(job) == {"queued": 1}


def test_an_attempt_resumes_from_the_latest_checkpoint(harness: Any) -> None:
    harness.submit(1)
    for step in (10, 30, 20):
        [attempt] = harness.claim()
        attempt.checkpoint(step, b"%d" % step)
        attempt.release("making room")
        harness.wait()
    [attempt] = harness.claim()
    assert (attempt.number, attempt.resume_from.number) == (4, 2)
    assert (attempt.resume_from.step, attempt.resume_from.payload) == (30, b"30")


def test_later_checkpoints_of_an_attempt_go_over_earlier_ones(anywhere: Any) -> None:
    anywhere.submit(1)
    [attempt] = anywhere.claim()
    for step in (1, 2, 3):
        attempt.checkpoint(step, b"\n%d\n" % step)
    assert len(anywhere.keys(attempt.keys.checkpoints)) == 1
    attempt.release("making room")
    anywhere.wait()
    assert anywhere.claim()[0].resume_from.payload == b"\n3\n"


def test_checkpoints_go_when_the_item_ends(harness: Any) -> None:
    job = harness.submit(1)
    for _ in range(2):
        [attempt] = harness.claim()
        attempt.checkpoint(1, b"half")
        attempt.release("making room")
        harness.wait()
    harness.claim()[0].succeed(b"")
    assert harness.holds("half") == []
    assert harness.counts(job) == {"succeeded": 1}


def _lose(harness: Any, times: int) -> None:
    """Let workers vanish that had the only item in hand."""
    for _ in range(times):
        assert len(harness.claim()) == 1
        harness.wait(100)
        harness.recover()


def test_the_last_attempt_at_an_item_that_may_kill_workers_is_isolated(harness: Any) -> None:
    suspect = harness.submit(1, max_attempts=3)
    _lose(harness, 2)
    harness.submit(5)
    worker = harness.worker()
    [attempt] = worker.claim(8)
    assert (attempt.keys.job, attempt.isolated, attempt.number) == (suspect, True, 3)
    harness.wait(3)
    assert worker.claim(8) == []
    attempt.succeed(b"")
    assert len(worker.claim(8)) == 5


def test_the_last_attempt_at_an_item_that_failed_is_isolated_too(harness: Any) -> None:
    """Or what runs beside it could end it for good."""
    harness.submit(1, max_attempts=3)
    for last in (False, False, True):
        [attempt] = harness.claim()
        assert attempt.isolated == last
        attempt.fail("no")
        harness.wait()


def test_an_item_that_was_released_again_and_again_is_isolated_from_then_on(harness: Any) -> None:
    """It may break what is beside it, in ways that are taken for nobody's fault."""
    suspect = harness.submit(1, max_attempts=2)
    for _ in range(8):
        [attempt] = harness.claim()
        assert not attempt.isolated
        attempt.release("memory ran out")
        harness.wait()
    for _ in range(2):
        [attempt] = harness.claim()
        assert attempt.isolated
        attempt.fail("memory ran out")
        harness.wait()
    assert harness.counts(suspect) == {"failed": 1}


def test_an_only_attempt_is_not_alone(harness: Any) -> None:
    harness.submit(1, max_attempts=1)
    assert not harness.claim()[0].isolated


def test_a_busy_worker_leaves_isolated_items_to_others(harness: Any) -> None:
    harness.submit(1, max_attempts=3)
    _lose(harness, 2)
    worker = harness.worker(accepts=lambda record: record.max_attempts != 3)
    harness.submit(5)
    assert len(worker.claim(1)) == 1
    worker._claims._accepts = lambda record: True
    with _patient(harness):
        assert len(worker.claim(8)) == 4
    assert harness.claim(8)[0].isolated


def test_on_a_slow_store_the_search_for_isolated_items_ends(harness: Any) -> None:
    """Each request takes longer than what was seen is used."""
    harness.submit(1, max_attempts=3)
    _lose(harness, 2)
    worker = harness.worker(accepts=lambda record: record.max_attempts != 3)
    harness.submit(1)
    assert len(worker.claim(1)) == 1
    worker._claims._accepts = lambda record: True
    requests = [0]

    def wait(name: str, key: str) -> None:
        requests[0] += 1
        if requests[0] > PATIENCE:
            raise Circling
        harness.seconds += 100
        worker.lease._renewed_at = harness.seconds

    harness.store.before = wait
    assert worker.claim(8) == []
    harness.store.before = None
    assert harness.claim(8)[0].isolated


def test_a_claim_that_broke_off_is_given_by_the_next(new_harness: Any) -> None:
    """Whichever request fails, nothing that was claimed is forgotten."""
    for at, harness in at_each_request(new_harness):
        harness.submit(2)
        worker, claimed = harness.worker(), list[Any]()

        def fail() -> None:
            raise UnavailableError("not now")

        with harness.store.interrupted(at, fail):
            try:
                claimed += worker.claim(2)
            except UnavailableError:
                harness.wait(3)
        claimed += worker.claim(2)
        assert len(claimed) == 2
        assert Counter(a.number for a in claimed) == {1: 2}
    assert at >= 8

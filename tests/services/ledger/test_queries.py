"""The views of clients, and the number of requests that they take."""

import itertools
from typing import Any

import pytest

from services.contracts.jobs import ItemState, JobState
from services.errors import DamagedRecordError, InvalidIdError, UnknownJobError
from services.ledger.deletion import delete_job
from services.ledger.queries import (
    list_attempts,
    list_items,
    list_jobs,
    read_token,
    view_job,
)
from services.ledger.workers import ProgressReader


def _pages(harness: Any, limit: int, tenant: str = "acme") -> list[str]:
    jobs, cursor = list[str](), ""
    while cursor is not None:
        page = list_jobs(harness.ledger, tenant, cursor, limit)
        assert len(page.jobs) <= limit
        jobs += [view.job for view in page.jobs]
        cursor = page.next
    return jobs


def test_jobs_are_listed_the_newest_first_across_deleted_ones(anywhere: Any) -> None:
    jobs = []
    for _ in range(9):
        jobs.append(anywhere.submit(1))
        anywhere.wait(1)
    anywhere.submit(1, "other")
    for place in (0, 3, 4, 5, 8):
        delete_job(anywhere.ledger, "acme", jobs[place])
    left = [jobs[place] for place in (7, 6, 2, 1)]
    for limit in (1, 2, 3, 4, 50):
        assert _pages(anywhere, limit) == left
    assert _pages(anywhere, 2, "nobody") == []


def test_a_cursor_may_be_a_job_that_was_deleted_since(harness: Any) -> None:
    jobs = []
    for _ in range(4):
        jobs.append(harness.submit(1))
        harness.wait(1)
    page = list_jobs(harness.ledger, "acme", limit=2)
    delete_job(harness.ledger, "acme", page.next)
    rest = list_jobs(harness.ledger, "acme", page.next, 2).jobs
    assert [view.job for view in rest] == [jobs[1], jobs[0]]


def test_an_invalid_cursor_is_refused(harness: Any) -> None:
    with pytest.raises(InvalidIdError):
        list_jobs(harness.ledger, "acme", "../../x")


@pytest.mark.parametrize("numbers", [{"limit": 0}, {"cursor": -1}])
def test_a_page_out_of_bounds_is_refused_in_words(harness: Any, numbers: dict[str, int]) -> None:
    job = harness.submit(1)
    read = (list_items, job) if "cursor" in numbers else (list_jobs,)
    with pytest.raises(ValueError, match=str(*numbers.values())):
        read[0](harness.ledger, "acme", *read[1:], **numbers)


def test_items_are_listed_page_by_page_and_by_state(anywhere: Any) -> None:
    job = anywhere.submit(5)
    for attempt in anywhere.claim(5):
        if attempt.item_ref.index == 1:
            attempt.fail("no face", retry=False)
        elif attempt.item_ref.index != 3:
            attempt.succeed(b"", {"score": attempt.item_ref.index})
    pages, cursor = [], "0"
    while cursor is not None:
        page = list_items(anywhere.ledger, "acme", job, int(cursor), limit=2)
        pages.append([item.name for item in page.items])
        cursor = page.next
    assert pages == [["item 0", "item 1"], ["item 2", "item 3"], ["item 4"]]
    succeeded = list_items(anywhere.ledger, "acme", job, 1, 1, ItemState.SUCCEEDED)
    assert [(item.index, item.report) for item in succeeded.items] == [(2, {"score": 2})]
    assert succeeded.next == "4"
    [failed] = list_items(anywhere.ledger, "acme", job, state=ItemState.FAILED).items
    assert (failed.index, failed.reason, failed.token) == (1, "no face", None)
    [running] = list_items(anywhere.ledger, "acme", job, state=ItemState.RUNNING).items
    assert (running.index, running.report) == (3, None)
    assert list_items(anywhere.ledger, "acme", job, 5).items == ()


def test_a_token_is_read_by_one_request(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].succeed(b"x" * 100_000)
    with harness.store.counted() as requests:
        read_token(harness.ledger, "acme", f"tok_{job}0000000")
    assert [name for name, _ in requests] == ["read"]


def test_changed_bytes_are_noticed(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].succeed(b"made")
    key = f"t/acme/jobs/{job}/results/00.00000"
    body = harness.store.read(key).body
    harness.damage(key, body.replace(b"\nmade", b"\nmake"))
    with pytest.raises(DamagedRecordError, match="is not what was committed: train it again"):
        read_token(harness.ledger, "acme", f"tok_{job}0000000")


def test_an_item_that_has_not_succeeded_has_no_token(harness: Any) -> None:
    job = harness.submit(2)
    first, _ = harness.claim(2)
    first.fail("no", retry=False)
    for index in (0, 1, 2):
        with pytest.raises(UnknownJobError, match=f"acme has no token tok_{job}"):
            read_token(harness.ledger, "acme", f"tok_{job}00{index:05d}")


def test_other_tenants_jobs_are_not_there(harness: Any) -> None:
    job = harness.submit(1)
    harness.claim()[0].succeed(b"")
    for read in (view_job, list_items, lambda *a: list_attempts(*a, 0)):
        with pytest.raises(UnknownJobError, match=f"other has no job {job}"):
            read(harness.ledger, "other", job)
        for tenant, name in (("acme", "x"), ("acme", f"../acme/jobs/{job}"), ("Acme", job)):
            with pytest.raises(InvalidIdError):
                read(harness.ledger, tenant, name)
    with pytest.raises(UnknownJobError):
        read_token(harness.ledger, "other", f"tok_{job}0000000")
    with pytest.raises(UnknownJobError, match="has no item 1"):
        list_attempts(harness.ledger, "acme", job, 1)
    assert ProgressReader(harness.ledger, 0).read("other", job) == {}


def test_progress_of_living_workers_is_read(harness: Any) -> None:
    job = harness.submit(2)
    worker = harness.worker()
    attempts = worker.claim(2)
    for attempt in attempts:
        attempt.report_progress({"step": attempt.item_ref.index})
    worker.heartbeat()
    assert ProgressReader(harness.ledger, 0).read("acme", job) == {0: {"step": 0}, 1: {"step": 1}}
    harness.wait(100)
    assert ProgressReader(harness.ledger, 0).read("acme", job) == {}


def _requests(harness: Any, job: str) -> int:
    with harness.store.counted() as requests:
        view_job(harness.ledger, "acme", job)
    return len(requests)


def test_ten_thousand_items_are_counted_in_few_requests(harness: Any) -> None:
    job = harness.submit(10_000)
    assert _requests(harness, job) <= 3 + 2 * 10  # spec, commands, rollup; two listings a block
    worker = harness.worker()
    for _ in range(625):
        for attempt in worker.claim(8):
            attempt.succeed(b"")
    assert _requests(harness, job) <= 3 + 2 * 10 + 5000 + 10  # every result once ...
    assert _requests(harness, job) <= 3 + 3 * 10  # ... for all readers
    assert harness.counts(job) == {"queued": 5000, "succeeded": 5000}
    assert len(worker.claim(8)) == 8
    assert harness.counts(job) == {"queued": 4992, "running": 8, "succeeded": 5000}
    for attempt in worker.attempts:
        attempt.succeed(b"")
    for claims in itertools.count():
        attempts = worker.claim(8)
        for attempt in attempts:
            attempt.succeed(b"")
        if claims % 200 == 0:
            harness.recover()
        if not attempts:
            break
    harness.recover()
    assert _requests(harness, job) == 3  # spec, orders, rollup
    assert harness.view(job).state is JobState.SUCCEEDED
    rollup = f"t/acme/jobs/{job}/rollup"
    before = harness.store.read(rollup).body.partition(b"\n")[2]
    harness.store.delete(rollup)
    assert harness.counts(job) == {"succeeded": 10_000}
    harness.recover()
    assert harness.store.read(rollup).body.partition(b"\n")[2] == before

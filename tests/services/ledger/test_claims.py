"""Which items a worker is given, and with what."""

from collections import Counter
from typing import Any

from services.contracts.jobs import ItemState
from services.errors import UnavailableError
from services.ledger.queries import list_attempts, list_items

PATIENCE = 2000
"""Requests, far more than any claim needs: then it goes round in circles."""


class Circling(Exception):
    """A claim has made more requests than it can need."""


def _patient(scene: Any) -> Any:
    def give_up() -> None:
        raise Circling

    return scene.store.interrupted(PATIENCE, give_up)


def test_each_item_is_given_to_one_of_many_workers(anywhere: Any) -> None:
    job = anywhere.submit(12)
    workers = [anywhere.worker() for _ in range(4)]
    given = [attempt for worker in workers for attempt in worker.claim(4)]
    assert sorted(attempt.item_ref.index for attempt in given) == list(range(12))
    for a in given:
        first = (a.number, a.resume_from, a.earlier_ends, a.isolated, a.stop_reason)
        assert first == (1, None, (), False, None)
    assert all(a.item.name == f"item {a.item_ref.index}" for a in given)
    assert all(a.item.work == {"number": a.item_ref.index} for a in given)
    assert anywhere.counts(job) == {"running": 12}
    anywhere.wait(3)
    assert anywhere.claim(4) == []


def test_an_item_goes_to_one_worker_though_all_have_seen_it_free(new_scene: Any) -> None:
    at, came = 0, [True]
    while came:
        scene = new_scene()
        scene.submit(1)
        other, worker, given = scene.worker(), scene.worker(), list[Any]()
        with scene.store.interrupted(
            at, lambda other=other, given=given: given.extend(other.claim(1))
        ) as came:
            given.extend(worker.claim(1))
        assert len(given) == 1
        at += 1
    assert at > 5


def test_the_limit_is_what_is_in_hand(scene: Any) -> None:
    scene.submit(10)
    worker = scene.worker()
    first = worker.claim(3)
    assert len(first) == 3
    assert worker.claim(3) == []
    first[0].succeed(b"")
    first[1].fail("no")
    assert len(worker.claim(4)) == 3
    assert len(worker.attempts) == 4
    assert len(scene.worker().claim(0)) == 0


def test_what_all_items_share_comes_with_each(scene: Any) -> None:
    scene.submit(2, shared={"backbone": "x"})
    assert [attempt.shared for attempt in scene.claim(2)] == [{"backbone": "x"}] * 2


def test_a_worker_takes_only_what_it_accepts_and_only_from_its_pool(scene: Any) -> None:
    scene.submit(2, kind="generation")
    scene.submit(2, pool="large")
    job = scene.submit(2)
    worker = scene.worker(accepts=lambda record: record.kind == "training")
    assert {attempt.keys.job for attempt in worker.claim(8)} == {job}


def test_failures_up_to_the_most_end_the_item_with_all_reasons_kept(scene: Any) -> None:
    job = scene.submit(1, max_attempts=3)
    for number in (1, 2, 3):
        [attempt] = scene.claim()
        assert attempt.number == number
        assert [ended.reason for ended in attempt.earlier_ends] == ["no 1", "no 2"][: number - 1]
        attempt.fail(f"no {number}")
        assert scene.counts(job) == ({"queued": 1} if number < 3 else {"failed": 1})
        scene.wait()
    assert scene.claim() == []
    views = list_attempts(scene.ledger, "acme", job, 0)
    assert [(v.number, v.cause, v.reason) for v in views] == [
        (number, "failed", f"no {number}") for number in (1, 2, 3)
    ]
    assert all(view.ended is not None and view.claimed <= view.ended for view in views)
    [item] = list_items(scene.ledger, "acme", job, state=ItemState.FAILED).items
    assert (item.reason, item.attempt, item.token) == ("no 3", 3, None)


def test_what_always_fails_is_not_tried_again(scene: Any) -> None:
    job = scene.submit(1)
    scene.claim()[0].fail("no face", retry=False)
    assert scene.counts(job) == {"failed": 1}
    scene.wait()
    assert scene.claim() == []


def test_what_is_given_back_counts_as_no_failure(scene: Any) -> None:
    job = scene.submit(1, max_attempts=1)
    for number in range(1, 6):
        [attempt] = scene.claim()
        assert attempt.number == number
        attempt.release("making room")
        scene.wait()
    [attempt] = scene.claim()
    attempt.fail("no")
    assert scene.counts(job) == {"failed": 1}
    causes = [view.cause for view in list_attempts(scene.ledger, "acme", job, 0)]
    assert causes == ["released"] * 5 + ["failed"]


def test_what_is_given_back_for_ever_ends_one_day(scene: Any) -> None:
    job = scene.submit(1)
    for _ in range(99):
        scene.claim()[0].release("making room")
        scene.wait()
    assert scene.claim() == []
    assert scene.counts(job) == {"failed": 1}


def test_a_long_reason_is_kept_in_short(scene: Any) -> None:
    job = scene.submit(1)
    scene.claim()[0].fail("x" * 100_000)
    [view] = list_attempts(scene.ledger, "acme", job, 0)
    assert len(view.reason) == 1000
    assert view.reason.endswith("x...")


def test_a_reason_with_the_bytes_of_a_file_name_is_kept(scene: Any) -> None:
    job = scene.submit(1)
    [attempt] = scene.claim()
    attempt.fail("cannot open " + b"caf\xe9".decode(errors="surrogateescape"))
    assert scene.counts(job) == {"queued": 1}


def test_an_attempt_goes_on_from_the_checkpoint_that_is_furthest_on(scene: Any) -> None:
    scene.submit(1)
    for step in (10, 30, 20):
        [attempt] = scene.claim()
        attempt.checkpoint(step, b"%d" % step)
        attempt.release("making room")
        scene.wait()
    [attempt] = scene.claim()
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


def test_checkpoints_go_when_the_item_ends(scene: Any) -> None:
    job = scene.submit(1)
    for _ in range(2):
        [attempt] = scene.claim()
        attempt.checkpoint(1, b"half")
        attempt.release("making room")
        scene.wait()
    scene.claim()[0].succeed(b"")
    assert scene.holds("half") == []
    assert scene.counts(job) == {"succeeded": 1}


def _lose(scene: Any, times: int) -> None:
    """Let workers vanish that had the only item in hand."""
    for _ in range(times):
        assert len(scene.claim()) == 1
        scene.wait(100)
        scene.recover()


def test_the_last_attempt_at_what_may_kill_workers_is_alone(scene: Any) -> None:
    suspect = scene.submit(1, max_attempts=3)
    _lose(scene, 2)
    scene.submit(5)
    worker = scene.worker()
    [attempt] = worker.claim(8)
    assert (attempt.keys.job, attempt.isolated, attempt.number) == (suspect, True, 3)
    scene.wait(3)
    assert worker.claim(8) == []
    attempt.succeed(b"")
    assert len(worker.claim(8)) == 5


def test_the_last_attempt_at_what_failed_by_itself_is_alone_too(scene: Any) -> None:
    """Or what runs beside it could end it for good."""
    scene.submit(1, max_attempts=3)
    for last in (False, False, True):
        [attempt] = scene.claim()
        assert attempt.isolated == last
        attempt.fail("no")
        scene.wait()


def test_what_was_given_back_again_and_again_is_alone_from_then_on(scene: Any) -> None:
    """It may break what is beside it, in ways that are taken for nobody's fault."""
    suspect = scene.submit(1, max_attempts=2)
    for _ in range(8):
        [attempt] = scene.claim()
        assert not attempt.isolated
        attempt.release("memory ran out")
        scene.wait()
    for _ in range(2):
        [attempt] = scene.claim()
        assert attempt.isolated
        attempt.fail("memory ran out")
        scene.wait()
    assert scene.counts(suspect) == {"failed": 1}


def test_an_only_attempt_is_not_alone(scene: Any) -> None:
    scene.submit(1, max_attempts=1)
    assert not scene.claim()[0].isolated


def test_a_worker_with_something_in_hand_leaves_to_others_what_has_to_be_alone(scene: Any) -> None:
    scene.submit(1, max_attempts=3)
    _lose(scene, 2)
    worker = scene.worker(accepts=lambda record: record.max_attempts != 3)
    scene.submit(5)
    assert len(worker.claim(1)) == 1
    worker._claims._accepts = lambda record: True
    with _patient(scene):
        assert len(worker.claim(8)) == 4
    assert scene.claim(8)[0].isolated


def test_on_a_slow_store_what_has_to_be_alone_is_not_found_for_ever(scene: Any) -> None:
    """Each request takes longer than what was seen is used."""
    scene.submit(1, max_attempts=3)
    _lose(scene, 2)
    worker = scene.worker(accepts=lambda record: record.max_attempts != 3)
    scene.submit(1)
    assert len(worker.claim(1)) == 1
    worker._claims._accepts = lambda record: True
    requests = [0]

    def wait(name: str, key: str) -> None:
        requests[0] += 1
        if requests[0] > PATIENCE:
            raise Circling
        scene.seconds += 100
        worker.lease._renewed_at = scene.seconds

    scene.store.before = wait
    assert worker.claim(8) == []
    scene.store.before = None
    assert scene.claim(8)[0].isolated


def test_a_claim_that_broke_off_is_given_by_the_next(new_scene: Any) -> None:
    """Whichever request fails, nothing that was claimed is forgotten."""
    at, broke = 0, [True]
    while broke:
        scene = new_scene()
        scene.submit(2)
        worker, given = scene.worker(), list[Any]()

        def fail() -> None:
            raise UnavailableError("not now")

        with scene.store.interrupted(at, fail) as broke:
            try:
                given += worker.claim(2)
            except UnavailableError:
                scene.wait(3)
        given += worker.claim(2)
        assert len(given) == 2
        assert Counter(a.number for a in given) == {1: 2}
        at += 1
    assert at > 8

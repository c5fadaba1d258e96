"""A result is made once."""

from typing import Any

import pytest
from interruptions import at_each_request

from services.errors import OutcomeUnknownError, SupersededError, UnavailableError
from services.ledger.queries import read_token


def test_of_one_attempt_the_first_end_stands(anywhere: Any) -> None:
    job = anywhere.submit(2)
    first, second = anywhere.claim(2)
    first.succeed(b"made", {"score": 0.5})
    first.succeed(b"made", {"score": 0.5})  # the same again is fine
    with pytest.raises(SupersededError, match="has ended as succeeded"):
        first.fail("no", retry=False)
    with pytest.raises(SupersededError):
        first.succeed(b"other")
    second.fail("no", retry=False)
    second.fail("no", retry=False)
    with pytest.raises(SupersededError, match="has ended as failed"):
        second.succeed(b"made")
    assert anywhere.counts(job) == {"succeeded": 1, "failed": 1}
    assert first.lease.has_attempt(first.held) is second.lease.has_attempt(second.held) is False


@pytest.mark.parametrize("applied", [False, True])
def test_a_lost_answer_is_made_up_for(harness: Any, applied: bool) -> None:
    job = harness.submit(1)
    [attempt] = harness.claim()

    def lose() -> None:
        raise OutcomeUnknownError("no answer")

    with harness.store.interrupted(0, lose, applied=applied, writes=True):
        attempt.succeed(b"made")
    assert harness.counts(job) == {"succeeded": 1}


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("end", ["succeed", "fail", "release"])
def test_an_end_is_called_again_after_the_store_was_away(
    harness: Any, applied: bool, end: str
) -> None:
    job = harness.submit(1)
    [attempt] = harness.claim()

    def away(*_: str) -> None:
        raise UnavailableError("no answer")

    def lose() -> None:
        harness.store.before = away
        raise OutcomeUnknownError("no answer")

    def do() -> None:
        attempt.succeed(b"made") if end == "succeed" else getattr(attempt, end)("no")

    with (
        harness.store.interrupted(0, lose, applied=applied, writes=True),
        pytest.raises(UnavailableError),
    ):
        do()
    assert attempt.lease.has_attempt(attempt.held)
    do()
    assert not attempt.lease.has_attempt(attempt.held)
    assert harness.counts(job) == ({"succeeded": 1} if end == "succeed" else {"queued": 1})


def test_a_result_is_read_by_its_token(anywhere: Any) -> None:
    job = anywhere.submit(1)
    payload = bytes(range(256)) * 100
    anywhere.claim()[0].succeed(payload, {"scores": [1, 2], "note": "ä\n"})
    stored = read_token(anywhere.ledger, "acme", f"tok_{job}0000000")
    assert stored.payload == payload
    assert stored.result.report == {"scores": [1, 2], "note": "ä\n"}


def test_a_report_that_cannot_be_kept_leaves_the_attempt_as_it_is(harness: Any) -> None:
    job = harness.submit(1)
    [attempt] = harness.claim()
    with pytest.raises(ValueError, match="finite number"):
        attempt.succeed(b"", {"loss": float("nan")})
    assert harness.counts(job) == {"running": 1}
    attempt.succeed(b"", {"loss": None})
    assert harness.counts(job) == {"succeeded": 1}


def test_after_a_crash_at_any_write_of_a_commit_the_item_has_ended_once(new_harness: Any) -> None:
    for applied in (False, True):
        for at, harness in at_each_request(new_harness):
            job = harness.submit(1)
            [attempt] = harness.claim()
            attempt.checkpoint(1, b"half")
            with harness.store.crashing(at, applied=applied):
                attempt.succeed(b"by the first")
            harness.wait(100)
            harness.recover()
            harness.work_off(lambda other: other.succeed(b"by another"))
            harness.recover()
            harness.supervisor().sweep()
            assert harness.counts(job) == {"succeeded": 1}
            assert len(harness.holds("by ")) == 1
            assert harness.holds("half") == []

"""The outbox survives writes that fail, and gives up their attempts."""

from functools import partial
from typing import Any

from services.errors import AccessDeniedError
from services.ledger.outbox import Outbox
from services.ledger.queries import list_attempts


def refuse() -> None:
    raise AccessDeniedError("the token has expired")


def test_a_write_that_fails_for_good_fails_its_attempt_and_no_other(harness: Any) -> None:
    job = harness.submit(2)
    first, second = harness.claim(2)
    failed = list[str]()
    with Outbox(lambda attempt, error: failed.append(f"{attempt.item.name}: {error}")) as outbox:
        outbox.send(first, refuse)
        outbox.send(second, partial(second.succeed, b"made"))
    assert failed == [f"{first.item.name}: the token has expired"]
    assert harness.counts(job) == {"queued": 1, "succeeded": 1}
    [ended] = list_attempts(harness.ledger, first.keys.tenant, job, first.item_ref.index)
    assert (ended.cause, ended.reason) == (
        "failed",
        "it could not be written: the token has expired",
    )
    assert first.lease.has_attempt(first.held) is False


def test_an_attempt_whose_failure_cannot_be_written_is_held_no_longer(harness: Any) -> None:
    harness.submit(2)
    first, second = harness.claim(2)
    first.fail = lambda reason: refuse()
    failed = list[str]()
    with Outbox(lambda attempt, error: failed.append(attempt.item.name)) as outbox:
        outbox.send(first, refuse)
        outbox.send(second, partial(second.succeed, b"made"))
    assert failed == [first.item.name]
    assert first.lease.has_attempt(first.held) is False
    assert second.lease.has_attempt(second.held) is False

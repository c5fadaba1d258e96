"""Trying again: how often, how long, and what is said in the end."""

import pytest

from services.errors import NotFoundError, OutcomeUnknownError, UnavailableError
from services.storage.s3_client import TransientError, retry_transient


class Script:
    """A call that does what it is told, on a clock that only pauses move."""

    def __init__(self, *outcomes: Exception | str) -> None:
        self.outcomes = list(outcomes)
        self.pauses: list[float] = []

    def __call__(self) -> str:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run(self, attempts: int = 5, deadline_s: float = 60) -> str:
        return retry_transient(
            self,
            "writing 'a'",
            attempts=attempts,
            deadline_s=deadline_s,
            sleep=self.pauses.append,
            clock=lambda: sum(self.pauses),
        )


LOST = TransientError("lost", applied=True)
REFUSED = TransientError("409", applied=False)


def test_it_tries_until_it_succeeds() -> None:
    script = Script(LOST, REFUSED, "done")
    assert script.run() == "done"
    assert len(script.pauses) == 2


def test_pauses_grow_to_a_bound() -> None:
    script = Script(*[REFUSED] * 200, "done")
    script.run(attempts=201, deadline_s=1e9)
    assert max(script.pauses[:3]) <= 0.2
    assert 4 < max(script.pauses) <= 5


@pytest.mark.parametrize(
    ("failures", "error"),
    [
        ([REFUSED] * 5, UnavailableError),
        ([REFUSED, LOST, REFUSED, REFUSED, REFUSED], OutcomeUnknownError),
    ],
)
def test_one_attempt_that_may_have_been_applied_makes_all_unknown(
    failures: list[Exception], error: type[UnavailableError]
) -> None:
    with pytest.raises(UnavailableError, match=r"writing 'a'.*in 5 attempts") as caught:
        Script(*failures).run()
    assert type(caught.value) is error


def test_no_attempt_begins_behind_the_deadline() -> None:
    script = Script(*[REFUSED] * 1000)
    with pytest.raises(UnavailableError):
        script.run(attempts=1000, deadline_s=10)
    assert sum(script.pauses) <= 10


def test_other_errors_pass() -> None:
    with pytest.raises(NotFoundError):
        Script(LOST, NotFoundError("a")).run()

"""S3Store tells the truth whatever happens; one that does not is found out."""

import random
from typing import Any

import pytest

from chaos.simulation.consistency import (
    applied_though_unavailable,
    lost_to_itself,
    returned_unwritten,
    untruths,
)
from chaos.simulation.nemesis import Faults
from chaos.simulation.world import World
from chaos.simulation.writers import race
from services.errors import (
    AlreadyExistsError,
    OutcomeUnknownError,
    PreconditionFailedError,
    UnavailableError,
)
from services.storage.s3 import S3Store

SEEDS = range(200)


class LooksNotBack(S3Store):
    """Takes 412 for the word of another."""

    def create(self, key: str, body: bytes) -> str:
        try:
            return self._put(key, body, IfNoneMatch="*")
        except PreconditionFailedError as lost:
            raise AlreadyExistsError(key) from lost

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        return self._put(key, body, IfMatch=expected)


class TakesRefusalsForSuccess(S3Store):
    def create(self, key: str, body: bytes) -> str:
        try:
            return super().create(key, body)
        except AlreadyExistsError:
            return self.head(key).etag


class SaysNothingWasChanged(S3Store):
    def _put(self, key: str, body: bytes, **condition: Any) -> str:
        try:
            return super()._put(key, body, **condition)
        except OutcomeUnknownError as error:
            raise UnavailableError(*error.args) from error


def test_the_store_tells_the_truth() -> None:
    outcomes: set[str] = set()
    for seed in SEEDS:
        with World(seed) as world:
            witnesses, bucket = race(world, Faults.drawn(random.Random(seed)))
            assert untruths(witnesses, bucket) == [], seed
            calls = [call for witness in witnesses for call in witness.calls]
            outcomes.update(call.error.__name__ for call in calls if call.error)
    assert {"AlreadyExistsError", "PreconditionFailedError", "NotFoundError"} < outcomes
    assert {"OutcomeUnknownError", "UnavailableError", "Killed"} < outcomes


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (LooksNotBack, lost_to_itself),
        (TakesRefusalsForSuccess, returned_unwritten),
        (SaysNothingWasChanged, applied_though_unavailable),
    ],
)
def test_a_lying_store_is_found_out(kind: type[S3Store], check: Any) -> None:
    for seed in SEEDS:
        with World(seed) as world:
            found = check(*race(world, Faults.drawn(random.Random(seed)), kind))
            if found:
                assert kind.__name__ not in found[0]
                return
    pytest.fail("no seed found it out")


def test_a_deletion_that_was_done_is_not_called_undone() -> None:
    faults = Faults(lost_answer=0.3, unavailable=0.3)
    for seed in SEEDS:
        with World(seed) as world:
            assert untruths(*race(world, faults, conditional=True)) == [], seed

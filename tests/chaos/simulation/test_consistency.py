"""S3Store is consistent under all faults; a store that is not is detected."""

import random
from typing import Any

import pytest

from chaos.simulation.consistency import (
    applied_though_unavailable,
    inconsistencies,
    refused_by_own_write,
    returned_unwritten,
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


class IgnoresOwnWrites(S3Store):
    """Takes 412 for another's write."""

    def create(self, key: str, body: bytes) -> str:
        try:
            return self._put(key, body, IfNoneMatch="*")
        except PreconditionFailedError as lost:
            raise AlreadyExistsError(key) from lost

    def replace(self, key: str, body: bytes, *, expected: str) -> str:
        return self._put(key, body, IfMatch=expected)


class IgnoresRefusals(S3Store):
    def create(self, key: str, body: bytes) -> str:
        try:
            return super().create(key, body)
        except AlreadyExistsError:
            return self.head(key).etag


class DeniesUnknownOutcomes(S3Store):
    def _put(self, key: str, body: bytes, **condition: Any) -> str:
        try:
            return super()._put(key, body, **condition)
        except OutcomeUnknownError as error:
            raise UnavailableError(*error.args) from error


def test_the_store_is_consistent() -> None:
    results: set[str] = set()
    for seed in SEEDS:
        with World(seed) as world:
            recorders, bucket = race(world, Faults.drawn(random.Random(seed)))
            assert inconsistencies(recorders, bucket) == [], seed
            calls = [call for recorder in recorders for call in recorder.calls]
            results.update(call.error.__name__ for call in calls if call.error)
    assert {"AlreadyExistsError", "PreconditionFailedError", "NotFoundError"} < results
    assert {"OutcomeUnknownError", "UnavailableError", "Killed"} < results


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (IgnoresOwnWrites, refused_by_own_write),
        (IgnoresRefusals, returned_unwritten),
        (DeniesUnknownOutcomes, applied_though_unavailable),
    ],
)
def test_an_inconsistent_store_is_detected(kind: type[S3Store], check: Any) -> None:
    for seed in SEEDS:
        with World(seed) as world:
            found = check(*race(world, Faults.drawn(random.Random(seed)), kind))
            if found:
                assert kind.__name__ not in found[0]
                return
    pytest.fail("no seed found it out")


def test_a_deletion_that_was_applied_is_not_reported_as_refused() -> None:
    faults = Faults(lost_answer=0.3, unavailable=0.3)
    for seed in SEEDS:
        with World(seed) as world:
            assert inconsistencies(*race(world, faults, conditional=True)) == [], seed

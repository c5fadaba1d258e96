"""The ledger under faults, by seeds; and that the checks would notice if it were wrong."""

import pytest

from chaos.simulation.mutants import VARIANTS, simulate_variant
from chaos.simulation.schedules import simulate

_SEEDS = 2000
_PARTS = 10

_MOST = 600
"""Seeds within which a variant is caught. Each is caught by one of the first 100."""


@pytest.mark.parametrize("part", range(_PARTS))
def test_what_the_ledger_promises_holds_whatever_goes_wrong(part: int) -> None:
    """`python -m chaos.simulation --seed N` shows all that happened in one that failed."""
    for seed in range(part, _SEEDS, _PARTS):
        assert not (outcome := simulate(seed)).broken, f"seed {seed}: {outcome.broken}"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_broken_ledger_is_caught(name: str) -> None:
    caught = VARIANTS[name].caught_by
    assert any(
        broken.startswith(caught)
        for seed in range(_MOST)
        for broken in simulate_variant((seed, name)).broken
    )


def test_a_seed_is_one_schedule() -> None:
    first, second = simulate(7, log=True), simulate(7, log=True)
    assert first == second
    assert first.log.count("\n") > first.requests
    assert simulate(8, log=True).log != first.log

"""The invariants hold under faults, by seeds, and every mutant violates its own."""

import pytest

from chaos.simulation.mutants import MUTANTS, simulate_mutant
from chaos.simulation.schedules import simulate

_SEEDS = 2000
_PARTS = 10

_MUTANT_SEEDS = 2000
"""Seeds within which a mutant must be detected. Most take under 100; "swap by ETag alone" is
detected by 4 of the first 700.
"""


@pytest.mark.chaos
@pytest.mark.parametrize("part", range(_PARTS))
def test_the_ledger_keeps_its_invariants_under_faults(part: int) -> None:
    """Replay a seed that fails by `python -m chaos.simulation --seed N`."""
    for seed in range(part, _SEEDS, _PARTS):
        assert not (result := simulate(seed)).violations, f"seed {seed}: {result.violations}"


@pytest.mark.chaos
@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_detected_by_its_check(name: str) -> None:
    check = MUTANTS[name].caught_by
    assert any(
        violation.startswith(check)
        for seed in range(_MUTANT_SEEDS)
        for violation in simulate_mutant((seed, name)).violations
    )


def test_a_seed_determines_the_schedule() -> None:
    first, second = simulate(7, log=True), simulate(7, log=True)
    assert first == second
    assert first.log.count("\n") > first.requests
    assert simulate(8, log=True).log != first.log

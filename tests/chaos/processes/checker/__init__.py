"""What the ledger promises, held against the evidence. Each check says what it found to be broken.

Those of `CHECKS` only look; `rebuilding.rebuilt` changes the store, and comes last.
"""

from collections.abc import Callable

from chaos.processes.checker.attempts import (
    begun_after_end,
    cancelled_began,
    resumed_behind,
    shared_alone,
)
from chaos.processes.checker.counting import open_left, views_differ
from chaos.processes.checker.deletions import deletions_undone
from chaos.processes.checker.failures import failed_without_cause, poison_survived
from chaos.processes.checker.processes import processes_failed
from chaos.processes.checker.requests import (
    answers_wrong,
    conflicts_missed,
    keys_made_two,
    submissions_lost,
)
from chaos.processes.checker.results import results_changed, results_dishonest, successes_lost
from chaos.processes.history import Evidence

Check = Callable[[Evidence], list[str]]

CHECKS: tuple[Check, ...] = (
    processes_failed,
    answers_wrong,
    submissions_lost,
    keys_made_two,
    conflicts_missed,
    open_left,
    views_differ,
    results_changed,
    results_dishonest,
    successes_lost,
    deletions_undone,
    cancelled_began,
    begun_after_end,
    resumed_behind,
    shared_alone,
    poison_survived,
    failed_without_cause,
)


def violations(evidence: Evidence) -> list[str]:
    """All that is broken, each with the name of its check."""
    return [f"{check.__name__}: {found}" for check in CHECKS for found in check(evidence)]

"""What the ledger promises, held against the evidence. Each check says what it found to be broken.

Those of `CHECKS` only look; `rebuilding.rebuilt` changes the store, and comes last.
"""

from collections.abc import Callable

from kills.checks.attempts import begun_after_end, cancelled_began, resumed_behind, shared_alone
from kills.checks.counting import open_left, views_differ
from kills.checks.deletions import deletions_undone
from kills.checks.failures import failed_without_cause, poison_survived
from kills.checks.processes import processes_failed
from kills.checks.requests import (
    answers_wrong,
    conflicts_missed,
    keys_made_two,
    submissions_lost,
)
from kills.checks.results import results_changed, results_dishonest, successes_lost
from kills.evidence import Evidence

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

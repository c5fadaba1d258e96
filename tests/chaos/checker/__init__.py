"""The invariants of the ledger, as checks of a round's history.

The checks in `CHECKS` only read; `states.rebuild_differs` changes the store and comes last.
"""

from collections.abc import Sequence

from chaos.checker.attempts import (
    attempt_after_result,
    attempt_of_cancelled_item,
    attempt_without_latest_checkpoint,
    failure_without_cause,
    isolated_attempt_shared,
    poison_unexplained,
)
from chaos.checker.operations import (
    conflict_missed,
    deletion_undone,
    key_made_two_jobs,
    operation_answered_wrongly,
    submission_lost,
)
from chaos.checker.results import result_changed, result_dishonest, success_lost
from chaos.checker.states import process_failed, unfinished_items, views_differ
from chaos.history import Check, History

CHECKS: tuple[Check, ...] = (
    process_failed,
    operation_answered_wrongly,
    submission_lost,
    key_made_two_jobs,
    conflict_missed,
    unfinished_items,
    views_differ,
    result_changed,
    result_dishonest,
    success_lost,
    deletion_undone,
    attempt_of_cancelled_item,
    attempt_after_result,
    attempt_without_latest_checkpoint,
    isolated_attempt_shared,
    poison_unexplained,
    failure_without_cause,
)


def violations(history: History, checks: Sequence[Check] = CHECKS) -> list[str]:
    """Return the violations that all checks find, each after the name of its check."""
    return [f"{check.__name__}: {found}" for check in checks for found in check(history)]

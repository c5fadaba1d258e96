"""One job brought forward: attempts whose workers are gone get an end, and items without hope too.

All of this is safe to do by many at once, and whenever: it writes what is created once, or
tombstones.
"""

from datetime import timedelta

from services.jobs import ItemState
from services.ledger.deletion import finish_item, finish_job
from services.ledger.endings import (
    close,
    count_failures,
    end_attempt,
    fail_exhausted,
    read_ends,
)
from services.ledger.layout import JobKeys, Place
from services.ledger.ledger import Ledger
from services.ledger.records import JobRecord
from services.ledger.rollups import Standings, read_standings
from services.ledger.survey import Standing
from services.ledger.workforce import Workforce


def recover_job(ledger: Ledger, keys: JobKeys, job: JobRecord, workforce: Workforce) -> Standings:
    """End what has to be ended, and return how the job stands then."""
    standings = read_standings(ledger, keys, job.count)
    if standings.control.deleted:
        finish_job(ledger, keys)
    for place, survey in list(standings.open_places()):
        state = None
        standing = survey.attempts.get(place.index)
        if standings.control.is_deleted(place.index):
            if not standings.control.deleted:
                finish_item(ledger, keys, place)
            state = ItemState.DELETED
        elif standing is None:
            # Whoever claims it from now on sees the order, which stood before the survey.
            state = ItemState.CANCELLED if standings.control.cancelled else None
        elif standing.ended or _is_over(ledger, keys, place, standing, workforce):
            state = _next_or_end(ledger, keys, job, place, standing, standings.control.cancelled)
        if state:
            standings.outcomes.note(place, state)
            standings.found += 1
    return standings


def _is_over(
    ledger: Ledger, keys: JobKeys, place: Place, standing: Standing, workforce: Workforce
) -> bool:
    """Whether an attempt is in nobody's hands any more; if so, it is given its end."""
    lease = timedelta(seconds=ledger.settings.lease)
    if standing.age < lease / 2:
        return False  # Its worker's lease was fresh when it claimed.
    worker = workforce.claimant(keys.attempt(place, standing.number))
    if worker is None:
        return False
    living = workforce.living(worker)
    if living is None and workforce.left(worker):
        reason = f"worker {worker} has ended without it"
        end_attempt(ledger, keys, place, standing.number, "released", reason)
        return True
    if living is None:
        reason = f"worker {worker or '(unreadable)'} was killed, or did not renew its lease"
        end_attempt(ledger, keys, place, standing.number, "lost", reason)
        return True
    if living.has_in_hand(keys, place, standing.number):
        return False
    if living.renewed - standing.since < lease:
        return False  # What it renewed may have been written before the claim.
    reason = f"worker {worker} lives, but has it not in hand"
    end_attempt(ledger, keys, place, standing.number, "released", reason)
    return True


def _next_or_end(
    ledger: Ledger,
    keys: JobKeys,
    job: JobRecord,
    place: Place,
    standing: Standing,
    cancelled: bool,
) -> ItemState | None:
    """After an attempt that came to nothing: None if another may follow."""
    if cancelled:
        return close(ledger, keys, place, "cancelled", standing.number)
    if standing.number < job.max_attempts:
        return None
    ends = read_ends(ledger, keys, place, standing.number)
    if count_failures(ends) < job.max_attempts:
        return None
    return fail_exhausted(ledger, keys, place, ends)

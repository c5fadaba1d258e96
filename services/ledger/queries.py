"""What clients see: jobs, their items, attempts and tokens. All of it is derived when it is asked
for; nothing here writes, but that a reader may save a rollup.

Jobs, items, attempts and tokens as clients see them.
"""

import hashlib
import itertools
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from services.contracts.jobs import Counts, ItemState, JobState, Kind
from services.errors import (
    DamagedRecordError,
    DeletedError,
    InvalidIdError,
    NotFoundError,
    UnknownJobError,
)
from services.ledger.deletion import item_in_all_rounds
from services.ledger.ids import check_job_id, parse_token_id, token_id
from services.ledger.jobs import JobSpec, read_commands, read_job, read_spec
from services.ledger.keys import ItemRef, JobKeys, jobs_folder, parse_item_ref
from services.ledger.ledger import Ledger
from services.ledger.records import ClaimRecord, EndedRecord, ResultRecord, unpack, unpack_result
from services.ledger.rollups import ItemStates, read_item_states, save_rollup_if_worthwhile
from services.ledger.workers import all_leases
from services.storage.interface import LAST, MAX_PAGE


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as a client sees it."""

    job: str
    kind: Kind
    pool: str
    tags: dict[str, str]
    count: int
    submitted: datetime
    """By the store's clock."""
    state: JobState
    counts: Counts


@dataclass(frozen=True, slots=True)
class ItemView:
    """An item as a client sees it."""

    index: int
    name: str
    state: ItemState
    reason: str = ""
    """Of a failure."""
    attempt: int = 0
    """The one that its result came of."""
    report: dict[str, JsonValue] | None = None
    token: str | None = None
    """Of a success in training: what was learned is read by it."""
    sha256: str = ""
    """Of what was made."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt at an item."""

    round: int
    number: int
    worker: str
    claimed: datetime
    ended: datetime | None
    cause: str
    """How it ended: succeeded, failed, cancelled, lost or released; empty: it has not."""
    reason: str


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list."""

    next: str | None
    """Where the next page begins; None: this was the last one."""


@dataclass(frozen=True, slots=True)
class JobPage(Page):
    jobs: tuple[JobView, ...]


@dataclass(frozen=True, slots=True)
class ItemPage(Page):
    items: tuple[ItemView, ...]


@dataclass(frozen=True, slots=True)
class StoredResult:
    """What a success has made."""

    payload: bytes
    result: ResultRecord
    etag: str
    """Of the version that was read: `reading.stands` says whether it still is the one."""


_PATIENCE = 500
"""Jobs that are looked at for one page."""

_MANY = 100
"""Jobs that are listed at a time where those looked for are few among others."""


def view_job(ledger: Ledger, tenant: str, job: str, kind: Kind | None = None) -> JobView:
    """A job with its counts. kind: that it has to be of. Raises: UnknownJobError, DeletedError."""
    keys = JobKeys(tenant, job)
    submitted, record = read_job(ledger, keys, kind)
    standings = read_item_states(ledger, keys, record.count)
    save_rollup_if_worthwhile(ledger, standings)
    counts = Counts.of(standings.states())
    return JobView(
        job=job,
        kind=record.kind,
        pool=record.pool,
        tags=record.tags,
        count=record.count,
        submitted=submitted,
        state=counts.state(cancelled=standings.commands.cancelled),
        counts=counts,
    )


def list_jobs(
    ledger: Ledger, tenant: str, cursor: str = "", limit: int = 50, kind: Kind | None = None
) -> JobPage:
    """A tenant's jobs, or those of one kind, the newest first, without those whose records are
    damaged, which the supervisor reports. A page may have few of them, or none, and yet a next one.

    Raises: InvalidIdError for a cursor or limit that is none.
    """
    _check_page(limit)
    prefix = jobs_folder(tenant)
    after = f"{prefix}{check_job_id(cursor)}/{LAST}" if cursor else ""
    views: list[JobView] = []
    seen = 0
    while True:
        most = max(limit - len(views), _MANY if kind and seen else 1)
        page = ledger.store.list(prefix, after=after, delimiter="/", limit=most)
        names = [common[len(prefix) : -1] for common in page.prefixes]
        found = ledger.gather(lambda name: _view_unless_gone(ledger, tenant, name, kind), names)
        views += [view for view in found if view]
        seen += len(names)
        if len(views) > limit:
            return JobPage(views[limit - 1].job, tuple(views[:limit]))
        if page.next is None:
            return JobPage(None, tuple(views))
        if len(views) == limit or seen >= _PATIENCE:
            return JobPage(names[-1], tuple(views))
        after = page.next


def list_items(
    ledger: Ledger,
    tenant: str,
    job: str,
    cursor: int = 0,
    limit: int = 100,
    state: ItemState | None = None,
    kind: Kind | None = None,
) -> ItemPage:
    """A job's items in order, from index `cursor` on; those in one state, if that is given. kind:
    that the job has to be of.

    Raises: UnknownJobError, DeletedError; InvalidIdError for a cursor or limit that is none.
    """
    _check_page(limit, cursor)
    keys = JobKeys(tenant, job)
    spec = read_spec(ledger, keys, kind)
    standings = read_item_states(ledger, keys, spec.record.count)
    save_rollup_if_worthwhile(ledger, standings)
    matching = (
        index
        for index in range(cursor, spec.record.count)
        if state is None or standings.state(index) is state
    )
    indices = list(itertools.islice(matching, limit + 1))
    shown = indices[:limit]
    items = ledger.gather(lambda index: _item_view(ledger, keys, spec, standings, index), shown)
    return ItemPage(str(indices[limit]) if len(indices) > limit else None, tuple(items))


def list_attempts(ledger: Ledger, tenant: str, job: str, index: int) -> list[AttemptView]:
    """Every attempt at an item, in order, and how each ended.

    Raises: UnknownJobError, DeletedError.
    """
    keys = JobKeys(tenant, job)
    _, record = read_job(ledger, keys)
    control = read_commands(ledger, keys)
    if not 0 <= index < record.count:
        raise UnknownJobError(f"job {job} has no item {index}")
    return [
        view
        for round_ in control.rounds
        for view in _attempts_in_round(ledger, keys, ItemRef(round_, index))
    ]


def read_token(ledger: Ledger, tenant: str, token: str) -> StoredResult:
    """What a success has made, by the token's id: one request.

    Raises: InvalidIdError, UnknownJobError, DeletedError; DamagedRecordError if its bytes are not
    those that were committed.
    """
    job, round_, index = parse_token_id(token)
    key = JobKeys(tenant, job).result(ItemRef(round_, index))
    if not (found := ledger.find(key)):
        raise UnknownJobError(f"{tenant} has no token {token}")
    record, payload = unpack_result(key, found[1])
    if not isinstance(record, ResultRecord):
        raise DeletedError(f"token {token} was deleted")
    if record.status != "succeeded":
        raise UnknownJobError(f"{tenant} has no token {token}: its item ended as {record.status}")
    if record.kind != "training":
        raise UnknownJobError(f"{tenant} has no token {token}: its job has learned nothing")
    if hashlib.sha256(payload).hexdigest() != record.sha256:
        raise DamagedRecordError(f"token {token} is not what was committed: train it anew")
    return StoredResult(payload, record, found[0].etag)


def read_image(ledger: Ledger, tenant: str, job: str, index: int) -> StoredResult:
    """What an item of a generation job has made.

    Raises: InvalidIdError, UnknownJobError, DeletedError; DamagedRecordError if its bytes are not
    those that were committed.
    """
    keys = JobKeys(tenant, job)
    _, record = read_job(ledger, keys, "generation")
    if not 0 <= index < record.count:
        raise UnknownJobError(f"job {job} has no item {index}")
    place = item_in_all_rounds(ledger, keys, index, record.count)[-1]
    if not (found := ledger.find(keys.result(place))):
        raise UnknownJobError(f"item {index} of job {job} has no image yet")
    result, payload = unpack_result(keys.result(place), found[1])
    if not isinstance(result, ResultRecord):
        raise DeletedError(f"image {index} of job {job} was deleted")
    if result.status != "succeeded":
        raise UnknownJobError(
            f"item {index} of job {job} has no image: it ended as {result.status}"
        )
    if hashlib.sha256(payload).hexdigest() != result.sha256:
        raise DamagedRecordError(
            f"image {index} of job {job} is not what was committed: have it generated anew"
        )
    return StoredResult(payload, result, found[0].etag)


def is_current(ledger: Ledger, tenant: str, token: str, etag: str) -> bool:
    """Whether a token that was read at this version still stands: one request, which moves no
    bytes and is given up on early. If not, `read_token` says why.

    Raises: InvalidIdError.
    """
    job, round_, index = parse_token_id(token)
    try:
        head = ledger.lease_store.head(JobKeys(tenant, job).result(ItemRef(round_, index)))
    except NotFoundError:
        return False
    return head.etag == etag


def progress_of(ledger: Ledger, tenant: str, job: str) -> dict[int, dict[str, JsonValue]]:
    """What workers say of the items of a job that they are at, by index."""
    return {
        held.index: held.progress
        for lease in all_leases(ledger)
        for held in lease.attempts
        if (held.tenant, held.job) == (tenant, job)
    }


def _check_page(limit: int, cursor: int = 0) -> None:
    if not 1 <= limit <= MAX_PAGE or cursor < 0:
        raise InvalidIdError(
            f"a page of {limit} entries from {cursor} on was asked for: ask for 1 to {MAX_PAGE}, "
            "from 0 or from where the page before says"
        )


def _view_unless_gone(ledger: Ledger, tenant: str, job: str, kind: Kind | None) -> JobView | None:
    try:
        return view_job(ledger, tenant, job, kind)
    except (DamagedRecordError, DeletedError, UnknownJobError):
        return None


def _item_view(
    ledger: Ledger, keys: JobKeys, spec: JobSpec, standings: ItemStates, index: int
) -> ItemView:
    state, name = standings.state(index), spec.item(index).name
    place = ItemRef(standings.final.last_round(index), index)
    # Whether a cancelled item has a result of its own depends on who came first: the order, or a
    # claim by a worker that died of something else. Neither made anything.
    shown = state in (ItemState.SUCCEEDED, ItemState.FAILED)
    line = ledger.find_record(keys.result(place)) if shown else None
    record = unpack_result(line[0].key, line[1])[0] if line else None
    if not isinstance(record, ResultRecord):
        return ItemView(index, name, state)
    is_token = record.status == "succeeded" and record.kind == "training"
    return ItemView(
        index,
        name,
        state,
        record.reason,
        record.attempt,
        record.report,
        token_id(keys.job, place.round, place.index) if is_token else None,
        record.sha256,
    )


def _attempts_in_round(ledger: Ledger, keys: JobKeys, place: ItemRef) -> list[AttemptView]:
    views: list[AttemptView] = []
    result = ledger.find_record(keys.result(place))
    outcome = unpack_result(result[0].key, result[1])[0] if result else None
    heads = {head.key: head for head in ledger.heads(f"{keys.attempts}{place}.")}
    for key, head in heads.items():
        _, (number, *ended) = parse_item_ref(key[len(keys.attempts) :])
        if ended or not (found := ledger.find(key)):
            continue
        claim, _ = unpack(key, found[1], ClaimRecord)
        cause, reason, when = "", "", None
        if end := ledger.find(keys.attempt_end(place, int(number))):
            record, _ = unpack(end[0].key, end[1], EndedRecord)
            cause, reason, when = record.cause, record.reason, end[0].last_modified
        # One that was held for dead may have succeeded all the same.
        if (
            result
            and isinstance(outcome, ResultRecord)
            and outcome.attempt == int(number)
            and (not end or outcome.status == "succeeded")
        ):
            cause, reason, when = outcome.status, outcome.reason, result[0].last_modified
        views.append(
            AttemptView(
                place.round, int(number), claim.worker, head.last_modified, when, cause, reason
            )
        )
    return views

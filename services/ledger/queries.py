"""Queries: jobs, items, attempts, tokens and images as clients see them.

Everything is derived when it is asked for. Nothing here writes, except that a reader may update a
rollup.
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
from services.ledger.jobs import read_commands, read_header, read_job
from services.ledger.keys import ItemRef, JobKeys, jobs_folder, parse_item_ref
from services.ledger.ledger import Ledger
from services.ledger.records import ClaimRecord, EndedRecord, ResultRecord, unpack, unpack_result
from services.ledger.rollups import ItemStates, read_item_states, save_rollup_if_worthwhile
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
    """When it was submitted, by the store's clock."""
    state: JobState
    counts: Counts


@dataclass(frozen=True, slots=True)
class ItemView:
    """An item as a client sees it."""

    index: int
    name: str
    state: ItemState
    reason: str = ""
    """Why it failed."""
    attempt: int = 0
    """The attempt that made its result."""
    report: dict[str, JsonValue] | None = None
    token: str | None = None
    """The id of the token that it learned."""
    sha256: str = ""
    """The digest of its token or image."""


@dataclass(frozen=True, slots=True)
class AttemptView:
    """An attempt at an item."""

    round: int
    number: int
    worker: str
    claimed: datetime
    ended: datetime | None
    cause: str
    """How it ended: succeeded, failed, cancelled, lost or released; empty if it has not."""
    reason: str


@dataclass(frozen=True, slots=True)
class ViewPage:
    """A page of a list."""

    next: str | None
    """The cursor of the next page; None on the last one."""


@dataclass(frozen=True, slots=True)
class JobViewPage(ViewPage):
    """A page of jobs."""

    jobs: tuple[JobView, ...]


@dataclass(frozen=True, slots=True)
class ItemViewPage(ViewPage):
    """A page of items."""

    items: tuple[ItemView, ...]


@dataclass(frozen=True, slots=True)
class StoredResult:
    """The token or image of a successful item."""

    payload: bytes
    result: ResultRecord
    etag: str
    """The version that was read: `is_current` tells whether it still stands."""


_MAX_JOBS_READ = 500
"""Jobs that are read for one page, so that a page of a rare kind does not read them all."""

_JOBS_READ_AT_ONCE = 100
"""Jobs that are listed at a time when those of the requested kind turn out to be few."""


def view_job(ledger: Ledger, tenant: str, job: str, kind: Kind | None = None) -> JobView:
    """Return a job with the counts of its items.

    Args:
        ledger: The ledger.
        tenant: The job's tenant.
        job: The job's id.
        kind: The kind that the job has to be of; None for either.

    Raises:
        UnknownJobError: There is no such job, or it is of another kind.
        DeletedError: The job was deleted.
    """
    keys = JobKeys(tenant, job)
    submitted, record = read_job(ledger, keys, kind)
    states = read_item_states(ledger, keys, record.count)
    save_rollup_if_worthwhile(ledger, states)
    counts = Counts.of(states.states())
    return JobView(
        job=job,
        kind=record.kind,
        pool=record.pool,
        tags=record.tags,
        count=record.count,
        submitted=submitted,
        state=counts.state(cancelled=states.commands.cancelled),
        counts=counts,
    )


def list_jobs(
    ledger: Ledger, tenant: str, cursor: str = "", limit: int = 50, kind: Kind | None = None
) -> JobViewPage:
    """Return a page of a tenant's jobs, or of those of one kind, the newest first.

    Jobs whose records are damaged are left out; the supervisor reports them. A page may have fewer
    jobs than `limit`, or none, and still have a next one.

    Raises:
        InvalidIdError: The cursor or the limit is malformed.
    """
    _check_page(limit)
    prefix = jobs_folder(tenant)
    after = f"{prefix}{check_job_id(cursor)}/{LAST}" if cursor else ""
    views: list[JobView] = []
    num_read = 0
    while True:
        page_size = max(limit - len(views), _JOBS_READ_AT_ONCE if kind and num_read else 1)
        page = ledger.store.list(prefix, after=after, delimiter="/", limit=page_size)
        names = [common[len(prefix) : -1] for common in page.prefixes]
        found = ledger.gather(lambda name: _view_unless_gone(ledger, tenant, name, kind), names)
        views += [view for view in found if view]
        num_read += len(names)
        if len(views) > limit:
            return JobViewPage(views[limit - 1].job, tuple(views[:limit]))
        if page.next is None:
            return JobViewPage(None, tuple(views))
        if len(views) == limit or num_read >= _MAX_JOBS_READ:
            # Behind the last job that was read, also if it is of the other kind: it is not read
            # again for the next page.
            return JobViewPage(names[-1], tuple(views))
        after = page.next


def list_items(
    ledger: Ledger,
    tenant: str,
    job: str,
    cursor: int = 0,
    limit: int = 100,
    state: ItemState | None = None,
    kind: Kind | None = None,
) -> ItemViewPage:
    """Return a page of a job's items in order, from the index `cursor` on.

    Args:
        ledger: The ledger.
        tenant: The job's tenant.
        job: The job's id.
        cursor: The index of the first item.
        limit: The size of the page.
        state: The state that the items have to be in; None for any.
        kind: The kind that the job has to be of; None for either.

    Raises:
        UnknownJobError: There is no such job, or it is of another kind.
        DeletedError: The job was deleted.
        InvalidIdError: The cursor or the limit is malformed.
    """
    _check_page(limit, cursor)
    keys = JobKeys(tenant, job)
    header = read_header(ledger, keys, kind)
    count = header.record.count
    states = read_item_states(ledger, keys, count)
    save_rollup_if_worthwhile(ledger, states)
    matching = (
        index for index in range(cursor, count) if state is None or states.state(index) is state
    )
    # One item more than the page has: it is the cursor of the next one.
    indices = list(itertools.islice(matching, limit + 1))
    shown = indices[:limit]
    named = header.read_items(ledger, shown)
    items = ledger.gather(
        lambda index: _item_view(ledger, keys, named[index].name, states, index), shown
    )
    return ItemViewPage(str(indices[limit]) if len(indices) > limit else None, tuple(items))


def list_attempts(ledger: Ledger, tenant: str, job: str, index: int) -> list[AttemptView]:
    """Return all attempts at an item, in order, and how each ended.

    Raises:
        UnknownJobError: There is no such job or item.
        DeletedError: The job was deleted.
    """
    keys = JobKeys(tenant, job)
    _, record = read_job(ledger, keys)
    commands = read_commands(ledger, keys)
    if not 0 <= index < record.count:
        raise UnknownJobError(f"job {job} has no item {index}")
    return [
        view
        for round_ in commands.rounds
        for view in _attempts_in_round(ledger, keys, ItemRef(round_, index))
    ]


def read_token(ledger: Ledger, tenant: str, token: str) -> StoredResult:
    """Return a learned token, in one request.

    Raises:
        InvalidIdError: The token's id is malformed.
        UnknownJobError: There is no such token.
        DeletedError: The token was deleted.
        DamagedRecordError: The bytes are not those that were committed.
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
    # An image has the same kind of key: its bytes must not be served as a token.
    if record.kind != "training":
        raise UnknownJobError(f"{tenant} has no token {token}: its job learns no tokens")
    if hashlib.sha256(payload).hexdigest() != record.sha256:
        raise DamagedRecordError(f"token {token} is not what was committed: train it again")
    return StoredResult(payload, record, found[0].etag)


def read_image(ledger: Ledger, tenant: str, job: str, index: int) -> StoredResult:
    """Return the image of an item of a generation job.

    Raises:
        InvalidIdError: The job's id is malformed.
        UnknownJobError: There is no such job, item or image.
        DeletedError: The job or the image was deleted.
        DamagedRecordError: The bytes are not those that were committed.
    """
    keys = JobKeys(tenant, job)
    _, record = read_job(ledger, keys, "generation")
    if not 0 <= index < record.count:
        raise UnknownJobError(f"job {job} has no item {index}")
    item = item_in_all_rounds(ledger, keys, index, record.count)[-1]
    if not (found := ledger.find(keys.result(item))):
        raise UnknownJobError(f"item {index} of job {job} has no image yet")
    result, payload = unpack_result(keys.result(item), found[1])
    if not isinstance(result, ResultRecord):
        raise DeletedError(f"image {index} of job {job} was deleted")
    if result.status != "succeeded":
        raise UnknownJobError(
            f"item {index} of job {job} has no image: it ended as {result.status}"
        )
    if hashlib.sha256(payload).hexdigest() != result.sha256:
        raise DamagedRecordError(
            f"image {index} of job {job} is not what was committed: generate it again"
        )
    return StoredResult(payload, result, found[0].etag)


def is_current(ledger: Ledger, tenant: str, token: str, etag: str) -> bool:
    """Return whether the version `etag` of a token still stands; if not, `read_token` says why.

    One request without a body, over the leases' connections, which time out early.

    Raises:
        InvalidIdError: The token's id is malformed.
    """
    job, round_, index = parse_token_id(token)
    try:
        head = ledger.lease_store.head(JobKeys(tenant, job).result(ItemRef(round_, index)))
    except NotFoundError:
        return False
    return head.etag == etag


def _check_page(limit: int, cursor: int = 0) -> None:
    if not 1 <= limit <= MAX_PAGE or cursor < 0:
        raise InvalidIdError(
            f"there is no page of {limit} entries from {cursor} on: ask for 1 to {MAX_PAGE}, from "
            "0 or from the cursor of the page before"
        )


def _view_unless_gone(ledger: Ledger, tenant: str, job: str, kind: Kind | None) -> JobView | None:
    try:
        return view_job(ledger, tenant, job, kind)
    except (DamagedRecordError, DeletedError, UnknownJobError):
        return None


def _item_view(
    ledger: Ledger, keys: JobKeys, name: str, states: ItemStates, index: int
) -> ItemView:
    state = states.state(index)
    item = ItemRef(states.final.last_round(index), index)
    # Whether a cancelled item has a result depends on a race between the command and a claim by a
    # worker that died. Neither made anything, so that both look the same.
    has_result = state in (ItemState.SUCCEEDED, ItemState.FAILED)
    found = ledger.find_record(keys.result(item)) if has_result else None
    record = unpack_result(found[0].key, found[1])[0] if found else None
    if not isinstance(record, ResultRecord):
        return ItemView(index, name, state)
    has_token = record.status == "succeeded" and record.kind == "training"
    return ItemView(
        index,
        name,
        state,
        record.reason,
        record.attempt,
        record.report,
        token_id(keys.job, item.round, item.index) if has_token else None,
        record.sha256,
    )


def _attempts_in_round(ledger: Ledger, keys: JobKeys, item: ItemRef) -> list[AttemptView]:
    views: list[AttemptView] = []
    stored = ledger.find_record(keys.result(item))
    result = unpack_result(stored[0].key, stored[1])[0] if stored else None
    for head in ledger.heads(f"{keys.attempts}{item}."):
        _, (number, *ended) = parse_item_ref(head.key[len(keys.attempts) :])
        # An end is read with its attempt; a claim that is gone went with its job.
        if ended or not (found := ledger.find(head.key)):
            continue
        claim, _ = unpack(head.key, found[1], ClaimRecord)
        cause, reason, when = "", "", None
        if end := ledger.find(keys.attempt_end(item, int(number))):
            record, _ = unpack(end[0].key, end[1], EndedRecord)
            cause, reason, when = record.cause, record.reason, end[0].last_modified
        # An attempt that was ended as lost may have succeeded all the same.
        if (
            stored
            and isinstance(result, ResultRecord)
            and result.attempt == int(number)
            and (not end or result.status == "succeeded")
        ):
            cause, reason, when = result.status, result.reason, stored[0].last_modified
        views.append(
            AttemptView(
                item.round, int(number), claim.worker, head.last_modified, when, cause, reason
            )
        )
    return views

"""The index of a tenant's tokens: by alias, or by the jobs with a tag; newest first.

It reads the ledger on each call, so that deleted tokens disappear at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from services.contracts.jobs import ItemState
from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.ledger import aliases
from services.ledger.ids import is_job_id, is_token_id, parse_token_id, token_id
from services.ledger.jobs import read_header, read_job
from services.ledger.keys import ItemRef, JobKeys, jobs_folder
from services.ledger.ledger import Ledger
from services.ledger.records import JobRecord, ResultRecord, unpack_result
from services.ledger.rollups import read_item_states
from services.storage.interface import LAST

_MAX_ROUND, _MAX_INDEX = 99, 99_999
"""The largest numbers in a token's id, for a cursor behind all tokens of a job."""

_MAX_JOBS_PER_LIST = 100

_GONE = (DamagedRecordError, DeletedError, UnknownJobError)


@dataclass(frozen=True, slots=True)
class IndexedToken:
    """A token, without its file."""

    token: str
    alias: str
    job: str
    index: int
    created: datetime
    tags: dict[str, str]
    sha256: str
    report: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class TokenIndexPage:
    """A page of tokens, and the cursor of the next page or None."""

    tokens: list[IndexedToken]
    next: str | None


def read_indexed_token(
    ledger: Ledger, tenant: str, token: str, alias: str, job: JobRecord
) -> IndexedToken | None:
    """Return a token; None if it does not exist or was deleted."""
    job_id, round_, index = parse_token_id(token)
    found = ledger.find_record(JobKeys(tenant, job_id).result(ItemRef(round_, index)))
    if found is None:
        return None
    head, line = found
    record = unpack_result(head.key, line)[0]
    if not isinstance(record, ResultRecord):
        return None
    if record.status != "succeeded" or record.kind != "training":
        return None
    return IndexedToken(
        token=token,
        alias=alias,
        job=job_id,
        index=index,
        created=head.last_modified,
        tags=job.tags,
        sha256=record.sha256,
        report=record.report,
    )


class TokenIndex:
    """The token index of one tenant, filtered by a tag of the jobs if one is given.

    One call reads at most `max_reads` jobs or aliases, so that a rare tag cannot make a request run
    for long: a page may hold few tokens, or none, and still have a next one.
    """

    def __init__(
        self, ledger: Ledger, tenant: str, tag: tuple[str, str] | None, max_reads: int = 500
    ) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._tag = tag
        self._max_reads = max_reads

    def list_by_alias(self, alias: str, cursor: str, limit: int) -> TokenIndexPage:
        """Return the tokens of one subject from all jobs that trained it."""
        ids = aliases.find_tokens(self._ledger.store, self._tenant, alias, cursor)
        tokens: list[IndexedToken] = []
        num_reads = 0
        while True:
            # One token more than the limit tells whether there is a next page.
            batch = [token for token, _ in zip(ids, range(limit + 1 - len(tokens)), strict=False)]
            found = self._ledger.gather(lambda token: self._read_token(token, alias), batch)
            tokens += [token for token in found if token]
            num_reads += len(batch)
            if len(tokens) > limit:
                return TokenIndexPage(tokens[:limit], tokens[limit - 1].token)
            if not batch:
                return TokenIndexPage(tokens, None)
            if num_reads >= self._max_reads:
                return TokenIndexPage(tokens, batch[-1])

    def has(self, name: str) -> bool:
        """Return True if a token with this id or alias exists."""
        if is_token_id(name):
            return self._read_token(name, "") is not None
        return bool(self.list_by_alias(name, "", 1).tokens)

    def list_by_job(self, cursor: str, limit: int) -> TokenIndexPage:
        """Return the tokens of all jobs, or of those with the tag."""
        tokens: list[IndexedToken] = []
        first_job, after = "", -1
        if cursor:
            # The cursor is the last token that was shown: its job may have more, and is read again.
            first_job, _, after = parse_token_id(cursor)
            tokens += self._tokens_of_job(first_job, after, limit + 1)
        num_reads, last_job = 0, first_job
        if len(tokens) <= limit:
            for jobs in self._list_jobs(first_job):
                records = self._ledger.gather(self._read_job, jobs)
                for job, record in zip(jobs, records, strict=True):
                    if record:
                        tokens += self._tokens_of_job(job, -1, limit + 1 - len(tokens), record)
                    last_job, num_reads = job, num_reads + 1
                    if len(tokens) > limit:
                        break
                if len(tokens) > limit or num_reads >= self._max_reads:
                    break
            else:
                return TokenIndexPage(tokens, None)
        if len(tokens) > limit:
            return TokenIndexPage(tokens[:limit], tokens[limit - 1].token)
        return TokenIndexPage(tokens, token_id(last_job, _MAX_ROUND, _MAX_INDEX))

    def _list_jobs(self, after: str) -> Iterator[list[str]]:
        """Yield the ids of the tenant's jobs after one, in batches."""
        prefix, limit = jobs_folder(self._tenant), min(_MAX_JOBS_PER_LIST, self._max_reads)
        start: str | None = f"{prefix}{after}/{LAST}" if after else ""
        while start is not None:
            page = self._ledger.store.list(prefix, after=start, delimiter="/", limit=limit)
            yield [name for p in page.prefixes if is_job_id(name := p[len(prefix) : -1])]
            start = page.next

    def _tokens_of_job(
        self, job: str, after: int, limit: int, record: JobRecord | None = None
    ) -> list[IndexedToken]:
        """Return the tokens of one job's items after an index."""
        record = record or self._read_job(job)
        if record is None or after >= record.count:
            return []
        keys = JobKeys(self._tenant, job)
        try:
            states = read_item_states(self._ledger, keys, record.count)
            items = [
                ItemRef(states.final.last_round(index), index)
                for index in range(after + 1, record.count)
                if states.state(index) is ItemState.SUCCEEDED
            ][:limit]
            if not items:
                return []
            named = read_header(self._ledger, keys).read_items(
                self._ledger, [item.index for item in items]
            )
        except _GONE:
            return []

        def read(item: ItemRef) -> IndexedToken | None:
            token = token_id(job, item.round, item.index)
            alias = named[item.index].name
            return read_indexed_token(self._ledger, self._tenant, token, alias, record)

        return [token for token in self._ledger.gather(read, items) if token]

    def _read_token(self, token: str, alias: str) -> IndexedToken | None:
        try:
            job, _, _ = parse_token_id(token)
            record = self._read_job(job)
            if record is None:
                return None
            return read_indexed_token(self._ledger, self._tenant, token, alias, record)
        except _GONE:
            return None

    def _read_job(self, job: str) -> JobRecord | None:
        """Return a training job; None if it is gone, of another kind, or lacks the tag."""
        try:
            _, record = read_job(self._ledger, JobKeys(self._tenant, job), "training")
        except _GONE:
            return None
        if self._tag and record.tags.get(self._tag[0]) != self._tag[1]:
            return None
        return record

"""A tenant's tokens in order: those of one alias, or of all jobs that have a tag. The newest first;
read anew each time, so that what was deleted is gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from services.contracts.jobs import ItemState
from services.errors import DamagedRecordError, DeletedError, UnknownJobError
from services.ledger import aliases
from services.ledger.ids import is_job_id, is_token_id, parse_token_id, token_id
from services.ledger.jobs import read_job, read_spec
from services.ledger.keys import ItemRef, JobKeys, jobs_folder
from services.ledger.ledger import Ledger
from services.ledger.records import JobRecord, ResultRecord, unpack_result
from services.ledger.rollups import read_item_states
from services.storage.interface import LAST

_ROUNDS, _ITEMS = 99, 99_999
"""The last ones that an id can name: of a cursor behind all of a job."""

_GONE = (DamagedRecordError, DeletedError, UnknownJobError)


@dataclass(frozen=True, slots=True)
class IndexedToken:
    """A token, without its bytes."""

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
    tokens: list[IndexedToken]
    next: str | None


def look_at(
    ledger: Ledger, tenant: str, token: str, alias: str, job: JobRecord
) -> IndexedToken | None:
    """None: there is no such token, or no more."""
    job_id, round_, index = parse_token_id(token)
    line = ledger.find_record(JobKeys(tenant, job_id).result(ItemRef(round_, index)))
    record = unpack_result(line[0].key, line[1])[0] if line else None
    if not line or not isinstance(record, ResultRecord):
        return None
    if record.status != "succeeded" or record.kind != "training":
        return None
    return IndexedToken(
        token=token,
        alias=alias,
        job=job_id,
        index=index,
        created=line[0].last_modified,
        tags=job.tags,
        sha256=record.sha256,
        report=record.report,
    )


class TokenIndex:
    """Of one tenant, for one question. Looks at `patience` jobs or hints at most, so that a page
    may have few tokens, or none, and yet a next one.
    """

    def __init__(
        self, ledger: Ledger, tenant: str, tag: tuple[str, str] | None, patience: int = 500
    ) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._tag = tag
        self._patience = patience

    def of_alias(self, alias: str, cursor: str, limit: int) -> TokenIndexPage:
        """Of one subject, whatever jobs it was in."""
        hints = aliases.find_tokens(self._ledger.store, self._tenant, alias, cursor)
        found: list[IndexedToken] = []
        seen = 0
        while True:
            batch = [hint for hint, _ in zip(hints, range(limit + 1 - len(found)), strict=False)]
            shelved = self._ledger.gather(lambda hint: self._of_hint(hint, alias), batch)
            found += [one for one in shelved if one]
            seen += len(batch)
            if len(found) > limit:
                return TokenIndexPage(found[:limit], found[limit - 1].token)
            if not batch:
                return TokenIndexPage(found, None)
            if seen >= self._patience:
                return TokenIndexPage(found, batch[-1])

    def has(self, name: str) -> bool:
        """Whether a token is there: of this id, or of this subject."""
        if is_token_id(name):
            return self._of_hint(name, "") is not None
        return bool(self.of_alias(name, "", 1).tokens)

    def of_jobs(self, cursor: str, limit: int) -> TokenIndexPage:
        """Of all jobs, or of those with the tag."""
        found: list[IndexedToken] = []
        begun, after = "", -1
        if cursor:
            begun, _, after = parse_token_id(cursor)
            found += self._of_job(begun, after, limit + 1)
        seen, last = 0, begun
        if len(found) <= limit:
            for jobs in self._jobs(begun):
                records = self._ledger.gather(self._record, jobs)
                for job, record in zip(jobs, records, strict=True):
                    if record:
                        found += self._of_job(job, -1, limit + 1 - len(found), record)
                    last, seen = job, seen + 1
                    if len(found) > limit:
                        break
                if len(found) > limit or seen >= self._patience:
                    break
            else:
                return TokenIndexPage(found, None)
        if len(found) > limit:
            return TokenIndexPage(found[:limit], found[limit - 1].token)
        return TokenIndexPage(found, token_id(last, _ROUNDS, _ITEMS))

    def _jobs(self, after: str) -> Iterator[list[str]]:
        """Ids of the tenant's jobs, behind one, a few at a time."""
        prefix, most = jobs_folder(self._tenant), min(100, self._patience)
        start: str | None = f"{prefix}{after}/{LAST}" if after else ""
        while start is not None:
            page = self._ledger.store.list(prefix, after=start, delimiter="/", limit=most)
            yield [name for p in page.prefixes if is_job_id(name := p[len(prefix) : -1])]
            start = page.next

    def _of_job(
        self, job: str, after: int, limit: int, record: JobRecord | None = None
    ) -> list[IndexedToken]:
        """Tokens of one job, from behind an index on."""
        record = record or self._record(job)
        if record is None or after >= record.count:
            return []
        keys = JobKeys(self._tenant, job)
        try:
            standings = read_item_states(self._ledger, keys, record.count)
            places = [
                ItemRef(standings.final.last_round(index), index)
                for index in range(after + 1, record.count)
                if standings.state(index) is ItemState.SUCCEEDED
            ][:limit]
            spec = read_spec(self._ledger, keys) if places else None
        except _GONE:
            return []

        def look(place: ItemRef) -> IndexedToken | None:
            assert spec
            token = token_id(job, place.round, place.index)
            return look_at(self._ledger, self._tenant, token, spec.item(place.index).name, record)

        return [one for one in self._ledger.gather(look, places) if one]

    def _of_hint(self, token: str, alias: str) -> IndexedToken | None:
        try:
            job, _, _ = parse_token_id(token)
            record = self._record(job)
            return look_at(self._ledger, self._tenant, token, alias, record) if record else None
        except _GONE:
            return None

    def _record(self, job: str) -> JobRecord | None:
        """None: it is gone, has learned nothing, or has not the tag."""
        try:
            _, record = read_job(self._ledger, JobKeys(self._tenant, job), "training")
        except _GONE:
            return None
        if self._tag and record.tags.get(self._tag[0]) != self._tag[1]:
            return None
        return record

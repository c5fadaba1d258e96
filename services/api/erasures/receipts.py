"""Receipts: what was erased and when, without the name of what was erased.

Layout: t/{tenant}/erasures/{id}, by compare-and-swap. The id is a pseudonym of what is erased, so
that a repeated erasure continues the receipt of the first.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from services.contracts.jobs import WireModel
from services.errors import DamagedRecordError, UnknownErasureError
from services.ledger.keys import tenant_folder
from services.ledger.ledger import Ledger
from services.ledger.pseudonyms import pseudonym
from services.ledger.records import VersionedRecord, pack, unpack

ID_LENGTH = 32

What = Literal["subject", "tag", "job"]


class ErasureCounts(WireModel):
    """The number of objects that were erased."""

    tokens: int = 0
    images: int = 0
    items: int = 0
    jobs: int = 0
    uploads: int = 0
    aliases: int = 0
    idempotency_records: int = 0
    old_versions: int = 0


class ErasureRecord(VersionedRecord):
    """A receipt. Times are by the store's clock."""

    type: Literal["erasure"] = "erasure"
    what: What
    by: str
    """The id of the API key that requested it last."""
    started: datetime
    finished: datetime | None = None
    """When it was complete; None while it runs, and after a crash."""
    counts: ErasureCounts = ErasureCounts()


@dataclass(frozen=True, slots=True)
class Erasure:
    """A receipt and its id."""

    id: str
    record: ErasureRecord


class Receipt:
    """The receipt of one run of an erasure."""

    def __init__(self, ledger: Ledger, tenant: str, what: What, name: str, by: str) -> None:
        """Begin the receipt, or continue that of an earlier run."""
        self._ledger = ledger
        self._what: What = what
        self._by, self._started = by, ledger.store.now()
        self.id = pseudonym(ledger.store, tenant, f"erasure {what} {name}")[:ID_LENGTH]
        self._key = f"{folder(tenant)}{self.id}"
        self._unsaved = Counter[str]()
        self._save(finished=None)

    def count(self, name: str, number: int) -> None:
        """Count what was erased; `save` writes it."""
        self._unsaved[name] += number

    def save(self) -> None:
        """Write what was counted, so that a crash does not lose it."""
        self._save(finished=None)

    def finish(self) -> Erasure:
        """Write that everything was erased, and return the receipt."""
        return Erasure(self.id, self._save(finished=self._ledger.store.now()))

    def _save(self, finished: datetime | None) -> ErasureRecord:
        while True:
            found = self._ledger.find(self._key)
            record = self._next(unpack(self._key, found[1], ErasureRecord)[0] if found else None)
            record = record.changed(finished=finished)
            if found:
                saved = self._ledger.compare_and_swap(self._key, pack(record), found[0].etag)
            else:
                saved = self._ledger.create_once(self._key, pack(record))
            if saved:
                self._unsaved.clear()
                return record

    def _next(self, last: ErasureRecord | None) -> ErasureRecord:
        """Return the receipt with what was counted since it was saved last."""
        if last is None:
            last = ErasureRecord(nonce="", what=self._what, by=self._by, started=self._started)
        total = Counter(last.counts.model_dump()) + self._unsaved
        counts = ErasureCounts.model_validate(dict(total))
        # The counts of several runs are one sum; the times are those of the last run.
        return last.model_copy(update={"by": self._by, "started": self._started, "counts": counts})


def read(ledger: Ledger, tenant: str, id_: str) -> Erasure:
    """Return a receipt.

    Raises:
        UnknownErasureError: There is none with this id.
    """
    key = f"{folder(tenant)}{id_}"
    if not (found := ledger.find(key)):
        raise UnknownErasureError(f"there is no erasure {id_}: `GET /v1/erasures` lists them")
    return Erasure(id_, unpack(key, found[1], ErasureRecord)[0])


def read_all(
    ledger: Ledger, tenant: str, cursor: str, limit: int
) -> tuple[list[Erasure], str | None]:
    """Return receipts behind an id, and the cursor of the next page or None."""
    prefix = folder(tenant)
    page = ledger.store.list(prefix, after=f"{prefix}{cursor}" if cursor else "", limit=limit)

    def find(id_: str) -> Erasure | None:
        try:
            return read(ledger, tenant, id_)
        except (DamagedRecordError, UnknownErasureError):
            return None

    found = ledger.gather(find, [head.key.removeprefix(prefix) for head in page.objects])
    more = page.next is not None and bool(page.objects)
    next_cursor = page.objects[-1].key.removeprefix(prefix) if more else None
    return [erasure for erasure in found if erasure], next_cursor


def folder(tenant: str) -> str:
    """Return the prefix of a tenant's receipts."""
    return f"{tenant_folder(tenant)}erasures/"

"""/v1/audit: who deleted what, and when. Entries never change.

Layout: t/{tenant}/audit/{id}, created once; ids sort newest first.
"""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from services.api.dependencies import GUARDED, AppStateDep, CurrentPrincipal
from services.api.jobs.schemas import JOB, IdCursor, PageLimit, example
from services.api.openapi import problems
from services.api.shares import FairRoute
from services.auth.authenticator import Principal
from services.errors import DamagedRecordError
from services.ledger.keys import tenant_folder
from services.ledger.ledger import Ledger
from services.ledger.records import Record, pack, unpack

router = APIRouter(prefix="/v1/audit", dependencies=GUARDED, tags=["audit"], route_class=FairRoute)


_EXAMPLE = {
    "id": JOB,
    "action": "token.delete",
    "what": f"tok_{JOB}0000000",
    "by": "k5r6s7t2v3w4x5y6",
    "when": "2026-03-01T12:00:00Z",
}


class AuditRecord(Record):
    """An entry in the store. Its time is that of its object."""

    type: Literal["audit"] = "audit"
    action: str
    what: str
    by: str
    """The id of an API key."""


class AuditEntry(BaseModel):
    """A deletion that was carried out."""

    model_config = example(_EXAMPLE)

    id: str = Field(description="The id of the entry.")
    action: str = Field(
        description="One of `token.delete`, `training-job.delete`, `generation-job.delete`, "
        "`upload.delete`, `image.delete` and `erasure`."
    )
    what: str = Field(description="The id of what was deleted; nothing else of it is kept.")
    by: str = Field(description="The id of the API key that requested the deletion.")
    when: datetime = Field(description="The time of the deletion.")


class AuditPage(BaseModel):
    """A page of entries, newest first."""

    model_config = example({"entries": [_EXAMPLE], "next": None})

    entries: list[AuditEntry]
    next: str | None = Field(
        default=None, description="The cursor of the next page; null on the last page."
    )


def record_deletion(ledger: Ledger, principal: Principal, action: str, what: str) -> None:
    """Add an entry for a finished deletion. A repeated request adds another entry."""
    record = AuditRecord(nonce=ledger.ids.nonce(), action=action, what=what, by=principal.key)
    ledger.create_once(f"{_folder(principal.tenant)}{ledger.ids.job()}", pack(record))


@router.get("", summary="List deletions, newest first", responses=problems())
def list_audit(
    principal: CurrentPrincipal,
    state: AppStateDep,
    cursor: IdCursor = None,
    limit: PageLimit = 100,
) -> AuditPage:
    """List what was deleted, when, and by which API key."""
    folder = _folder(principal.tenant)
    after = f"{folder}{cursor}" if cursor else ""
    page = state.ledger.store.list(folder, after=after, limit=limit)
    entries = state.ledger.gather(lambda head: _entry(state.ledger, head.key), page.objects)
    # A damaged entry is left out, so that the cursor comes from the listing and not from the
    # entries.
    more = page.next is not None and bool(page.objects)
    return AuditPage(
        entries=[entry for entry in entries if entry],
        next=page.objects[-1].key.removeprefix(folder) if more else None,
    )


def _entry(ledger: Ledger, key: str) -> AuditEntry | None:
    if not (found := ledger.find(key)):
        return None
    try:
        record, _ = unpack(key, found[1], AuditRecord)
    except DamagedRecordError:  # One damaged entry must not hide the others.
        return None
    return AuditEntry(
        id=key.rpartition("/")[2],
        action=record.action,
        what=record.what,
        by=record.by,
        when=found[0].last_modified,
    )


def _folder(tenant: str) -> str:
    return f"{tenant_folder(tenant)}audit/"

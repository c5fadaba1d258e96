"""Who deleted what, and when: an entry for each time it was asked for and done, never changed.

t/{tenant}/audit/{id}    create-once; ids sort the newest first
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from services.api.dependencies import GUARDED, AppStateDep, CurrentPrincipal
from services.api.jobs import schemas as views
from services.api.openapi import problems
from services.auth.authenticator import Principal
from services.errors import DamagedRecordError
from services.ledger.keys import tenant_folder
from services.ledger.ledger import Ledger
from services.ledger.records import Record, pack, unpack

router = APIRouter(prefix="/v1/audit", dependencies=GUARDED, tags=["audit"])


_EXAMPLE = {
    "id": views.JOB,
    "action": "token.delete",
    "what": f"tok_{views.JOB}0000000",
    "by": "k5r6s7t2v3w4x5y6",
    "when": "2026-03-01T12:00:00Z",
}


class AuditRecord(Record):
    """An entry as it is kept. When, the store says."""

    type: Literal["audit"] = "audit"
    action: str
    what: str
    by: str
    """The id of a key."""


class AuditEntry(BaseModel):
    """Something was deleted."""

    model_config = views.example(_EXAMPLE)

    id: str
    action: str = Field(
        description="token.delete, training-job.delete, upload.delete or image.delete"
    )
    what: str = Field(description="id of what was deleted; nothing else is known of it any more")
    by: str = Field(description="id of the key that asked for it")
    when: datetime


class AuditPage(BaseModel):
    """Entries, the newest first."""

    model_config = views.example({"entries": [_EXAMPLE], "next": None})

    entries: list[AuditEntry]
    next: str | None = Field(
        default=None, description="cursor of the next page; null: this was the last one"
    )


def note(ledger: Ledger, caller: Principal, action: str, what: str) -> None:
    """Keep that it was done, once it is. Whoever asks again, as no answer came, is noted again."""
    record = AuditRecord(nonce=ledger.ids.nonce(), action=action, what=what, by=caller.key)
    ledger.create_once(f"{_folder(caller.tenant)}{ledger.ids.job()}", pack(record))


@router.get("", summary="List deletions, the newest first", responses=problems())
def list_audit(
    asking: CurrentPrincipal,
    here: AppStateDep,
    cursor: Annotated[
        str | None, Query(pattern=f"^{views.JOB_PATTERN}$", description="`next` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="entries on a page")] = 100,
) -> AuditPage:
    """Who deleted what, and when."""
    folder = _folder(asking.tenant)
    after = f"{folder}{cursor}" if cursor else ""
    page = here.ledger.store.list(folder, after=after, limit=limit)
    found = here.ledger.gather(lambda head: _entry(here.ledger, head.key), page.objects)
    more = page.next is not None and bool(page.objects)
    return AuditPage(
        entries=[entry for entry in found if entry],
        next=page.objects[-1].key.removeprefix(folder) if more else None,
    )


def _entry(ledger: Ledger, key: str) -> AuditEntry | None:
    if not (found := ledger.find(key)):
        return None
    try:
        record, _ = unpack(key, found[1], AuditRecord)
    except DamagedRecordError:  # The others are worth seeing all the same.
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

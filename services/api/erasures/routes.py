"""/v1/erasures: erase a subject, a job, or the jobs with a tag; receipts of erasures."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field, model_validator

from services.api import audit
from services.api.dependencies import GUARDED, AppStateDep, CurrentPrincipal, RawBody
from services.api.erasures import receipts
from services.api.erasures.erase import Eraser
from services.api.erasures.receipts import ID_LENGTH, Erasure, ErasureCounts, What
from services.api.erasures.selection import Target
from services.api.jobs.schemas import JOB_PATTERN, PageLimit, example
from services.api.openapi import body_of, problems
from services.api.request_body import parse_body
from services.api.shares import FairRoute
from services.contracts.jobs import WireModel

router = APIRouter(
    prefix="/v1/erasures", dependencies=GUARDED, tags=["erasures"], route_class=FairRoute
)

_ID_PATTERN = f"^[0-9a-f]{{{ID_LENGTH}}}$"
_ID = "3f1b8a520e5d4b0a9d387c9c0f0f4f11"
_EXAMPLE: dict[str, Any] = {
    "id": _ID,
    "what": "subject",
    "by": "k5r6s7t2v3w4x5y6",
    "started": "2026-03-01T12:00:00Z",
    "finished": "2026-03-01T12:00:04Z",
    "counts": {
        "tokens": 2,
        "images": 31,
        "items": 33,
        "jobs": 1,
        "uploads": 1,
        "aliases": 2,
        "idempotency_records": 3,
        "old_versions": 0,
    },
}


class ErasureRequest(WireModel):
    """A request to erase a subject, a tag or a job; exactly one of them is given."""

    model_config = example({"subject": "rex"}) | {"extra": "forbid"}

    subject: str | None = Field(
        default=None, min_length=1, max_length=200, description="Your own id of a subject."
    )
    tag: str | None = Field(
        default=None,
        max_length=301,
        pattern=r"^[^:]+:.*$",
        description="A tag of jobs, KEY:VALUE: all jobs with it are erased.",
    )
    job: str | None = Field(
        default=None, pattern=f"^{JOB_PATTERN}$", description="The id of a job."
    )

    @model_validator(mode="after")
    def _is_one(self) -> "ErasureRequest":
        if len(self.targets()) != 1:
            raise ValueError("give one of subject, tag and job")
        return self

    def targets(self) -> list[Target]:
        """Return what the request names."""
        named: list[tuple[What, str | None]] = [
            ("subject", self.subject),
            ("tag", self.tag),
            ("job", self.job),
        ]
        return [Target(what, name) for what, name in named if name is not None]


class ErasureResource(BaseModel):
    """The receipt of an erasure. It does not say who or what was erased."""

    model_config = example(_EXAMPLE)

    id: str = Field(description="The id of the erasure; the same request has the same id.")
    what: What = Field(description="What was named: a subject, a tag or a job.")
    by: str = Field(description="The id of the API key that requested it last.")
    started: datetime = Field(description="When it was requested last.")
    finished: datetime | None = Field(
        description="When it was complete; null if it was interrupted: request it again."
    )
    counts: ErasureCounts = Field(description="What was erased, over all such requests.")


class ErasurePage(BaseModel):
    """A page of erasures, in no particular order."""

    model_config = example({"erasures": [_EXAMPLE], "next": None})

    erasures: list[ErasureResource]
    next: str | None = Field(
        default=None, description="The cursor of the next page; null on the last page."
    )


@router.post(
    "",
    summary="Erase a subject, a job, or the jobs with a tag",
    responses=problems(400, 408),
    openapi_extra=body_of(ErasureRequest),
)
def create_erasure(
    principal: CurrentPrincipal, state: AppStateDep, body: RawBody
) -> ErasureResource:
    """Erase tokens, images, items, aliases, Idempotency-Keys, and uploads that nothing else names.

    The response comes when all of it is erased. Engines forget the tokens within a minute. The
    request can be repeated: after an interruption, that completes it.
    """
    [target] = parse_body(ErasureRequest, body, strict=False).targets()
    eraser = Eraser(state.ledger, state.images, principal.tenant, principal.key)
    erasure = eraser.erase(target)
    audit.record_deletion(state.ledger, principal, "erasure", erasure.id)
    return _resource(erasure)


@router.get("", summary="List erasures", responses=problems())
def list_erasures(
    principal: CurrentPrincipal,
    state: AppStateDep,
    cursor: Annotated[
        str | None, Query(pattern=_ID_PATTERN, description="`next` of the previous page.")
    ] = None,
    limit: PageLimit = 50,
) -> ErasurePage:
    """List the receipts of erasures."""
    found, cursor_of_next = receipts.read_all(state.ledger, principal.tenant, cursor or "", limit)
    return ErasurePage(erasures=[_resource(erasure) for erasure in found], next=cursor_of_next)


@router.get("/{erasure}", summary="Get an erasure", responses=problems(404))
def get_erasure(
    principal: CurrentPrincipal,
    state: AppStateDep,
    erasure: Annotated[
        str, Path(pattern=_ID_PATTERN, description="The id of an erasure.", examples=[_ID])
    ],
) -> ErasureResource:
    """Return the receipt of an erasure."""
    return _resource(receipts.read(state.ledger, principal.tenant, erasure))


def _resource(erasure: Erasure) -> ErasureResource:
    record = erasure.record
    return ErasureResource(
        id=erasure.id,
        what=record.what,
        by=record.by,
        started=record.started,
        finished=record.finished,
        counts=record.counts,
    )

"""/v1/tokens: what was learned. Nothing of it is kept in this process.

What the file of a token says of it, read without torch: `dti_engine.artifacts.artifact` writes them.

Layout of safetensors: the length of the header in 8 bytes, little-endian, then the header as JSON;
the manifest is one text in it, behind a digest and a space (`dti_engine.artifacts.sealed`).
"""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field, JsonValue

from services.api import audit
from services.api.dependencies import GUARDED, AppStateDep, CurrentPrincipal
from services.api.jobs.schemas import JOB, JOB_PATTERN, example
from services.api.openapi import problems, raw
from services.api.problems import refusal
from services.api.tokens.index import IndexedToken, TokenIndex, look_at
from services.errors import UnknownJobError
from services.ledger.deletion import delete_token as bury
from services.ledger.ids import parse_token_id
from services.ledger.jobs import read_spec
from services.ledger.keys import JobKeys
from services.ledger.queries import read_token

_KEY = "dti"


def read_manifest(payload: bytes) -> dict[str, JsonValue] | None:
    """The manifest; None if there is none, as of a file that another program wrote."""
    try:
        header: Any = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        text: str = header["__metadata__"][_KEY]
        manifest: Any = json.loads(text.partition(" ")[2])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if isinstance(manifest, dict) else None


router = APIRouter(prefix="/v1/tokens", dependencies=GUARDED, tags=["tokens"])

TOKEN = f"tok_{JOB}0000000"
_EXAMPLE: dict[str, Any] = {
    "token": TOKEN,
    "alias": "rex",
    "job": JOB,
    "index": 0,
    "created": "2026-03-01T12:00:00Z",
    "tags": {"project": "pets"},
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "report": {"placeholder": "<rex>", "steps": 200, "gpu_seconds": 4.5, "subject_score": 0.81},
}
_MEDIA_TYPE = "application/vnd.safetensors"

TokenId = Annotated[str, Path(description="a token's id", examples=[TOKEN])]


class Token(BaseModel):
    """A learned token."""

    model_config = example(_EXAMPLE) | {"from_attributes": True}

    token: str = Field(description="its id")
    alias: str = Field(description="the client's own id of the subject")
    job: str
    index: int = Field(description="of its item in the job")
    created: datetime
    tags: dict[str, str] = Field(description="of its job")
    sha256: str = Field(description="of its file")
    report: dict[str, JsonValue] = Field(description="scores, seconds, flags")


class TokenPage(BaseModel):
    """Tokens, the newest first."""

    model_config = example({"tokens": [_EXAMPLE], "next": None})

    tokens: list[Token]
    next: str | None = Field(
        default=None,
        description="cursor of the next page; null: this was the last one. A page may have few "
        "tokens or none, and yet a next one",
    )


class TokenWithManifest(Token):
    """A learned token, and what its file says of it."""

    model_config = example(
        _EXAMPLE | {"size": 3720, "manifest": {"schema_version": 1, "placeholder": "<rex>"}}
    )

    size: int = Field(description="bytes of its file")
    manifest: dict[str, JsonValue] | None = Field(
        default=None,
        description="backbone, training config, images' digests; null: the file has none",
    )


@router.get("", summary="List tokens, the newest first", responses=problems())
def list_tokens(
    asking: CurrentPrincipal,
    here: AppStateDep,
    alias: Annotated[
        str | None, Query(min_length=1, max_length=200, description="your id of a subject")
    ] = None,
    tag: Annotated[
        str | None,
        Query(max_length=301, pattern=r"^[^:]+:.*$", description="KEY:VALUE, a tag of their job"),
    ] = None,
    cursor: Annotated[
        str | None,
        Query(pattern=f"^tok_{JOB_PATTERN}[0-9]{{7}}$", description="`next` of the page before"),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="entries on a page")] = 50,
) -> TokenPage:
    """All of them, or those of a subject, or of jobs with a tag; or both."""
    key, _, value = (tag or "").partition(":")
    shelf = TokenIndex(here.ledger, asking.tenant, (key, value) if tag else None)
    if alias is None:
        page = shelf.of_jobs(cursor or "", limit)
    else:
        page = shelf.of_alias(alias, cursor or "", limit)
    return TokenPage(tokens=[_view(one) for one in page.tokens], next=page.next)


@router.get("/{token}", summary="See a token", responses=problems(404, 410))
def get_token(asking: CurrentPrincipal, here: AppStateDep, token: TokenId) -> TokenWithManifest:
    """What it is, which model it belongs to and how it came about."""
    made = read_token(here.ledger, asking.tenant, token)
    job, _, index = parse_token_id(token)
    spec = read_spec(here.ledger, JobKeys(asking.tenant, job))
    shelved = look_at(here.ledger, asking.tenant, token, spec.item(index).name, spec.record)
    if shelved is None:  # It was there a moment ago.
        raise UnknownJobError(f"{asking.tenant} has no token {token}")
    return TokenWithManifest(
        **_view(shelved).model_dump(),
        size=len(made.payload),
        manifest=read_manifest(made.payload),
    )


@router.get(
    "/{token}/file",
    summary="Download a token",
    response_class=Response,
    responses=problems(404, 410) | {200: raw(_MEDIA_TYPE, "The file, whose ETag is its sha256.")},
)
def get_token_file(
    asking: CurrentPrincipal,
    here: AppStateDep,
    token: TokenId,
    format: Annotated[
        Literal["dti", "diffusers", "comfyui", "a1111"], Query(description="of the file")
    ] = "dti",
) -> Response:
    """As it was written. Files for other programs are made of it by `dti export`."""
    if format != "dti":
        raise refusal(
            ("query", "format"),
            f"{format} files are not made here: download dti, and run dti export",
        )
    made = read_token(here.ledger, asking.tenant, token)
    return Response(
        made.payload,
        media_type=_MEDIA_TYPE,
        headers={
            "ETag": f'"{made.result.sha256}"',
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="{token}.safetensors"',
        },
    )


@router.delete(
    "/{token}", status_code=204, summary="Delete a token, for good", responses=problems(404)
)
def delete_token(asking: CurrentPrincipal, here: AppStateDep, token: TokenId) -> None:
    """And all else that its item has made; undone by no worker that still runs. Again is fine."""
    bury(here.ledger, asking.tenant, token, asking.key)
    audit.note(here.ledger, asking, "token.delete", token)


def _view(shelved: IndexedToken) -> Token:
    return Token.model_validate(shelved)

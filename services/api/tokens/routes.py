"""/v1/tokens: list, get, download and delete tokens.

The manifest in a token's file is read here without torch. A safetensors file begins with the length
of its header in 8 bytes, little-endian, and then the header as JSON; the manifest is a text in the
header, after its digest and a space (`dti_engine.artifacts` writes it).
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field, JsonValue

from dti_engine.artifacts.repacking import repack
from dti_engine.config import ExportFormat
from dti_engine.errors import ArtifactError
from services.api import audit
from services.api.dependencies import GUARDED, AppStateDep, CurrentPrincipal
from services.api.jobs.schemas import JOB, JOB_PATTERN, PageLimit, example
from services.api.openapi import problems, raw
from services.api.problems import invalid_request
from services.api.shares import FairRoute
from services.api.tokens.index import TokenIndex, read_indexed_token
from services.errors import UnknownJobError
from services.ledger import deletion
from services.ledger.ids import parse_token_id
from services.ledger.jobs import read_header
from services.ledger.keys import JobKeys
from services.ledger.queries import read_token

_MANIFEST_KEY = "dti"


def read_manifest(payload: bytes) -> dict[str, JsonValue] | None:
    """Return the manifest of a token's file; None if the file has none."""
    try:
        header: Any = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
        text: str = header["__metadata__"][_MANIFEST_KEY]
        manifest: Any = json.loads(text.partition(" ")[2])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest if isinstance(manifest, dict) else None


router = APIRouter(
    prefix="/v1/tokens", dependencies=GUARDED, tags=["tokens"], route_class=FairRoute
)

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

TokenId = Annotated[str, Path(description="The id of a token.", examples=[TOKEN])]


class Token(BaseModel):
    """A trained token."""

    model_config = example(_EXAMPLE) | {"from_attributes": True}

    token: str = Field(description="The id of the token.")
    alias: str = Field(description="Your own id of the subject.")
    job: str = Field(description="The id of the job that trained the token.")
    index: int = Field(description="The index of its item in the job.")
    created: datetime = Field(description="When the training ended.")
    tags: dict[str, str] = Field(description="The tags of the job.")
    sha256: str = Field(description="The SHA-256 of the token's file.")
    report: dict[str, JsonValue] = Field(
        description="The scores, times, flags and warnings of the training."
    )


class TokenPage(BaseModel):
    """A page of tokens, newest first."""

    model_config = example({"tokens": [_EXAMPLE], "next": None})

    tokens: list[Token]
    next: str | None = Field(
        default=None,
        description="The cursor of the next page; null on the last page. A page may hold few "
        "tokens, or none, and still have a next one.",
    )


class TokenWithManifest(Token):
    """A trained token, with the manifest of its file."""

    model_config = example(
        _EXAMPLE | {"size": 3720, "manifest": {"schema_version": 1, "placeholder": "<rex>"}}
    )

    size: int = Field(description="The size of the token's file in bytes.")
    manifest: dict[str, JsonValue] | None = Field(
        default=None,
        description="The model, the training config and the digests of the images; null if the "
        "file has no manifest.",
    )


@router.get("", summary="List tokens, newest first", responses=problems())
def list_tokens(
    principal: CurrentPrincipal,
    state: AppStateDep,
    alias: Annotated[
        str | None, Query(min_length=1, max_length=200, description="Your own id of a subject.")
    ] = None,
    tag: Annotated[
        str | None,
        Query(max_length=301, pattern=r"^[^:]+:.*$", description="A tag of the job, KEY:VALUE."),
    ] = None,
    cursor: Annotated[
        str | None,
        Query(pattern=f"^tok_{JOB_PATTERN}[0-9]{{7}}$", description="`next` of the previous page."),
    ] = None,
    limit: PageLimit = 50,
) -> TokenPage:
    """List all tokens, or those of one subject or of jobs with one tag."""
    key, _, value = (tag or "").partition(":")
    index = TokenIndex(state.ledger, principal.tenant, (key, value) if tag else None)
    if alias is None:
        page = index.list_by_job(cursor or "", limit)
    else:
        page = index.list_by_alias(alias, cursor or "", limit)
    return TokenPage(tokens=[Token.model_validate(token) for token in page.tokens], next=page.next)


@router.get("/{token}", summary="Get a token", responses=problems(404, 410))
def get_token(principal: CurrentPrincipal, state: AppStateDep, token: TokenId) -> TokenWithManifest:
    """Return a token and its manifest: which model it belongs to and how it was trained."""
    stored = read_token(state.ledger, principal.tenant, token)
    job, _, index = parse_token_id(token)
    header = read_header(state.ledger, JobKeys(principal.tenant, job))
    alias = header.read_items(state.ledger, [index])[index].name
    indexed = read_indexed_token(state.ledger, principal.tenant, token, alias, header.record)
    if indexed is None:  # It was deleted since it was read above.
        raise UnknownJobError(f"{principal.tenant} has no token {token}")
    return TokenWithManifest(
        **Token.model_validate(indexed).model_dump(),
        size=len(stored.payload),
        manifest=read_manifest(stored.payload),
    )


@router.get(
    "/{token}/file",
    summary="Download a token's file",
    response_class=Response,
    responses=problems(404, 410) | {200: raw(_MEDIA_TYPE, "The file; its ETag is its SHA-256.")},
)
def get_token_file(
    principal: CurrentPrincipal,
    state: AppStateDep,
    token: TokenId,
    format: Annotated[
        Literal["dti", ExportFormat],
        Query(description="The program that reads the file; `dti` is the file as it was learned."),
    ] = "dti",
    part: Annotated[
        int | None,
        Query(
            ge=1,
            le=2,
            description="Which file, where a program reads two: for `diffusers`, a token of SDXL "
            "is a file for each text encoder.",
        ),
    ] = None,
) -> Response:
    """Return the token's file, or a file for another program.

    All files are safetensors. `X-Prompt-Name` says how prompts of the program mention the token,
    and `X-Note`, if there is one, what its user has to know. Most programs call a token by the
    name of its file.
    """
    stored = read_token(state.ledger, principal.tenant, token)
    if format == "dti":
        _require_part(part, 1, format)
        return _file(stored.payload, f"{token}.safetensors", stored.result.sha256)
    try:
        exported = repack(stored.payload, _file_name(stored.payload), format)
    except ArtifactError as error:
        raise invalid_request(("query", "format"), str(error)) from error
    _require_part(part, len(exported.contents), format)
    path, content = list(exported.contents.items())[(part or 1) - 1]
    digest = hashlib.sha256(content).hexdigest()
    names = {"X-Prompt-Name": exported.prompt_name}
    notes = {"X-Note": exported.note} if exported.note else {}
    return _file(content, path.name, digest, names | notes)


def _file_name(payload: bytes) -> FilePath:
    """Return a name that prompts of every program can say: the placeholder without brackets."""
    manifest = read_manifest(payload) or {}
    stem = str(manifest.get("placeholder", "")).strip("<>-_")
    return FilePath(f"{stem or 'token'}.safetensors")


def _require_part(part: int | None, count: int, format_name: str) -> None:
    """Refuse a part that does not exist, and no part where there are two."""
    if count == 2 and part is None:
        raise invalid_request(
            ("query", "part"),
            f"this token is two files for {format_name}, one for each text encoder: request part=1 "
            "and part=2",
        )
    if (part or 1) > count:
        raise invalid_request(
            ("query", "part"), f"this token is one file for {format_name}: leave out part"
        )


def _file(
    content: bytes, name: str, sha256: str, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(
        content,
        media_type=_MEDIA_TYPE,
        headers={
            "ETag": f'"{sha256}"',
            # A token that is deleted must not live on in caches.
            "Cache-Control": "no-store",
            "Content-Disposition": f'attachment; filename="{name}"',
            **(headers or {}),
        },
    )


@router.delete("/{token}", status_code=204, summary="Delete a token", responses=problems(404))
def delete_token(principal: CurrentPrincipal, state: AppStateDep, token: TokenId) -> None:
    """Delete the token and everything else that its item produced.

    Deletion is final and idempotent, and no running worker can bring the token back.
    """
    deletion.delete_token(state.ledger, principal.tenant, token, principal.key)
    audit.record_deletion(state.ledger, principal, "token.delete", token)

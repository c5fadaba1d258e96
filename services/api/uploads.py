"""/v1/uploads: bytes under their own SHA-256, by a form that the store itself takes, or through
here where it takes none.
"""

from datetime import datetime
from typing import Annotated, Literal

import anyio
from anyio import to_thread
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from services.api import audit
from services.api.dependencies import GUARDED, AppState, AppStateDep, CurrentPrincipal
from services.api.jobs.schemas import example
from services.api.openapi import problems
from services.api.problems import refusal
from services.auth.authenticator import Principal
from services.contracts.jobs import WireModel
from services.contracts.training import Digest
from services.errors import DamagedUploadError, UnknownUploadError
from services.ledger import uploads

router = APIRouter(prefix="/v1/uploads", dependencies=GUARDED, tags=["uploads"])

_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_WHEN = "2026-03-01T12:00:00Z"

Sha256 = Annotated[Digest, Path(description="of the bytes, in hexadecimal", examples=[_SHA256])]


class UploadQuery(WireModel):
    """A file that a client has."""

    sha256: Digest
    size: int = Field(ge=1, le=2**40, description="bytes")


class UploadsRequest(WireModel):
    """Files that a client has."""

    model_config = example({"files": [{"sha256": _SHA256, "size": 4}]}) | {"extra": "forbid"}

    files: tuple[UploadQuery, ...] = Field(min_length=1, max_length=1000)


class UploadMethod(BaseModel):
    """How to upload a file: a form with these fields and then `file`, or a PUT with the key."""

    method: Literal["POST", "PUT"]
    url: str = Field(description="absolute, of the store; or of this service, relative to it")
    fields: dict[str, str] = Field(default={}, description="of the form, all of them, as they are")


class UploadStatus(BaseModel):
    """Whether a file is there, or how to bring it there."""

    sha256: str
    present: bool = Field(description="something of this size lies there: it need not be uploaded")
    upload: UploadMethod | None = None


class UploadsResponse(BaseModel):
    """In the order of the question."""

    model_config = example(
        {
            "files": [
                {
                    "sha256": _SHA256,
                    "present": False,
                    "upload": {"method": "PUT", "url": f"/v1/uploads/{_SHA256}", "fields": {}},
                }
            ]
        }
    )

    files: list[UploadStatus]


class UploadResource(BaseModel):
    """What lies there."""

    model_config = example({"sha256": _SHA256, "size": 4, "uploaded": _WHEN})

    sha256: str
    size: int
    uploaded: datetime


@router.post("", summary="Ask how to upload up to 1000 files", responses=problems(400))
def announce_uploads(
    asking: CurrentPrincipal, here: AppStateDep, announcement: UploadsRequest
) -> UploadsResponse:
    """Files that are there already need not be uploaded again. What a form brings is checked when
    it is trained: other bytes than were announced are refused then.
    """
    limit = asking.limits.upload_bytes
    for number, file in enumerate(announcement.files):
        if file.size > limit:
            here.metrics.count("dti_upload_rejections_total", reason="too_large")
            raise HTTPException(413, f"file {number} has {file.size} bytes: at most {limit}")
    return UploadsResponse(
        files=here.ledger.gather(lambda file: _asked(here, asking.tenant, file), announcement.files)
    )


@router.put(
    "/{sha256}",
    status_code=201,
    summary="Upload a file",
    responses=problems(408),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        }
    },
)
async def put_upload(
    request: Request, asking: CurrentPrincipal, here: AppStateDep, sha256: Sha256
) -> UploadResource:
    """The bytes and nothing else, of any type. Others than those with this digest are refused."""
    async with here.slots:
        body = await _received(request, here.settings.upload_timeout_s)
        if not body:
            raise refusal(("body",), "there is nothing in it: send the bytes themselves")
        try:
            await to_thread.run_sync(uploads.write, here.ledger.store, asking.tenant, sha256, body)
        except DamagedUploadError:
            here.metrics.count("dti_upload_rejections_total", reason="wrong_digest")
            raise
    return await to_thread.run_sync(_upload, here, asking, sha256)


@router.get("/{sha256}", summary="See whether a file is there", responses=problems(404))
def get_upload(asking: CurrentPrincipal, here: AppStateDep, sha256: Sha256) -> UploadResource:
    """Its size, and when it was uploaded."""
    return _upload(here, asking, sha256)


@router.delete(
    "/{sha256}", status_code=204, summary="Delete an uploaded file", responses=problems(404)
)
def delete_upload(asking: CurrentPrincipal, here: AppStateDep, sha256: Sha256) -> None:
    """Subjects that are still to be learned from it will fail. Tokens that were stay."""
    _upload(here, asking, sha256)
    here.ledger.store.delete(uploads.key(asking.tenant, sha256))
    audit.note(here.ledger, asking, "upload.delete", sha256)


def _asked(here: AppState, tenant: str, file: UploadQuery) -> UploadStatus:
    store = here.ledger.store
    head = uploads.find(store, tenant, file.sha256)
    if head and head.size == file.size:
        return UploadStatus(sha256=file.sha256, present=True, upload=None)
    form = store.presigned_post(
        uploads.key(tenant, file.sha256),
        max_bytes=file.size,
        expires_s=here.settings.presigned_upload_ttl_s,
    )
    way = (
        UploadMethod(method="POST", url=form.url, fields=dict(form.fields))
        if form
        else UploadMethod(method="PUT", url=f"{router.prefix}/{file.sha256}")
    )
    return UploadStatus(sha256=file.sha256, present=False, upload=way)


def _upload(here: AppState, caller: Principal, sha256: str) -> UploadResource:
    if not (head := uploads.find(here.ledger.store, caller.tenant, sha256)):
        raise UnknownUploadError(f"nothing was uploaded as {sha256}, or it was removed")
    return UploadResource(sha256=sha256, size=head.size, uploaded=head.last_modified)


async def _received(request: Request, seconds: float) -> bytes:
    """The whole body, which the gate has bounded."""
    body = bytearray()
    try:
        with anyio.fail_after(seconds):
            async for chunk in request.stream():
                body += chunk
    except TimeoutError as error:
        raise HTTPException(408, f"it took longer than {seconds:g} s: send it again") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the connection broke before all of it was here") from error
    return bytes(body)

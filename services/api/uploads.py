"""/v1/uploads: files under their own SHA-256, sent to the store directly or through the API.

A bucket takes uploads itself, by presigned forms; for other stores the file goes through here.
"""

import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from tempfile import TemporaryFile
from typing import Annotated, Any, BinaryIO, Literal, cast

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from services.api import audit
from services.api.dependencies import GUARDED, AppState, AppStateDep, CurrentPrincipal, RawBody
from services.api.jobs.schemas import PageLimit, example
from services.api.openapi import body_of, problems
from services.api.problems import invalid_request
from services.api.request_body import parse_body
from services.api.shares import FairRoute
from services.auth.authenticator import Principal
from services.contracts.jobs import WireModel
from services.contracts.training import Digest
from services.errors import (
    DamagedUploadError,
    StoreFullError,
    UnknownUploadError,
    is_out_of_space,
)
from services.ledger import uploads
from services.shares import Reservation, Shares

router = APIRouter(
    prefix="/v1/uploads", dependencies=GUARDED, tags=["uploads"], route_class=FairRoute
)

_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_PIECE_BYTES = 2**20
"""The bytes of an upload that are written to its temporary file at once."""

_WHEN = "2026-03-01T12:00:00Z"

Sha256 = Annotated[
    Digest, Path(description="The SHA-256 of the file, in hexadecimal.", examples=[_SHA256])
]


class UploadQuery(WireModel):
    """A file that a client may upload."""

    sha256: Digest
    size: int = Field(ge=1, le=2**40, description="The size in bytes.")


class UploadsRequest(WireModel):
    """Files that a client may upload."""

    model_config = example({"files": [{"sha256": _SHA256, "size": 4}]}) | {"extra": "forbid"}

    files: tuple[UploadQuery, ...] = Field(min_length=1, max_length=1000)


class UploadMethod(BaseModel):
    """The way to upload a file: POST a form with these fields and then `file`, or PUT the bytes."""

    method: Literal["POST", "PUT"]
    url: str = Field(description="An absolute URL of the store, or a path of this API.")
    fields: dict[str, str] = Field(
        default={}, description="The fields of the form, to be sent unchanged."
    )


class UploadStatus(BaseModel):
    """The presence of a file, and how to upload it if it is missing."""

    sha256: str = Field(description="The SHA-256 of the file.")
    present: bool = Field(description="True if a file of this size exists under the digest.")
    upload: UploadMethod | None = Field(
        default=None, description="How to upload the file; null if it is present."
    )


class UploadsResponse(BaseModel):
    """The files, in the order of the request."""

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
    """An uploaded file."""

    model_config = example({"sha256": _SHA256, "size": 4, "uploaded": _WHEN})

    sha256: str = Field(description="The SHA-256 of the file.")
    size: int = Field(description="The size in bytes.")
    uploaded: datetime = Field(description="The time of the upload.")


class UploadPage(BaseModel):
    """A page of uploaded files, by digest."""

    model_config = example(
        {"uploads": [{"sha256": _SHA256, "size": 4, "uploaded": _WHEN}], "next": None}
    )

    uploads: list[UploadResource]
    next: str | None = Field(
        default=None, description="The cursor of the next page; null on the last page."
    )


@router.get("", summary="List uploaded files", responses=problems())
def list_uploads(
    principal: CurrentPrincipal,
    state: AppStateDep,
    cursor: Annotated[
        str | None, Query(pattern="^[0-9a-f]{64}$", description="`next` of the previous page.")
    ] = None,
    limit: PageLimit = 50,
) -> UploadPage:
    """List all uploads in the order of their digests."""
    folder = uploads.folder(principal.tenant)
    after = f"{folder}{cursor}" if cursor else ""
    page = state.ledger.store.list(folder, after=after, limit=limit)
    marks = uploads.deleted(state.ledger, principal.tenant)
    gone = {mark.key.rpartition("/")[2] for mark in marks}
    found = [
        UploadResource(
            sha256=head.key.removeprefix(folder), size=head.size, uploaded=head.last_modified
        )
        for head in page.objects
        if head.key.removeprefix(folder) not in gone
    ]
    more = page.next is not None and bool(page.objects)
    return UploadPage(
        uploads=found, next=page.objects[-1].key.removeprefix(folder) if more else None
    )


@router.post(
    "",
    summary="Plan the upload of up to 1000 files",
    responses=problems(400, 408),
    openapi_extra=body_of(UploadsRequest),
)
def plan_uploads(principal: CurrentPrincipal, state: AppStateDep, body: RawBody) -> UploadsResponse:
    """Return which files are present, and how to upload the others.

    The digest of a file that is uploaded by a form is checked when a job uses it.
    """
    files = parse_body(UploadsRequest, body, strict=False).files
    limit = principal.limits.upload_bytes
    for number, file in enumerate(files):
        if file.size > limit:
            state.metrics.count("dti_upload_rejections_total", reason="too_large")
            raise HTTPException(413, f"file {number} has {file.size} bytes: the limit is {limit}")
    return UploadsResponse(
        files=state.ledger.gather(lambda file: _status(state, principal.tenant, file), files)
    )


def _spool_file() -> BinaryIO:
    """Return a file without a name: on disk, or in memory where no folder can be written."""
    try:
        return cast(BinaryIO, TemporaryFile())
    except FileNotFoundError:
        # The API's container needs nothing writable. The share of upload bytes bounds this, too.
        return os.fdopen(os.memfd_create("upload"), "r+b")


@contextmanager
def _full_disk_reported() -> Generator[None]:
    """Raise StoreFullError if there is no space for an upload that passes through this process."""
    try:
        yield
    except OSError as error:
        if not is_out_of_space(error):
            raise
        raise StoreFullError(
            f"no space for an upload in the temporary folder: {error.strerror}; free some, or set "
            "TMPDIR to a folder with space"
        ) from error


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
    request: Request, principal: CurrentPrincipal, state: AppStateDep, sha256: Sha256
) -> UploadResource:
    """Store the body, a file of any type; a body with another digest is refused."""
    tenant, run = principal.tenant, partial(state.shares.threads.run, principal.tenant)
    with (
        state.shares.uploads.reserve(tenant),
        _reserve_bytes(request, state.shares.upload_bytes, tenant) as space,
        _full_disk_reported(),
        _spool_file() as file,
    ):
        # A slow client holds its share of temporary files, and neither a thread nor memory.
        if not await _spool(request, file, space, run):
            raise invalid_request(("body",), "the body is empty: send the bytes of the file")
        try:
            await run(uploads.write, state.ledger.store, tenant, sha256, file)
        except DamagedUploadError:
            state.metrics.count("dti_upload_rejections_total", reason="wrong_digest")
            raise
    return await run(_resource, state, principal, sha256)


@router.get("/{sha256}", summary="Get an uploaded file's size and time", responses=problems(404))
def get_upload(principal: CurrentPrincipal, state: AppStateDep, sha256: Sha256) -> UploadResource:
    """Return the size and time of an upload; `404` means that the file is not present."""
    return _resource(state, principal, sha256)


@router.delete(
    "/{sha256}", status_code=204, summary="Delete an uploaded file", responses=problems(404)
)
def delete_upload(principal: CurrentPrincipal, state: AppStateDep, sha256: Sha256) -> None:
    """Delete the file: subjects that still need it fail, and tokens trained from it remain."""
    _resource(state, principal, sha256)
    uploads.delete(state.ledger.store, principal.tenant, sha256)
    audit.record_deletion(state.ledger, principal, "upload.delete", sha256)


def _status(state: AppState, tenant: str, file: UploadQuery) -> UploadStatus:
    store = state.ledger.store
    head = uploads.find(store, tenant, file.sha256)
    # A form can be used to upload any bytes: a file of another size is not the one that was
    # announced, and has to be sent again.
    if head and head.size == file.size:
        return UploadStatus(sha256=file.sha256, present=True)
    uploads.expect(store, tenant, file.sha256)
    form = store.presigned_post(
        uploads.key(tenant, file.sha256),
        max_bytes=file.size,
        expires_s=state.settings.presigned_upload_ttl_s,
        sha256=file.sha256,
    )
    method = (
        UploadMethod(method="POST", url=form.url, fields=dict(form.fields))
        if form
        else UploadMethod(method="PUT", url=f"{router.prefix}/{file.sha256}")
    )
    return UploadStatus(sha256=file.sha256, present=False, upload=method)


def _resource(state: AppState, principal: Principal, sha256: str) -> UploadResource:
    if not (head := uploads.find(state.ledger.store, principal.tenant, sha256)):
        raise UnknownUploadError(f"there is no upload {sha256}: it was never made, or was deleted")
    return UploadResource(sha256=sha256, size=head.size, uploaded=head.last_modified)


def _reserve_bytes(request: Request, shares: Shares, tenant: str) -> Reservation:
    """Reserve the announced bytes of the body; a chunked body announces none.

    Raises:
        HTTPException: There never is room for so many.
        QuotaError: The tenant has its share of the space.
    """
    announced = int(request.headers.get("content-length", 0))
    if announced > shares.largest:
        raise HTTPException(
            413,
            f"the body has {announced} bytes, and this service has space for {shares.largest} of a "
            "tenant (setting max_upload_spool_bytes): send less",
        )
    return shares.reserve(tenant, announced)


async def _spool(
    request: Request, file: BinaryIO, space: Reservation, run: Callable[..., Awaitable[Any]]
) -> int:
    """Write the body to a file, and return its size. `AuthMiddleware` bounds its size and time.

    Raises:
        QuotaError: A body without an announced length is larger than the tenant's share.
    """
    pending, num_bytes = bytearray(), 0
    try:
        async for chunk in request.stream():
            pending += chunk
            num_bytes += len(chunk)
            if num_bytes > space.amount:
                space.extend(len(chunk))
            # Large pieces, since each goes through a thread: a disk may be slow.
            if len(pending) >= _PIECE_BYTES:
                await run(file.write, pending)
                pending = bytearray()
    except ClientDisconnect as error:
        raise HTTPException(
            400, "the connection was closed before the body was complete"
        ) from error
    await run(file.write, pending)
    return num_bytes

"""/v1/generation-jobs: the submission of a job and its images; /images/...: links to them."""

from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from services.api import audit
from services.api.dependencies import AppState, AppStateDep, CurrentPrincipal, RawBody
from services.api.generation_jobs.build import (
    BuiltGenerationJob,
    build_generation_job,
    token_references,
)
from services.api.generation_jobs.schemas import (
    MAX_TOKEN_LOOKUPS,
    GenerationDryRun,
    GenerationItem,
    GenerationItemPage,
    GenerationItemWithAttempts,
    GenerationJobRequest,
    parse_generation_job,
)
from services.api.images.routes import LinkExpires, LinkSignature, LinkTenant, png_response
from services.api.images.store import PNG
from services.api.jobs import schemas
from services.api.jobs.orders import run_order
from services.api.jobs.routes import (
    IdempotencyKey,
    Index,
    JobId,
    JobRoutes,
    submission_responses,
    submit_job,
)
from services.api.openapi import body_of, plain_problems, problems, raw
from services.api.shares import FairRoute
from services.api.tokens.index import TokenIndex
from services.auth.authenticator import Principal
from services.contracts.jobs import ItemState
from services.ledger.deletion import delete_item
from services.ledger.queries import ItemView, read_image
from services.ledger.workers import ItemProgress


def _build_item(
    request: Request, state: AppState, tenant: str, job: str, view: ItemView, progress: ItemProgress
) -> GenerationItem:
    fields = schemas.item_fields(view, progress)
    if view.state is not ItemState.SUCCEEDED:
        return GenerationItem(**fields)
    base_url = state.settings.public_url or str(request.base_url)
    path = state.images.links.sign(_path(tenant, job, view.index), state.settings.image_link_ttl_s)
    return GenerationItem(**fields, sha256=view.sha256, url=f"{base_url.rstrip('/')}{path}")


router = JobRoutes(
    "generation", GenerationItemPage, GenerationItemWithAttempts, _build_item
).router()
_LARGE_JOB_IMAGES = 1000
"""The images from which a job is created as a large one."""

links = APIRouter(prefix="/images", tags=["generation jobs"], route_class=FairRoute)


@router.post(
    "",
    status_code=202,
    summary="Create a generation job of 1 to 10,000 images",
    response_model=schemas.Job,
    response_description="The job is stored and queued; a repeated request returns the same job.",
    responses=submission_responses(GenerationDryRun),
    openapi_extra=body_of(GenerationJobRequest),
)
async def create_generation_job(
    principal: CurrentPrincipal, state: AppStateDep, body: RawBody, key: IdempotencyKey
) -> Response:
    """Generate each of `prompts` with each of `variants` and each of `seeds`.

    `placeholder` and `tokens` are a short form of `variants`. Requests for single images have
    priority over jobs.
    """
    return await run_order(
        state,
        principal.tenant,
        body,
        parse_generation_job,
        lambda request: _create(state, principal, key, request),
        # A few prompts, variants and seeds make many items.
        is_large=lambda request: request.num_images > _LARGE_JOB_IMAGES,
    )


def _create(
    state: AppState, principal: Principal, key: str, request: GenerationJobRequest
) -> Response:
    job = build_generation_job(request, principal.limits, state.models, state.settings)
    if request.dry_run:
        dry_run = _dry_run(state, principal.tenant, request, job)
        return JSONResponse(dry_run.model_dump(mode="json"))

    def check_tokens() -> None:
        if missing := _missing_tokens(state, principal.tenant, request):
            raise RequestValidationError(
                [
                    {"loc": place, "msg": f"there is no token {name!r}", "type": "refused"}
                    for place, name in missing
                ]
            )

    return submit_job(state, principal, key, job.request, "images", check_tokens, job.warnings)


@router.get(
    "/{job}/items/{index}/image",
    summary="Download an image of a job",
    response_class=Response,
    responses=problems(404, 410) | {200: raw(PNG, "The PNG, which contains its settings.")},
)
def get_generation_job_image(
    principal: CurrentPrincipal, state: AppStateDep, job: JobId, index: Index
) -> Response:
    """Return the PNG; its `ETag` is its SHA-256."""
    return _image_response(state, principal.tenant, job, index)


@router.delete(
    "/{job}/items/{index}/image",
    status_code=204,
    summary="Delete an image of a job",
    responses=problems(404, 410),
)
def delete_generation_job_image(
    principal: CurrentPrincipal, state: AppStateDep, job: JobId, index: Index
) -> None:
    """Delete the image, or prevent its generation. Deletion is final and idempotent."""
    delete_item(state.ledger, principal.tenant, job, index, principal.key, "generation")
    audit.record_deletion(state.ledger, principal, "image.delete", f"{job}/{index}")


@links.get(
    "/{tenant}/{job}/{index}",
    summary="Follow a link to an image of a job",
    response_class=Response,
    responses=plain_problems(404, 410, 422, 500, 503)
    | {200: raw(PNG, "The PNG, which contains its settings.")},
)
def follow_link_to_generation_job(
    state: AppStateDep,
    tenant: LinkTenant,
    job: JobId,
    index: Index,
    expires: LinkExpires = 0,
    signature: LinkSignature = "",
) -> Response:
    """Return the PNG without an API key: anyone with the link can download it until it expires."""
    state.images.links.verify(_path(tenant, job, index), expires, signature)
    return _image_response(state, tenant, job, index)


def _image_response(state: AppState, tenant: str, job: str, index: int) -> Response:
    image = read_image(state.ledger, tenant, job, index)
    response = png_response(image.payload)
    response.headers["ETag"] = f'"{image.result.sha256}"'
    return response


def _path(tenant: str, job: str, index: int) -> str:
    return f"/images/{tenant}/{job}/{index}"


def _dry_run(
    state: AppState, tenant: str, request: GenerationJobRequest, job: BuiltGenerationJob
) -> GenerationDryRun:
    count = len(job.request.items)
    missing = [name for _, name in _missing_tokens(state, tenant, request)]
    return GenerationDryRun(
        count=count,
        model=job.model,
        prompts=job.num_prompts,
        variants=job.num_variants,
        seeds=job.num_seeds,
        steps=count * job.steps_per_image,
        missing_tokens=list(dict.fromkeys(missing)),
        warnings=list(job.warnings),
    )


def _missing_tokens(
    state: AppState, tenant: str, request: GenerationJobRequest
) -> Sequence[tuple[tuple[str | int, ...], str]]:
    """Return the tokens that do not exist, each with its place in the request.

    A token that exists may still belong to another model; the engine finds that out.
    """
    references = list(token_references(request))
    names = list(dict.fromkeys(name for _, name in references))
    # Looking up thousands would take longer than a client waits. The engine refuses the images of
    # tokens that do not exist.
    if len(names) > MAX_TOKEN_LOOKUPS:
        return []
    index = TokenIndex(state.ledger, tenant, None)
    exists = dict(zip(names, state.ledger.gather(index.has, names), strict=True))
    return [(place, name) for place, name in references if not exists[name]]

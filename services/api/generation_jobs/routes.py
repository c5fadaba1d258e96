"""/v1/generation-jobs: images in bulk, and /images/..., where links to them lead."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from services.api import audit
from services.api.dependencies import AppState, AppStateDep, CurrentPrincipal
from services.api.generation_jobs.build import BuiltGenerationJob, compose
from services.api.generation_jobs.schemas import GenerationJobRequest, parse_generation_order
from services.api.images.schemas import SlerpBlend
from services.api.images.store import PNG, png_answer
from services.api.jobs import schemas as views
from services.api.jobs.routes import Index, JobId, JobRoutes, Key, answers, submit
from services.api.jobs.schemas import Said
from services.api.openapi import body_of, plain_problems, problems, raw
from services.api.tokens.index import TokenIndex
from services.contracts.jobs import ItemState
from services.ledger.deletion import delete_item
from services.ledger.queries import ItemView, read_image

_LOOKED_UP = 32
"""Different tokens of a job up to which it is seen at once whether each is there."""

IMAGE_EXAMPLE: dict[str, Any] = {
    "index": 0,
    "id": "0000-rex-a-photo-of-a-dog-on-a-beach-7",
    "state": "succeeded",
    "reason": "",
    "attempt": 1,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "url": f"http://127.0.0.1:8000/images/pets-inc/{views.JOB}/0?expires=1772370000&signature=Ab",
    "report": {"seed": 7, "bytes": 8123, "warnings": []},
    "progress": None,
}


class GenerationItem(views.JobEvent):
    """How an item stands, which is one image of a job."""

    model_config = views.example(IMAGE_EXAMPLE)

    sha256: str | None = Field(default=None, description="of the PNG, once it is there")
    url: str | None = Field(
        default=None, description="of the PNG: anyone may get it there, for a while"
    )


class GenerationItemPage(views.Page):
    """Images of a job in order."""

    model_config = views.example({"items": [IMAGE_EXAMPLE], "next": "1"})

    items: list[GenerationItem]


class GenerationItemWithAttempts(GenerationItem):
    """An image, and all attempts at it."""

    model_config = views.example(IMAGE_EXAMPLE | {"attempts": [views.ATTEMPT_EXAMPLE]})

    attempts: list[views.Attempt]


class GenerationDryRun(BaseModel):
    """The job of images that would be made."""

    model_config = views.example(
        {
            "count": 16,
            "model": "miniature",
            "prompts": 2,
            "variants": 2,
            "seeds": 4,
            "steps": 400,
            "missing_tokens": ["tom"],
        }
    )

    count: int = Field(description="images: prompts x variants x seeds")
    model: str
    prompts: int
    variants: int
    seeds: int
    steps: int = Field(description="of denoising, of all images together")
    missing_tokens: list[str] = Field(
        description=f"those that are not there; of more than {_LOOKED_UP} none is looked up"
    )


def _show(
    request: Request, here: AppState, tenant: str, job: str, item: ItemView, said: Said
) -> GenerationItem:
    if item.state is not ItemState.SUCCEEDED:
        return GenerationItem(**views.standing(item, said))
    base = here.settings.public_url or str(request.base_url)
    path = here.gallery.links.sign(_path(tenant, job, item.index), here.settings.image_link_ttl_s)
    url = f"{base.rstrip('/')}{path}"
    return GenerationItem(**views.standing(item, said), sha256=item.sha256, url=url)


router = JobRoutes("generation", GenerationItemPage, GenerationItemWithAttempts, _show).router()
links = APIRouter(prefix="/images", tags=["generation jobs"])


async def _body(request: Request) -> bytes:
    return await request.body()


@router.post(
    "",
    status_code=202,
    summary="Make a job of 1 to 10,000 images",
    response_model=views.Job,
    response_description="It is kept, and will be generated; once for all with this key.",
    responses=answers(GenerationDryRun),
    openapi_extra=body_of(GenerationJobRequest),
)
def create_generation_job(
    asking: CurrentPrincipal, here: AppStateDep, body: Annotated[bytes, Depends(_body)], key: Key
) -> Response:
    """Each of `prompts` is generated with each of `variants`, or of `tokens` at their
    `placeholder`, and each of `seeds`. Those who ask for single images are served first.
    """
    order = parse_generation_order(body)
    composed = compose(order, here.models, here.settings)
    if order.dry_run:
        return JSONResponse(_dry_run(here, asking.tenant, order, composed).model_dump(mode="json"))

    def check() -> None:
        if findings := [
            {"loc": place, "msg": f"there is no token {name!r}", "type": "refused"}
            for place, name in _missing(here, asking.tenant, order)
        ]:
            raise RequestValidationError(findings)

    return submit(here, asking, key, composed.request, "images", check)


@router.get(
    "/{job}/items/{index}/image",
    summary="Download an image of a job",
    response_class=Response,
    responses=problems(404, 410) | {200: raw(PNG, "The PNG, with its settings in it.")},
)
def get_generation_job_image(
    asking: CurrentPrincipal, here: AppStateDep, job: JobId, index: Index
) -> Response:
    """As it was generated; its `ETag` is its sha256."""
    return _image(here, asking.tenant, job, index)


@router.delete(
    "/{job}/items/{index}/image",
    status_code=204,
    summary="Delete an image of a job",
    responses=problems(404, 410),
)
def delete_generation_job_image(
    asking: CurrentPrincipal, here: AppStateDep, job: JobId, index: Index
) -> None:
    """For good, whether it is generated already or not. Again is fine."""
    delete_item(here.ledger, asking.tenant, job, index, asking.key, "generation")
    audit.note(here.ledger, asking, "image.delete", f"{job}/{index}")


@links.get(
    "/{tenant}/{job}/{index}",
    summary="Follow a link to an image of a job",
    response_class=Response,
    responses=plain_problems(404, 410, 422, 500, 503)
    | {200: raw(PNG, "The PNG, with its settings in it.")},
)
def follow_link_to_generation_job(
    here: AppStateDep,
    tenant: Annotated[str, Path(description="as the link has it", examples=["pets-inc"])],
    job: JobId,
    index: Index,
    expires: Annotated[
        int, Query(ge=0, le=2**40, description="seconds since 1970, as the link has it")
    ] = 0,
    signature: Annotated[str, Query(max_length=100, description="as the link has it")] = "",
) -> Response:
    """Without a key: whoever has the link has the image, until the link is over."""
    here.gallery.links.check(_path(tenant, job, index), expires, signature)
    return _image(here, tenant, job, index)


def _image(here: AppState, tenant: str, job: str, index: int) -> Response:
    made = read_image(here.ledger, tenant, job, index)
    answer = png_answer(made.payload)
    answer.headers["ETag"] = f'"{made.result.sha256}"'
    return answer


def _path(tenant: str, job: str, index: int) -> str:
    return f"/images/{tenant}/{job}/{index}"


def _dry_run(
    here: AppState, tenant: str, order: GenerationJobRequest, composed: BuiltGenerationJob
) -> GenerationDryRun:
    count = len(composed.request.items)
    missing = [name for _, name in _missing(here, tenant, order)]
    return GenerationDryRun(
        count=count,
        model=composed.model,
        prompts=composed.prompts,
        variants=composed.variants,
        seeds=composed.seeds,
        steps=count * composed.steps,
        missing_tokens=list(dict.fromkeys(missing)),
    )


def _missing(
    here: AppState, tenant: str, order: GenerationJobRequest
) -> list[tuple[tuple[str | int, ...], str]]:
    """Tokens that are not there, each with its places in the request. The others may yet be of
    another model, which the engine finds out.
    """
    asked = list(_named(order))
    names = list(dict.fromkeys(name for _, name in asked))
    if len(names) > _LOOKED_UP:
        return []
    shelf = TokenIndex(here.ledger, tenant, None)
    found = dict(zip(names, here.ledger.gather(shelf.has, names), strict=True))
    return [(place, name) for place, name in asked if not found[name]]


def _named(order: GenerationJobRequest) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Tokens that are named beside the prompts, each with its place."""
    for number, name in enumerate(order.tokens or ()):
        yield ("body", "tokens", number), name
    for number, variant in enumerate(order.variants or ()):
        place = ("body", "variants", number)
        for placeholder, name in variant.tokens.items():
            yield (*place, "tokens", placeholder), name
        for placeholder, blend in variant.blends.items():
            parts = (
                (blend.a, blend.b) if isinstance(blend, SlerpBlend) else (p.token for p in blend)
            )
            for name in parts:
                yield (*place, "blends", placeholder), name

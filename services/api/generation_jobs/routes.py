"""/v1/generation-jobs: pictures in bulk, and /pictures/..., where links to them lead."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from services.api import audit
from services.api.dependencies import Asking, Here, Service
from services.api.generation_jobs.build import Composed, compose
from services.api.generation_jobs.schemas import PictureJobOrder, parse_generation_order
from services.api.images.schemas import Between
from services.api.images.store import PNG, png_answer
from services.api.jobs import schemas as views
from services.api.jobs.routes import Index, JobId, JobRoutes, Key, answers, submit
from services.api.jobs.schemas import Said
from services.api.openapi import body_of, plain_problems, problems, raw
from services.api.tokens.index import Shelf
from services.contracts.jobs import ItemState
from services.ledger.deletion import delete_item
from services.ledger.queries import ItemView, read_picture

_LOOKED_UP = 32
"""Different tokens of a job up to which it is seen at once whether each is there."""

PICTURE_EXAMPLE: dict[str, Any] = {
    "index": 0,
    "id": "0000-rex-a-photo-of-a-dog-on-a-beach-7",
    "state": "succeeded",
    "reason": "",
    "attempt": 1,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "url": f"http://127.0.0.1:8000/pictures/pets-inc/{views.JOB}/0?expires=1772370000&signature=Ab",
    "report": {"seed": 7, "bytes": 8123, "warnings": []},
    "progress": None,
}


class PictureItem(views.Standing):
    """How an item stands, which is one picture of a job."""

    model_config = views.example(PICTURE_EXAMPLE)

    sha256: str | None = Field(default=None, description="of the PNG, once it is there")
    url: str | None = Field(
        default=None, description="of the PNG: anyone may get it there, for a while"
    )


class PictureItemPage(views.Page):
    """Pictures of a job in order."""

    model_config = views.example({"items": [PICTURE_EXAMPLE], "next": "1"})

    items: list[PictureItem]


class PictureItemWithAttempts(PictureItem):
    """A picture, and all attempts at it."""

    model_config = views.example(PICTURE_EXAMPLE | {"attempts": [views.ATTEMPT_EXAMPLE]})

    attempts: list[views.Attempt]


class PictureDryRun(BaseModel):
    """The job of pictures that would be made."""

    model_config = views.example(
        {
            "count": 16,
            "model": "miniature",
            "prompts": 2,
            "casts": 2,
            "seeds": 4,
            "steps": 400,
            "missing_tokens": ["tom"],
        }
    )

    count: int = Field(description="pictures: prompts x casts x seeds")
    model: str
    prompts: int
    casts: int
    seeds: int
    steps: int = Field(description="of denoising, of all pictures together")
    missing_tokens: list[str] = Field(
        description=f"those that are not there; of more than {_LOOKED_UP} none is looked up"
    )


def _show(
    request: Request, here: Service, tenant: str, job: str, item: ItemView, said: Said
) -> PictureItem:
    if item.state is not ItemState.SUCCEEDED:
        return PictureItem(**views.standing(item, said))
    base = here.settings.public_url or str(request.base_url)
    path = here.gallery.links.sign(_path(tenant, job, item.index), here.settings.link_seconds)
    url = f"{base.rstrip('/')}{path}"
    return PictureItem(**views.standing(item, said), sha256=item.sha256, url=url)


router = JobRoutes("generation", PictureItemPage, PictureItemWithAttempts, _show).router()
links = APIRouter(prefix="/pictures", tags=["generation jobs"])


async def _body(request: Request) -> bytes:
    return await request.body()


@router.post(
    "",
    status_code=202,
    summary="Make a job of 1 to 10,000 pictures",
    response_model=views.Job,
    response_description="It is kept, and will be painted; once for all with this key.",
    responses=answers(PictureDryRun),
    openapi_extra=body_of(PictureJobOrder),
)
def create_generation_job(
    asking: Asking, here: Here, body: Annotated[bytes, Depends(_body)], key: Key
) -> Response:
    """Each of `prompts` is painted with each of `casts`, or of `tokens` at their `placeholder`, and
    each of `seeds`. Those who ask for single pictures are served first.
    """
    order = parse_generation_order(body)
    composed = compose(order, here.offers, here.settings)
    if order.dry_run:
        return JSONResponse(_dry_run(here, asking.tenant, order, composed).model_dump(mode="json"))

    def check() -> None:
        if findings := [
            {"loc": place, "msg": f"there is no token {name!r}", "type": "refused"}
            for place, name in _missing(here, asking.tenant, order)
        ]:
            raise RequestValidationError(findings)

    return submit(here, asking, key, composed.request, "pictures", check)


@router.get(
    "/{job}/items/{index}/picture",
    summary="Download a picture of a job",
    response_class=Response,
    responses=problems(404, 410) | {200: raw(PNG, "The PNG, with its settings in it.")},
)
def get_generation_job_picture(asking: Asking, here: Here, job: JobId, index: Index) -> Response:
    """As it was painted; its `ETag` is its sha256."""
    return _picture(here, asking.tenant, job, index)


@router.delete(
    "/{job}/items/{index}/picture",
    status_code=204,
    summary="Delete a picture of a job",
    responses=problems(404, 410),
)
def delete_generation_job_picture(asking: Asking, here: Here, job: JobId, index: Index) -> None:
    """For good, whether it is painted already or not. Again is fine."""
    delete_item(here.ledger, asking.tenant, job, index, asking.key, "generation")
    audit.note(here.ledger, asking, "picture.delete", f"{job}/{index}")


@links.get(
    "/{tenant}/{job}/{index}",
    summary="Follow a link to a picture of a job",
    response_class=Response,
    responses=plain_problems(404, 410, 422, 500, 503)
    | {200: raw(PNG, "The PNG, with its settings in it.")},
)
def follow_link_to_generation_job(
    here: Here,
    tenant: Annotated[str, Path(description="as the link has it", examples=["pets-inc"])],
    job: JobId,
    index: Index,
    expires: Annotated[
        int, Query(ge=0, le=2**40, description="seconds since 1970, as the link has it")
    ] = 0,
    signature: Annotated[str, Query(max_length=100, description="as the link has it")] = "",
) -> Response:
    """Without a key: whoever has the link has the picture, until the link is over."""
    here.gallery.links.check(_path(tenant, job, index), expires, signature)
    return _picture(here, tenant, job, index)


def _picture(here: Service, tenant: str, job: str, index: int) -> Response:
    made = read_picture(here.ledger, tenant, job, index)
    answer = png_answer(made.payload)
    answer.headers["ETag"] = f'"{made.result.sha256}"'
    return answer


def _path(tenant: str, job: str, index: int) -> str:
    return f"/pictures/{tenant}/{job}/{index}"


def _dry_run(
    here: Service, tenant: str, order: PictureJobOrder, composed: Composed
) -> PictureDryRun:
    count = len(composed.request.items)
    missing = [name for _, name in _missing(here, tenant, order)]
    return PictureDryRun(
        count=count,
        model=composed.model,
        prompts=composed.prompts,
        casts=composed.casts,
        seeds=composed.seeds,
        steps=count * composed.steps,
        missing_tokens=list(dict.fromkeys(missing)),
    )


def _missing(
    here: Service, tenant: str, order: PictureJobOrder
) -> list[tuple[tuple[str | int, ...], str]]:
    """Tokens that are not there, each with its places in the request. The others may yet be of
    another model, which the engine finds out.
    """
    asked = list(_named(order))
    names = list(dict.fromkeys(name for _, name in asked))
    if len(names) > _LOOKED_UP:
        return []
    shelf = Shelf(here.ledger, tenant, None)
    found = dict(zip(names, here.ledger.gather(shelf.has, names), strict=True))
    return [(place, name) for place, name in asked if not found[name]]


def _named(order: PictureJobOrder) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Tokens that are named beside the prompts, each with its place."""
    for number, name in enumerate(order.tokens or ()):
        yield ("body", "tokens", number), name
    for number, cast in enumerate(order.casts or ()):
        place = ("body", "casts", number)
        for placeholder, name in cast.tokens.items():
            yield (*place, "tokens", placeholder), name
        for placeholder, blend in cast.blends.items():
            parts = (blend.a, blend.b) if isinstance(blend, Between) else (p.token for p in blend)
            for name in parts:
                yield (*place, "blends", placeholder), name

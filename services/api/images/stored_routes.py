"""/v1/images: those that were generated for links, and /images/..., where links lead to."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from services.api import audit
from services.api.dependencies import GUARDED, AppStateDep, CurrentPrincipal
from services.api.images.store import PNG, png_answer
from services.api.jobs.schemas import JOB, JOB_PATTERN, example
from services.api.middleware.openai_errors import OpenAIProblem
from services.api.openapi import plain_problems, problems, raw

router = APIRouter(prefix="/v1/images", dependencies=GUARDED, tags=["images"])
links = APIRouter(prefix="/images", tags=["images"])

_EXAMPLE: dict[str, Any] = {
    "id": JOB,
    "created": "2026-03-01T12:00:00Z",
    "size": 20480,
    "url": f"http://127.0.0.1:8000/images/pets-inc/{JOB}?expires=1772370000&signature=AbC",
}
ImageId = Annotated[str, Path(description="an image's id", examples=[JOB])]


class StoredImageResource(BaseModel):
    """An image that is kept."""

    model_config = example(_EXAMPLE)

    id: str
    created: datetime
    size: int = Field(description="bytes")
    url: str = Field(description="anyone may get it there, for a while")


class StoredImagePage(BaseModel):
    """Images, the newest first."""

    model_config = example({"images": [_EXAMPLE], "next": None})

    images: list[StoredImageResource]
    next: str | None = Field(
        default=None, description="cursor of the next page; null: this was the last one"
    )


@router.get("", summary="List kept images, the newest first", responses=problems())
def list_images(
    request: Request,
    asking: CurrentPrincipal,
    here: AppStateDep,
    cursor: Annotated[
        str | None, Query(pattern=f"^{JOB_PATTERN}$", description="`next` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="entries on a page")] = 50,
) -> StoredImagePage:
    """Those that were generated with `response_format` `url`, each with a new link."""
    kept, following = here.gallery.list(asking.tenant, cursor or "", limit)
    url = here.settings.public_url or str(request.base_url)
    stored_images = [
        StoredImageResource(
            id=one.id,
            created=one.created,
            size=one.size,
            url=here.gallery.link(asking.tenant, one.id, url),
        )
        for one in kept
    ]
    return StoredImagePage(images=stored_images, next=following)


@router.get(
    "/{image}",
    summary="Download a kept image",
    response_class=Response,
    responses=problems(404, model=OpenAIProblem)
    | {200: raw(PNG, "The PNG, with its settings in it.")},
)
def get_image(asking: CurrentPrincipal, here: AppStateDep, image: ImageId) -> Response:
    """As it was generated."""
    return png_answer(here.gallery.read(asking.tenant, image))


@router.delete(
    "/{image}",
    status_code=204,
    summary="Delete a kept image",
    responses=problems(404, model=OpenAIProblem),
)
def delete_image(asking: CurrentPrincipal, here: AppStateDep, image: ImageId) -> None:
    """For good. Links to it lead nowhere from now on."""
    here.gallery.delete(asking.tenant, image)
    audit.note(here.ledger, asking, "image.delete", image)


@links.get(
    "/{tenant}/{image}",
    summary="Follow a link to a kept image",
    response_class=Response,
    responses=plain_problems(404, 422, 500, 503)
    | {200: raw(PNG, "The PNG, with its settings in it.")},
)
def follow_link(
    here: AppStateDep,
    tenant: Annotated[str, Path(description="as the link has it", examples=["pets-inc"])],
    image: ImageId,
    expires: Annotated[
        int, Query(ge=0, le=2**40, description="seconds since 1970, as the link has it")
    ] = 0,
    signature: Annotated[str, Query(max_length=100, description="as the link has it")] = "",
) -> Response:
    """Without a key: whoever has the link has the image, until the link is over."""
    return png_answer(here.gallery.follow(tenant, image, expires, signature))

"""/v1/pictures: those that were painted for links, and /pictures/..., where links lead to."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from services.api import audit
from services.api.dependencies import GUARDED, Asking, Here
from services.api.images.store import PNG, png_answer
from services.api.jobs.schemas import JOB, JOB_PATTERN, example
from services.api.openapi import plain_problems, problems, raw

router = APIRouter(prefix="/v1/pictures", dependencies=GUARDED, tags=["images"])
links = APIRouter(prefix="/pictures", tags=["images"])

_EXAMPLE: dict[str, Any] = {
    "id": JOB,
    "created": "2026-03-01T12:00:00Z",
    "size": 20480,
    "url": f"http://127.0.0.1:8000/pictures/pets-inc/{JOB}?expires=1772370000&signature=AbC",
}
PictureId = Annotated[str, Path(description="a picture's id", examples=[JOB])]


class KeptPicture(BaseModel):
    """A picture that is kept."""

    model_config = example(_EXAMPLE)

    id: str
    created: datetime
    size: int = Field(description="bytes")
    url: str = Field(description="anyone may get it there, for a while")


class PicturePage(BaseModel):
    """Pictures, the newest first."""

    model_config = example({"pictures": [_EXAMPLE], "next": None})

    pictures: list[KeptPicture]
    next: str | None = Field(
        default=None, description="cursor of the next page; null: this was the last one"
    )


@router.get("", summary="List kept pictures, the newest first", responses=problems())
def list_pictures(
    request: Request,
    asking: Asking,
    here: Here,
    cursor: Annotated[
        str | None, Query(pattern=f"^{JOB_PATTERN}$", description="`next` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="entries on a page")] = 50,
) -> PicturePage:
    """Those that were painted with `response_format` `url`, each with a new link."""
    kept, following = here.gallery.list(asking.tenant, cursor or "", limit)
    url = here.settings.public_url or str(request.base_url)
    pictures = [
        KeptPicture(
            id=one.id,
            created=one.created,
            size=one.size,
            url=here.gallery.link(asking.tenant, one.id, url),
        )
        for one in kept
    ]
    return PicturePage(pictures=pictures, next=following)


@router.get(
    "/{picture}",
    summary="Download a kept picture",
    response_class=Response,
    responses=problems(404) | {200: raw(PNG, "The PNG, with its settings in it.")},
)
def get_picture(asking: Asking, here: Here, picture: PictureId) -> Response:
    """As it was painted."""
    return png_answer(here.gallery.read(asking.tenant, picture))


@router.delete(
    "/{picture}", status_code=204, summary="Delete a kept picture", responses=problems(404)
)
def delete_picture(asking: Asking, here: Here, picture: PictureId) -> None:
    """For good. Links to it lead nowhere from now on."""
    here.gallery.delete(asking.tenant, picture)
    audit.note(here.ledger, asking, "picture.delete", picture)


@links.get(
    "/{tenant}/{picture}",
    summary="Follow a link to a kept picture",
    response_class=Response,
    responses=plain_problems(404, 422, 500, 503)
    | {200: raw(PNG, "The PNG, with its settings in it.")},
)
def follow_link(
    here: Here,
    tenant: Annotated[str, Path(description="as the link has it", examples=["pets-inc"])],
    picture: PictureId,
    expires: Annotated[
        int, Query(ge=0, le=2**40, description="seconds since 1970, as the link has it")
    ] = 0,
    signature: Annotated[str, Query(max_length=100, description="as the link has it")] = "",
) -> Response:
    """Without a key: whoever has the link has the picture, until the link is over."""
    return png_answer(here.gallery.follow(tenant, picture, expires, signature))

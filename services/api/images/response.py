"""What is answered to those who want pictures, in OpenAI's form and with a little more."""

import base64
import struct
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue

from services.api.images.request import Commission
from services.api.images.store import Gallery
from services.api.jobs.schemas import example
from services.contracts.generation import Failed, Painted
from services.engine_client import Painting, error_of

_SIZE = struct.Struct(">II")
_SIZE_AT = 16  # behind PNG's signature, and the length and name of its first chunk

_PICTURE: dict[str, Any] = {
    "b64_json": "iVBORw0KGgo=",
    "url": None,
    "revised_prompt": None,
    "id": None,
    "seed": 7,
    "settings": {"prompt": "a photo of a <rex>", "seed": 7, "steps": 25},
}
EXAMPLE: dict[str, Any] = {
    "created": 1772366400,
    "model": "miniature",
    "data": [_PICTURE],
    "warnings": [],
    "size": "64x64",
    "output_format": "png",
    "background": "opaque",
}


class ImageData(BaseModel):
    """A picture."""

    b64_json: str | None = Field(default=None, description="the PNG in base64")
    url: str | None = Field(
        default=None, description="of the PNG, for a while; it stays until it is deleted"
    )
    revised_prompt: None = Field(default=None, description="prompts are painted as they are")
    id: str | None = Field(default=None, description="if it is kept: GET /v1/pictures/ID")
    seed: int
    settings: dict[str, JsonValue] = Field(description="all that it was painted with")


class ImageAnswer(BaseModel):
    """Pictures, in the order of their seeds."""

    model_config = example(EXAMPLE)

    created: int = Field(description="seconds since 1970")
    model: str = Field(description="that has painted")
    data: list[ImageData]
    warnings: list[str] = Field(description="what was said and means nothing here, and the like")
    size: str = Field(description="WIDTHxHEIGHT in pixels")
    output_format: Literal["png"] = "png"
    background: Literal["opaque"] = "opaque"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where pictures are put for those who want links."""

    gallery: Gallery
    tenant: str
    here: str
    """The URL of this service."""

    def url(self, png: bytes) -> tuple[str, str]:
        """Its id and a link. Raises: DeletedError of the tenant."""
        picture = self.gallery.keep(self.tenant, png)
        return picture, self.gallery.link(self.tenant, picture, self.here)


async def collect(painting: Painting) -> list[Painted]:
    """All pictures, in order. Raises: DTIError of the first that failed."""
    done: dict[int, Painted] = {}
    async with aclosing(painting.events()) as events:
        async for event in events:
            if isinstance(event, Failed):
                raise error_of(event.error, event.detail)
            if isinstance(event, Painted):
                done[event.picture] = event
    return [done[number] for number in sorted(done)]


def answer_of(asked: Commission, painted: Sequence[Painted], shelf: Shelf | None) -> bytes:
    """The answer as JSON. shelf: None: pictures are in it themselves.

    Raises: DeletedError of the tenant.
    """
    warnings = [*asked.warnings, *(one for each in painted for one in each.warnings)]
    return (
        ImageAnswer(
            created=int(time.time()),
            model=asked.model,
            data=[data_of(asked, each, shelf) for each in painted],
            warnings=list(dict.fromkeys(warnings)),
            size=size_of(painted[0].png),
        )
        .model_dump_json()
        .encode()
    )


def data_of(asked: Commission, painted: Painted, shelf: Shelf | None) -> ImageData:
    picture, url = shelf.url(painted.png) if shelf else (None, None)
    return ImageData(
        b64_json=None if shelf else encoded(painted.png),
        url=url,
        id=picture,
        seed=asked.wanted.pictures[painted.picture].seed,
        settings=painted.settings,
    )


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def size_of(png: bytes) -> str:
    """WIDTHxHEIGHT."""
    width, height = _SIZE.unpack_from(png, _SIZE_AT)
    return f"{width}x{height}"

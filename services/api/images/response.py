"""What is answered to those who want images, in OpenAI's form and with a little more."""

import base64
import struct
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue

from services.api.images.request import EngineCall
from services.api.images.store import ImageStore
from services.api.jobs.schemas import example
from services.contracts.generation import FailureEvent, ImageEvent
from services.engine_client import GenerationStream, rebuild_error

_SIZE = struct.Struct(">II")
_SIZE_AT = 16  # behind PNG's signature, and the length and name of its first chunk

_IMAGE: dict[str, Any] = {
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
    "data": [_IMAGE],
    "warnings": [],
    "size": "64x64",
    "output_format": "png",
    "background": "opaque",
}


class ImageData(BaseModel):
    """An image."""

    b64_json: str | None = Field(default=None, description="the PNG in base64")
    url: str | None = Field(
        default=None, description="of the PNG, for a while; it stays until it is deleted"
    )
    revised_prompt: None = Field(default=None, description="prompts are generated as they are")
    id: str | None = Field(default=None, description="if it is kept: GET /v1/images/ID")
    seed: int
    settings: dict[str, JsonValue] = Field(description="all that it was generated with")


class ImagesResponse(BaseModel):
    """Images, in the order of their seeds."""

    model_config = example(EXAMPLE)

    created: int = Field(description="seconds since 1970")
    model: str = Field(description="that has generated")
    data: list[ImageData]
    warnings: list[str] = Field(description="what was said and means nothing here, and the like")
    size: str = Field(description="WIDTHxHEIGHT in pixels")
    output_format: Literal["png"] = "png"
    background: Literal["opaque"] = "opaque"


@dataclass(frozen=True, slots=True)
class ImageUrls:
    """Where images are put for those who want links."""

    gallery: ImageStore
    tenant: str
    here: str
    """The URL of this service."""

    def url(self, png: bytes) -> tuple[str, str]:
        """Its id and a link. Raises: DeletedError of the tenant."""
        image = self.gallery.keep(self.tenant, png)
        return image, self.gallery.link(self.tenant, image, self.here)


async def collect(generating: GenerationStream) -> list[ImageEvent]:
    """All images, in order. Raises: DTIError of the first that failed."""
    done: dict[int, ImageEvent] = {}
    async with aclosing(generating.events()) as events:
        async for event in events:
            if isinstance(event, FailureEvent):
                raise rebuild_error(event.error, event.detail)
            if isinstance(event, ImageEvent):
                done[event.image] = event
    return [done[number] for number in sorted(done)]


def answer_of(asked: EngineCall, generated: Sequence[ImageEvent], shelf: ImageUrls | None) -> bytes:
    """The answer as JSON. shelf: None: images are in it themselves.

    Raises: DeletedError of the tenant.
    """
    warnings = [*asked.warnings, *(one for each in generated for one in each.warnings)]
    return (
        ImagesResponse(
            created=int(time.time()),
            model=asked.model,
            data=[data_of(asked, each, shelf) for each in generated],
            warnings=list(dict.fromkeys(warnings)),
            size=size_of(generated[0].png),
        )
        .model_dump_json()
        .encode()
    )


def data_of(asked: EngineCall, generated: ImageEvent, shelf: ImageUrls | None) -> ImageData:
    image, url = shelf.url(generated.png) if shelf else (None, None)
    return ImageData(
        b64_json=None if shelf else encoded(generated.png),
        url=url,
        id=image,
        seed=asked.wanted.images[generated.image].seed,
        settings=generated.settings,
    )


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def size_of(png: bytes) -> str:
    """WIDTHxHEIGHT."""
    width, height = _SIZE.unpack_from(png, _SIZE_AT)
    return f"{width}x{height}"

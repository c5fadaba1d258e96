"""The response to a request for images: OpenAI's form with additional fields."""

import base64
import struct
import time
from collections.abc import Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import Response
from pydantic import BaseModel, Field, JsonValue
from starlette.types import Message, Receive, Scope, Send

from services.api.images.request import EngineCall
from services.api.images.store import ImageStore
from services.api.jobs.schemas import example
from services.contracts.generation import FailureEvent, ImageEvent
from services.engine_client import GenerationStream, rebuild_error

_PNG_SIZE = struct.Struct(">II")
_PNG_SIZE_OFFSET = 16  # PNG's signature, then the length and the name of the first chunk

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
    """A generated image."""

    b64_json: str | None = Field(default=None, description="The PNG in base64.")
    url: str | None = Field(
        default=None,
        description="A link to the PNG, which expires; the image stays until it is deleted.",
    )
    revised_prompt: None = Field(
        default=None, description="Always null: prompts are used unchanged."
    )
    id: str | None = Field(
        default=None, description="The id of a stored image, for GET /v1/images/ID."
    )
    seed: int = Field(description="The seed of the image.")
    settings: dict[str, JsonValue] = Field(
        description="All settings of the image; they generate it again."
    )


class ImagesResponse(BaseModel):
    """Generated images, in the order of their seeds."""

    model_config = example(EXAMPLE)

    created: int = Field(description="The time in seconds since 1970.")
    model: str = Field(description="The model that generated the images.")
    data: list[ImageData] = Field(description="The images.")
    warnings: list[str] = Field(
        description="Fields of the request that had no effect, prompts that were cut, and the like."
    )
    size: str = Field(description="The size of the images, `WIDTHxHEIGHT` in pixels.")
    output_format: Literal["png"] = "png"
    background: Literal["opaque"] = "opaque"


@dataclass(frozen=True, slots=True)
class ImageUrls:
    """Stores the images of one request and returns links to them."""

    images: ImageStore
    tenant: str
    base_url: str
    """The URL of this service."""

    def store(self, png: bytes, names: Collection[str]) -> tuple[str, str]:
        """Store an image that was made with tokens of these names; return its id and a link.

        Raises:
            DeletedError: The tenant was deleted.
        """
        image = self.images.save(self.tenant, png, names)
        return image, self.images.link(self.tenant, image, self.base_url)


class CollectedResponse(Response):
    """A response of collected images. The stream is closed once they are sent, as they are held."""

    def __init__(self, body: bytes, stream: GenerationStream) -> None:
        super().__init__(body, media_type="application/json")
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_whole(message: Message) -> None:
            if message["type"] == "http.response.body":
                await send({**message, "more_body": True})
                # The server begins with a part once the part before has left its memory.
                message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            await super().__call__(scope, receive, send_whole)
        finally:
            await self._stream.close()


async def collect_images(stream: GenerationStream) -> list[ImageEvent]:
    """Wait for all images and return them in order.

    Raises:
        DTIError: The error of the first image that failed.
    """
    images: dict[int, ImageEvent] = {}
    async with aclosing(stream.events(kept=True)) as events:
        async for event in events:
            if isinstance(event, FailureEvent):
                # OpenAI's response has no place for some images and an error. The caller closes the
                # stream, which cancels the rest.
                raise rebuild_error(event.error, event.detail)
            if isinstance(event, ImageEvent):
                images[event.image] = event
    return [images[number] for number in sorted(images)]


def images_response(
    call: EngineCall, images: Sequence[ImageEvent], urls: ImageUrls | None
) -> bytes:
    """Return the response as JSON. If `urls` is None, the images are in it as base64.

    Raises:
        DeletedError: The tenant was deleted.
    """
    warnings = [*call.warnings, *(warning for image in images for warning in image.warnings)]
    return (
        ImagesResponse(
            created=int(time.time()),
            model=call.model,
            data=[image_data(call, image, urls) for image in images],
            warnings=list(dict.fromkeys(warnings)),
            size=png_size(images[0].png),
        )
        .model_dump_json()
        .encode()
    )


def image_data(call: EngineCall, image: ImageEvent, urls: ImageUrls | None) -> ImageData:
    """Return one image of the response, and store it if `urls` is given."""
    names = call.request.images[image.image].token_names
    image_id, url = urls.store(image.png, names) if urls else (None, None)
    return ImageData(
        b64_json=None if urls else to_base64(image.png),
        url=url,
        id=image_id,
        seed=call.request.images[image.image].seed,
        settings=image.settings,
    )


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png_size(png: bytes) -> str:
    """Return the size of a PNG as `WIDTHxHEIGHT`."""
    width, height = _PNG_SIZE.unpack_from(png, _PNG_SIZE_OFFSET)
    return f"{width}x{height}"

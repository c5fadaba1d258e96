"""/v1/images: generate images as OpenAI's API does; stored images; /images/...: links to them."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field

from services.api import audit
from services.api.dependencies import GUARDED, AppState, AppStateDep, CurrentPrincipal, RawBody
from services.api.images.events import (
    EVENT_SCHEMA,
    EventEncoder,
    ImageEventStream,
    image_events,
    run_while_connected,
)
from services.api.images.request import EngineCall, build_engine_call
from services.api.images.response import (
    CollectedResponse,
    ImagesResponse,
    ImageUrls,
    collect_images,
    images_response,
)
from services.api.images.schemas import ImageGenerationRequest, parse_image_request
from services.api.images.store import PNG
from services.api.jobs.schemas import JOB, IdCursor, PageLimit, example
from services.api.middleware.openai_errors import OpenAIProblem
from services.api.openapi import body_of, plain_problems, problems, raw
from services.api.shares import FairRoute
from services.contracts.generation import Event

router = APIRouter(
    prefix="/v1/images", dependencies=GUARDED, tags=["images"], route_class=FairRoute
)
links = APIRouter(prefix="/images", tags=["images"], route_class=FairRoute)

_CLIENT_CLOSED = 499
"""The status of a response that no client receives; only the log shows it."""

_STREAM_RESPONSE: dict[str, Any] = {
    "description": "The images; with `stream`, the event stream.",
    "content": {"text/event-stream": {"schema": EVENT_SCHEMA}},
}
_PNG_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: raw(PNG, "The PNG, which contains its settings.")
}

_EXAMPLE: dict[str, Any] = {
    "id": JOB,
    "created": "2026-03-01T12:00:00Z",
    "size": 20480,
    "url": f"http://127.0.0.1:8000/images/pets-inc/{JOB}?expires=1772370000&signature=AbC",
}

ImageId = Annotated[str, Path(description="The id of an image.", examples=[JOB])]
LinkTenant = Annotated[str, Path(description="The tenant in the link.", examples=["pets-inc"])]
LinkExpires = Annotated[
    int, Query(ge=0, le=2**40, description="The expiry in the link, in seconds since 1970.")
]
LinkSignature = Annotated[str, Query(max_length=100, description="The signature in the link.")]


class StoredImageResource(BaseModel):
    """A stored image."""

    model_config = example(_EXAMPLE)

    id: str = Field(description="The id of the image.")
    created: datetime = Field(description="When the image was stored.")
    size: int = Field(description="The size of the PNG in bytes.")
    url: str = Field(description="A link to the PNG that needs no API key and expires.")


class StoredImagePage(BaseModel):
    """A page of stored images, newest first."""

    model_config = example({"images": [_EXAMPLE], "next": None})

    images: list[StoredImageResource]
    next: str | None = Field(
        default=None, description="The cursor of the next page; null on the last page."
    )


async def _image_request(
    state: AppStateDep, principal: CurrentPrincipal, body: RawBody
) -> ImageGenerationRequest:
    return await state.shares.threads.run(principal.tenant, parse_image_request, body)


@router.post(
    "/generations",
    summary="Generate 1 to 10 images",
    response_model=ImagesResponse,
    responses=problems(400, 404, 408, 410, 504, model=OpenAIProblem) | {200: _STREAM_RESPONSE},
    openapi_extra=body_of(ImageGenerationRequest),
)
async def create_images(
    request: Request,
    principal: CurrentPrincipal,
    state: AppStateDep,
    image_request: Annotated[ImageGenerationRequest, Depends(_image_request)],
) -> Response:
    """Generate images; the route is compatible with OpenAI's `images.generate`.

    Placeholders in the prompt stand for tokens or blends of tokens. With `stream`, each image has
    events `image_generation.progress`, `.partial_image` if previews were requested, and
    `.completed`; `index` says which image it is, and `error` that it failed. Without `stream`, the
    request fails if one image fails. A client that disconnects cancels the request.
    """
    settings = state.settings
    call = build_engine_call(image_request, principal, state.models, settings.generation_timeout_s)
    urls = None
    if image_request.wants_url:
        base_url = settings.public_url or str(request.base_url)
        urls = ImageUrls(state.images, principal.tenant, base_url)
    request_id = request.state.request_id

    async def work() -> Response:
        if image_request.stream:
            max_previews = image_request.partial_images or 0
            encoder = EventEncoder(call, max_previews, urls, request_id)
            return await _stream(state, call, encoder, request_id)
        return await _generate(state, call, urls, request_id)

    response = await run_while_connected(request.receive, work)
    return response or Response(status_code=_CLIENT_CLOSED)


async def _generate(
    state: AppState, call: EngineCall, urls: ImageUrls | None, request_id: str
) -> Response:
    stream = await state.engines.generate(call.model, call.request, request_id)
    try:
        images = await collect_images(stream)
        tenant = call.request.tenant
        body = await state.shares.threads.run(tenant, images_response, call, images, urls)
    except BaseException:
        await stream.close()
        raise
    return CollectedResponse(body, stream)


async def _stream(
    state: AppState, call: EngineCall, encoder: EventEncoder, request_id: str
) -> Response:
    """Begin a stream. A request that the engine rejects gets an error status, not an event."""
    stream = await state.engines.generate(call.model, call.request, request_id)

    async def encode(event: Event) -> list[bytes]:
        # In a thread, because it may write an image to the store.
        return await state.shares.threads.run(call.request.tenant, encoder.encode, event)

    events = image_events(encoder, stream, encode, state.settings.keepalive_interval_s)
    return ImageEventStream(events, stream)


@router.get("", summary="List stored images, newest first", responses=problems())
def list_images(
    request: Request,
    principal: CurrentPrincipal,
    state: AppStateDep,
    cursor: IdCursor = None,
    limit: PageLimit = 50,
) -> StoredImagePage:
    """List the images that were generated with the `response_format` `url`, with new links."""
    images, next_cursor = state.images.list(principal.tenant, cursor or "", limit)
    base_url = state.settings.public_url or str(request.base_url)
    resources = [
        StoredImageResource(
            id=image.id,
            created=image.created,
            size=image.num_bytes,
            url=state.images.link(principal.tenant, image.id, base_url),
        )
        for image in images
    ]
    return StoredImagePage(images=resources, next=next_cursor)


@router.get(
    "/{image}",
    summary="Download a stored image",
    response_class=Response,
    responses=problems(404, model=OpenAIProblem) | _PNG_RESPONSE,
)
def get_image(principal: CurrentPrincipal, state: AppStateDep, image: ImageId) -> Response:
    """Return the PNG as it was generated."""
    return png_response(state.images.read(principal.tenant, image))


@router.delete(
    "/{image}",
    status_code=204,
    summary="Delete a stored image",
    responses=problems(404, model=OpenAIProblem),
)
def delete_image(principal: CurrentPrincipal, state: AppStateDep, image: ImageId) -> None:
    """Delete the image; links to it return `404` from then on."""
    state.images.delete(principal.tenant, image)
    audit.record_deletion(state.ledger, principal, "image.delete", image)


@links.get(
    "/{tenant}/{image}",
    summary="Follow a link to a stored image",
    response_class=Response,
    responses=plain_problems(404, 422, 500, 503) | _PNG_RESPONSE,
)
def follow_link(
    state: AppStateDep,
    tenant: LinkTenant,
    image: ImageId,
    expires: LinkExpires = 0,
    signature: LinkSignature = "",
) -> Response:
    """Return the PNG without an API key: anyone with the link can download it until it expires."""
    return png_response(state.images.read_by_link(tenant, image, expires, signature))


def png_response(body: bytes) -> Response:
    """Return a PNG that no shared cache may keep, because the image can be deleted."""
    return Response(
        body,
        media_type=PNG,
        headers={"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"},
    )

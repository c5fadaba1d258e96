"""/v1/images/generations: images of what was learned, as OpenAI's clients ask for images."""

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Request, Response

from services.api.dependencies import GUARDED, AppState, AppStateDep, CurrentPrincipal
from services.api.images.events import SCHEMA, EventEncoder, ImageEventStream, while_there
from services.api.images.request import EngineCall, commission
from services.api.images.response import ImagesResponse, ImageUrls, answer_of, collect
from services.api.images.schemas import ImageGenerationRequest, parse_image_order
from services.api.middleware.openai_errors import OpenAIProblem
from services.api.openapi import body_of, problems

router = APIRouter(prefix="/v1/images", dependencies=GUARDED, tags=["images"])

_LEFT = 499
"""Nobody gets this answer."""

_STREAM: dict[str, Any] = {
    "description": "Images; with `stream`, what happens until they are done.",
    "content": {"text/event-stream": {"schema": SCHEMA}},
}


async def _body(request: Request) -> bytes:
    return await request.body()


def _order(body: Annotated[bytes, Depends(_body)]) -> ImageGenerationRequest:
    return parse_image_order(body)


@router.post(
    "/generations",
    summary="Generate 1 to 10 images",
    response_model=ImagesResponse,
    responses=problems(400, 404, 410, 504, model=OpenAIProblem) | {200: _STREAM},
    openapi_extra=body_of(ImageGenerationRequest),
)
async def create_images(
    request: Request,
    asking: CurrentPrincipal,
    here: AppStateDep,
    order: Annotated[ImageGenerationRequest, Depends(_order)],
) -> Response:
    """As OpenAI's `images.generate`, for its clients as they are. Placeholders in the prompt stand
    for tokens or blends of them. With `stream`: events `image_generation.progress`, then
    `.partial_image` where previews were asked for, then `.completed`, for each image, which
    `index` says; `error` where it failed. Without, one that fails is an error of the whole.
    """
    settings = here.settings
    asked = commission(order, asking.tenant, here.models, settings.generation_timeout_s)
    shelf = None
    if order.response_format == "url":
        url = settings.public_url or str(request.base_url)
        shelf = ImageUrls(here.gallery, asking.tenant, url)

    async def work() -> Response:
        if order.stream:
            return await _stream(here, asked, order, shelf, request.state.request)
        return await _generate(here, asked, shelf, request.state.request)

    answered = await while_there(request.receive, work)
    return answered or Response(status_code=_LEFT)


async def _generate(
    here: AppState, asked: EngineCall, shelf: ImageUrls | None, request: str
) -> Response:
    generation = await here.engines.generate(asked.model, asked.wanted, request)
    try:
        generated = await collect(generation)
    finally:
        await generation.close()
    body = await to_thread.run_sync(answer_of, asked, generated, shelf)
    return Response(body, media_type="application/json")


async def _stream(
    here: AppState,
    asked: EngineCall,
    order: ImageGenerationRequest,
    shelf: ImageUrls | None,
    request: str,
) -> Response:
    """What is refused at once is an error as everywhere, not an event."""
    generation = await here.engines.generate(asked.model, asked.wanted, request)
    teller = EventEncoder(asked, order.partial_images or 0, shelf, request)
    return ImageEventStream(teller, generation, here.settings.keepalive_interval_s)

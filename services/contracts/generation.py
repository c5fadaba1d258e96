"""Images as the API asks an engine for them, and what the engine answers, line by line.

The API has found out who asks, and has checked what was said; an engine knows the models and the
tokens. Both speak JSON over HTTP inside the cluster, with a secret of their own:

    POST {engines}/{backbone}/generate     a `GenerateRequest`; the answer is a line of JSON for each
                                        `Event`, in the order in which things happen, with exactly
                                        one `ImageEvent` or `FailureEvent` for each image
    GET  {engines}/{backbone}/healthz   200 as soon as it generates

What is refused as a whole is answered with `Rejection` and its status: 401 without the secret, 422
for what is malformed, 429 where the engine has too much to do. Loads no torch.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter

from dti_engine.config import PLACEHOLDER
from services.contracts.jobs import Label, WireModel

MAX_IMAGES = 16
"""Of one request."""

MAX_STEPS = 150
"""Denoising steps of one image: more makes none better."""

Placeholder = Annotated[str, StringConstraints(pattern=f"^{PLACEHOLDER.pattern}$")]

TokenName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""A token's id, or an alias: then the newest token of that subject."""


class BlendPart(WireModel):
    """One of the tokens of a blend."""

    token: TokenName = Field(description="id or alias")
    weight: float = Field(gt=0, le=1e6, description="beside those of the others")


class ImageSpec(WireModel):
    """One image that is wanted. What it shows depends on nothing else."""

    prompt: str = Field(max_length=4000)
    negative_prompt: str = Field(default="", max_length=4000)
    seed: int = Field(ge=0, lt=2**32)
    steps: int = Field(default=25, ge=1, le=MAX_STEPS, description="of denoising")
    guidance: float = Field(default=5.0, ge=1, le=50, description="1: none")
    height: int | None = Field(default=None, ge=8, le=4096, description="pixels; None: the model's")
    width: int | None = Field(default=None, ge=8, le=4096, description="pixels; None: the model's")
    instruction: bool = Field(default=True, description="the model's own, before the prompt")
    tokens: dict[Placeholder, TokenName] = Field(default={}, max_length=16)
    blends: dict[
        Placeholder, Annotated[tuple[BlendPart, ...], Field(min_length=2, max_length=8)]
    ] = Field(default={}, max_length=16)
    deterministic: bool = Field(
        default=False,
        description="generated alone, so that not even rounding depends on neighbours",
    )


class TokenBinding(WireModel):
    """What placeholders stand for in one telling of a job's prompts."""

    tokens: dict[Placeholder, TokenName] = Field(default={}, max_length=16)
    blends: dict[
        Placeholder, Annotated[tuple[BlendPart, ...], Field(min_length=2, max_length=8)]
    ] = Field(default={}, max_length=16)


class PromptSpec(WireModel):
    """A prompt of a job, with the tokens that stand in it by their own ids."""

    prompt: str = Field(min_length=1, max_length=4000)
    tokens: dict[Placeholder, TokenName] = Field(default={})


class ImageItem(WireModel):
    """One image of a job: what stands in its item's `work`, as indices into `GenerationJobSpec`,
    since the same prompt is told in thousands of them.
    """

    prompt: int = Field(ge=0)
    cast: int = Field(ge=0)
    seed: int = Field(ge=0, lt=2**32)


class GenerationJobSpec(WireModel):
    """What holds for all images of a job: its `shared`. The API writes it for dispatchers."""

    model: Label
    prompts: tuple[PromptSpec, ...] = Field(min_length=1)
    casts: tuple[TokenBinding, ...] = Field(min_length=1)
    common: dict[str, JsonValue] = Field(default={}, description="other fields of `ImageSpec`")
    webhook: str | None = Field(default=None, description="URL that is told when the job ends")


def image_of(work: Mapping[str, JsonValue], shared: Mapping[str, JsonValue]) -> ImageSpec:
    """The image that an item of a job asks for. Of the order, which may be long, only what
    belongs to it is looked at.

    Raises: ValidationError, LookupError, TypeError for what no API has written.
    """
    asked = ImageItem.model_validate(work)
    order: Mapping[str, Any] = shared
    telling = PromptSpec.model_validate(order["prompts"][asked.prompt])
    cast = TokenBinding.model_validate(order["casts"][asked.cast])
    inline = {name: token for name, token in telling.tokens.items() if name not in cast.blends}
    return ImageSpec.model_validate(
        {
            **order["common"],
            "prompt": telling.prompt,
            "seed": asked.seed,
            "tokens": inline | cast.tokens,
            "blends": cast.blends,
        }
    )


class GenerateRequest(WireModel):
    """What one tenant wants generated."""

    tenant: Label
    images: tuple[ImageSpec, ...] = Field(min_length=1, max_length=MAX_IMAGES)
    seconds: float | None = Field(
        default=None, gt=0, description="after which nobody waits for them any more"
    )
    patient: bool = Field(
        default=False, description="others go first, as nobody looks on: images of a job"
    )
    progress: bool = Field(default=False, description="whether to tell of each step")
    previews: int = Field(
        default=0, ge=0, le=MAX_STEPS, description="a small one every so many steps; 0: none"
    )


class _EventBase(WireModel):
    """Bytes are base64 in JSON."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class StepEvent(_EventBase):
    """An image is on its way."""

    event: Literal["stepped"] = "stepped"
    image: int = Field(description="index in the request")
    step: int = Field(description="done so far")
    steps: int
    preview: bytes | None = Field(default=None, description="a small JPEG")


class ImageEvent(_EventBase):
    """An image is done."""

    event: Literal["generated"] = "generated"
    image: int
    png: bytes = Field(description="with its settings, and the mark that it is generated")
    settings: dict[str, JsonValue]
    warnings: tuple[str, ...] = ()


class FailureEvent(_EventBase):
    """An image could not be made; the others of the request may still be."""

    event: Literal["failed"] = "failed"
    image: int
    error: str = Field(description="name of the class of the error")
    detail: str


Event = Annotated[StepEvent | ImageEvent | FailureEvent, Field(discriminator="event")]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Rejection(WireModel):
    """Why nothing at all was begun."""

    error: str = Field(description="name of the class of the error")
    detail: str
    seconds: float | None = Field(default=None, description="after which to ask again")

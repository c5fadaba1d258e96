"""The wire protocol between the API, the dispatchers and the engines: generation requests, events.

The API authenticates the caller and validates the request; an engine knows the model and its
tokens. Both speak JSON over HTTP inside the cluster and share a secret of their own:

    POST {engines}/{model}/generate   a `GenerateRequest`; the response is one line of JSON per
                                      `Event`, in order of occurrence, with exactly one `ImageEvent`
                                      or `FailureEvent` for each image
    GET  {engines}/{model}/healthz    200 as soon as the engine can generate

An engine answers a request that it rejects as a whole with a `Rejection` and its status: 401
without the secret, 422 for an invalid request, 429 when its queue is full, 503 while it stops.

The secret may be a list, separated by commas: callers send the first one, and engines accept any of
them, so that the secret can be changed while requests run. This module loads no torch.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter

from dti_engine.config import PLACEHOLDER
from services.contracts.jobs import PRINTABLE, Label, WireModel

MAX_IMAGES = 16
"""The largest number of images in one request."""

MAX_TOKENS = 16
"""The largest number of tokens, and of blends, in one image."""

MAX_TIMEOUT_S = 86_400.0
"""The longest time that a caller may wait for an image."""

MAX_STEPS = 150
"""The largest number of denoising steps of one image; more steps improve none."""


def split_secrets(text: str) -> tuple[str, ...]:
    """Return the secrets in `text`, which are separated by commas; callers send the first one."""
    return tuple(secret for part in text.split(",") if (secret := part.strip())) or (text,)


Placeholder = Annotated[str, StringConstraints(pattern=f"^{PLACEHOLDER.pattern}$")]

TokenName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=PRINTABLE)]
"""A token id, or a subject's alias, which stands for the newest token of that subject."""


class BlendPart(WireModel):
    """A token of a blend."""

    token: TokenName = Field(description="token id or alias")
    weight: float = Field(gt=0, le=1e6, description="relative to the weights of the other parts")


class TokenBinding(WireModel):
    """The meaning of a prompt's placeholders: tokens, and blends of tokens."""

    tokens: dict[Placeholder, TokenName] = Field(default={}, max_length=MAX_TOKENS)
    blends: dict[
        Placeholder, Annotated[tuple[BlendPart, ...], Field(min_length=2, max_length=8)]
    ] = Field(default={}, max_length=MAX_TOKENS)

    @property
    def token_names(self) -> frozenset[str]:
        """Return the token ids and aliases that it names."""
        parts = (part for blend in self.blends.values() for part in blend)
        return frozenset((*self.tokens.values(), *(part.token for part in parts)))


class ImageSpec(TokenBinding):
    """Everything that one image depends on."""

    prompt: str = Field(max_length=4000)
    negative_prompt: str = Field(default="", max_length=4000)
    seed: int = Field(ge=0, lt=2**32)
    steps: int = Field(default=25, ge=1, le=MAX_STEPS, description="number of denoising steps")
    guidance: float = Field(default=5.0, ge=1, le=50, description="1 turns guidance off")
    height: int | None = Field(default=None, ge=8, le=4096, description="pixels; None: the model's")
    width: int | None = Field(default=None, ge=8, le=4096, description="pixels; None: the model's")
    instruction: bool = Field(
        default=True, description="put the model's own instruction before the prompt"
    )
    deterministic: bool = Field(
        default=False,
        description="generate the image in a batch of its own, so that its rounding does not "
        "depend on other images",
    )


class PromptSpec(WireModel):
    """A prompt of a job, and the tokens that it names inline by their ids."""

    prompt: str = Field(min_length=1, max_length=4000)
    tokens: dict[Placeholder, TokenName] = Field(default={}, max_length=MAX_TOKENS)


class ImageItem(WireModel):
    """The `work` of one item of a generation job: indices into the job's `GenerationJobSpec`.

    Items hold indices because thousands of them share one prompt.
    """

    prompt: int = Field(ge=0)
    variant: int = Field(ge=0)
    seed: int = Field(ge=0, lt=2**32)


class GenerationJobSpec(WireModel):
    """The `shared` part of a generation job, which the API writes and dispatchers read."""

    model: Label
    prompts: tuple[PromptSpec, ...] = Field(min_length=1)
    variants: tuple[TokenBinding, ...] = Field(min_length=1)
    common: dict[str, JsonValue] = Field(default={}, description="other fields of `ImageSpec`")
    negative_tokens: dict[Placeholder, TokenName] = Field(
        default={},
        max_length=MAX_TOKENS,
        description="tokens that the negative prompt names inline; not in each of the prompts, "
        "which would multiply them",
    )
    webhook: str | None = Field(default=None, description="URL to notify when the job ends")


def build_image_spec(work: Mapping[str, JsonValue], shared: Mapping[str, JsonValue]) -> ImageSpec:
    """Return the image that an item of a generation job asks for.

    The function reads only the entries of `shared` that the item refers to, because a job may hold
    thousands of prompts.

    Raises:
        ValidationError, LookupError, TypeError: The item or the job is malformed.
    """
    item = ImageItem.model_validate(work)
    job: Mapping[str, Any] = shared
    prompt = PromptSpec.model_validate(job["prompts"][item.prompt])
    variant = TokenBinding.model_validate(job["variants"][item.variant])
    # What the variant says of a placeholder goes before a token that the prompt names by its id.
    named = {**job.get("negative_tokens", {}), **prompt.tokens}
    inline = {name: token for name, token in named.items() if name not in variant.blends}
    return ImageSpec.model_validate(
        {
            **job["common"],
            "prompt": prompt.prompt,
            "seed": item.seed,
            "tokens": inline | variant.tokens,
            "blends": variant.blends,
        }
    )


class GenerateRequest(WireModel):
    """A request for images of one tenant."""

    tenant: Label
    images: tuple[ImageSpec, ...] = Field(min_length=1, max_length=MAX_IMAGES)
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=MAX_TIMEOUT_S,
        description="after which the engine drops unfinished images",
    )
    background: bool = Field(
        default=False, description="low priority: images of a job let interactive images go first"
    )
    progress: bool = Field(default=False, description="send an event after each denoising step")
    previews: int = Field(
        default=0, ge=0, le=MAX_STEPS, description="send a preview every so many steps; 0: none"
    )


class _EventBase(WireModel):
    """An event; bytes are base64 in JSON."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    image: int = Field(description="index of the image in the request")


class StepEvent(_EventBase):
    """A denoising step of an image is done."""

    event: Literal["step"] = "step"
    step: int = Field(description="number of steps done so far")
    steps: int
    preview: bytes | None = Field(default=None, description="a small JPEG")


class ImageEvent(_EventBase):
    """An image is done."""

    event: Literal["image"] = "image"
    png: bytes = Field(description="carries its settings, and the mark that it is generated")
    settings: dict[str, JsonValue]
    warnings: tuple[str, ...] = ()


class FailureEvent(_EventBase):
    """An image failed; the other images of the request go on."""

    event: Literal["failure"] = "failure"
    error: str = Field(description="class name of the error")
    detail: str


Event = Annotated[StepEvent | ImageEvent | FailureEvent, Field(discriminator="event")]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Rejection(WireModel):
    """The reason why an engine rejected a whole request and began no image."""

    error: str = Field(description="class name of the error")
    detail: str
    retry_after_s: float | None = Field(default=None, description="time to wait before a retry")

"""Pictures as the API asks an engine for them, and what the engine answers, line by line.

The API has found out who asks, and has checked what was said; an engine knows the models and the
tokens. Both speak JSON over HTTP inside the cluster, with a secret of their own:

    POST {engines}/{backbone}/paint     a `PaintRequest`; the answer is a line of JSON for each
                                        `Event`, in the order in which things happen, with exactly
                                        one `Painted` or `Failed` for each picture
    GET  {engines}/{backbone}/healthz   200 as soon as it paints

What is refused as a whole is answered with `Refusal` and its status: 401 without the secret, 422
for what is malformed, 429 where the engine has too much to do. Loads no torch.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter

from dti_engine.config import PLACEHOLDER
from services.contracts.jobs import Label, Model

MAX_PICTURES = 16
"""Of one request."""

MAX_STEPS = 150
"""Denoising steps of one picture: more makes none better."""

Placeholder = Annotated[str, StringConstraints(pattern=f"^{PLACEHOLDER.pattern}$")]

TokenName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
"""A token's id, or an alias: then the newest token of that subject."""


class Part(Model):
    """One of the tokens of a blend."""

    token: TokenName = Field(description="id or alias")
    weight: float = Field(gt=0, le=1e6, description="beside those of the others")


class Picture(Model):
    """One picture that is wanted. What it shows depends on nothing else."""

    prompt: str = Field(max_length=4000)
    negative_prompt: str = Field(default="", max_length=4000)
    seed: int = Field(ge=0, lt=2**32)
    steps: int = Field(default=25, ge=1, le=MAX_STEPS, description="of denoising")
    guidance: float = Field(default=5.0, ge=1, le=50, description="1: none")
    height: int | None = Field(default=None, ge=8, le=4096, description="pixels; None: the model's")
    width: int | None = Field(default=None, ge=8, le=4096, description="pixels; None: the model's")
    instruction: bool = Field(default=True, description="the model's own, before the prompt")
    tokens: dict[Placeholder, TokenName] = Field(default={}, max_length=16)
    blends: dict[Placeholder, Annotated[tuple[Part, ...], Field(min_length=2, max_length=8)]] = (
        Field(default={}, max_length=16)
    )
    deterministic: bool = Field(
        default=False, description="painted alone, so that not even rounding depends on neighbours"
    )


class Cast(Model):
    """What placeholders stand for in one telling of a job's prompts."""

    tokens: dict[Placeholder, TokenName] = Field(default={}, max_length=16)
    blends: dict[Placeholder, Annotated[tuple[Part, ...], Field(min_length=2, max_length=8)]] = (
        Field(default={}, max_length=16)
    )


class Telling(Model):
    """A prompt of a job, with the tokens that stand in it by their own ids."""

    prompt: str = Field(min_length=1, max_length=4000)
    tokens: dict[Placeholder, TokenName] = Field(default={})


class PictureWork(Model):
    """One picture of a job: what stands in its item's `work`, as indices into `GenerationOrder`,
    since the same prompt is told in thousands of them.
    """

    prompt: int = Field(ge=0)
    cast: int = Field(ge=0)
    seed: int = Field(ge=0, lt=2**32)


class GenerationOrder(Model):
    """What holds for all pictures of a job: its `shared`. The API writes it for dispatchers."""

    model: Label
    prompts: tuple[Telling, ...] = Field(min_length=1)
    casts: tuple[Cast, ...] = Field(min_length=1)
    common: dict[str, JsonValue] = Field(default={}, description="other fields of `Picture`")
    webhook: str | None = Field(default=None, description="URL that is told when the job ends")


def picture_of(work: Mapping[str, JsonValue], shared: Mapping[str, JsonValue]) -> Picture:
    """The picture that an item of a job asks for. Of the order, which may be long, only what
    belongs to it is looked at.

    Raises: ValidationError, LookupError, TypeError for what no API has written.
    """
    asked = PictureWork.model_validate(work)
    order: Mapping[str, Any] = shared
    telling = Telling.model_validate(order["prompts"][asked.prompt])
    cast = Cast.model_validate(order["casts"][asked.cast])
    inline = {name: token for name, token in telling.tokens.items() if name not in cast.blends}
    return Picture.model_validate(
        {
            **order["common"],
            "prompt": telling.prompt,
            "seed": asked.seed,
            "tokens": inline | cast.tokens,
            "blends": cast.blends,
        }
    )


class PaintRequest(Model):
    """What one tenant wants painted."""

    tenant: Label
    pictures: tuple[Picture, ...] = Field(min_length=1, max_length=MAX_PICTURES)
    seconds: float | None = Field(
        default=None, gt=0, description="after which nobody waits for them any more"
    )
    patient: bool = Field(
        default=False, description="others go first, as nobody looks on: pictures of a job"
    )
    progress: bool = Field(default=False, description="whether to tell of each step")
    previews: int = Field(
        default=0, ge=0, le=MAX_STEPS, description="a small one every so many steps; 0: none"
    )


class _Line(Model):
    """Bytes are base64 in JSON."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Stepped(_Line):
    """A picture is on its way."""

    event: Literal["stepped"] = "stepped"
    picture: int = Field(description="index in the request")
    step: int = Field(description="done so far")
    steps: int
    preview: bytes | None = Field(default=None, description="a small JPEG")


class Painted(_Line):
    """A picture is done."""

    event: Literal["painted"] = "painted"
    picture: int
    png: bytes = Field(description="with its settings, and the mark that it is generated")
    settings: dict[str, JsonValue]
    warnings: tuple[str, ...] = ()


class Failed(_Line):
    """A picture could not be made; the others of the request may still be."""

    event: Literal["failed"] = "failed"
    picture: int
    error: str = Field(description="name of the class of the error")
    detail: str


Event = Annotated[Stepped | Painted | Failed, Field(discriminator="event")]

EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class Refusal(Model):
    """Why nothing at all was begun."""

    error: str = Field(description="name of the class of the error")
    detail: str
    seconds: float | None = Field(default=None, description="after which to ask again")

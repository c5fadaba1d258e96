"""What a client says of the images that it wants: OpenAI's fields, and ours beside them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from services.contracts.generation import MAX_STEPS, BlendPart, Placeholder, TokenName
from services.contracts.jobs import WireModel

MAX_IMAGES = 10
"""Of one request, as OpenAI has it."""


class SlerpBlend(WireModel):
    """A blend of two tokens, as far from the first as `t` says."""

    a: TokenName = Field(description="id or alias")
    b: TokenName = Field(description="id or alias")
    t: float = Field(ge=0, le=1, description="0: a; 1: b; between them, along the sphere")


def _form(given: Any) -> Literal["between", "parts"]:
    return "between" if isinstance(given, dict | SlerpBlend) else "parts"


Parts = Annotated[tuple[BlendPart, ...], Field(min_length=2, max_length=8)]
Blend = Annotated[
    Annotated[SlerpBlend, Tag("between")] | Annotated[Parts, Tag("parts")], Discriminator(_form)
]

Blends = Annotated[
    dict[Placeholder, Blend],
    Field(max_length=16, description="placeholder -> tokens and weights, or two and t"),
]
Tokens = Annotated[
    dict[Placeholder, TokenName],
    Field(max_length=16, description="placeholder -> a token's id, or its alias"),
]
Size = Annotated[
    str,
    Field(
        pattern=r"^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$",
        description="WIDTHxHEIGHT in pixels, 8 to 4096 each; auto: the model's own",
    ),
]


def sides_of(size: str | None) -> tuple[int, int] | None:
    """Width and height; None: the model's own. Raises: ValueError of those that cannot be."""
    if size in (None, "auto"):
        return None
    width, _, height = size.partition("x")
    sides = int(width), int(height)
    if not all(8 <= side <= 4096 for side in sides):
        raise ValueError(f"size is {size}: width and height can be 8 to 4096")
    return sides


def check_once(tokens: Mapping[str, Any], blends: Mapping[str, Any]) -> None:
    """Raises: ValueError if it is said twice what a placeholder is."""
    if both := sorted(tokens.keys() & blends.keys()):
        raise ValueError(f"{both[0]} is among tokens and among blends: leave one out")


_Said = Annotated[str, StringConstraints(max_length=200)]


class ImageGenerationRequest(WireModel):
    """Images of one prompt. What OpenAI's clients may say and means nothing here is accepted, and
    `warnings` of the answer tell of it.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "a photo of a <rex> on a beach", "tokens": {"<rex>": "rex"}, "n": 2},
                {
                    "prompt": "a photo of a <mix>",
                    "model": "miniature",
                    "size": "64x64",
                    "seed": 7,
                    "blends": {"<mix>": {"a": "rex", "b": "tom", "t": 0.3}},
                },
            ]
        }
    )

    prompt: str = Field(
        min_length=1,
        max_length=4000,
        description="with placeholders of tokens; <tok_...>, a token's id, stands for itself",
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="a name of GET /v1/models; left out, or one of OpenAI's: the first",
    )
    n: int | None = Field(default=None, ge=1, le=MAX_IMAGES, description="images; default 1")
    size: Size | None = None
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="the PNG itself in base64, or a link to it; default b64_json"
    )
    stream: bool | None = Field(default=None, description="tell of progress, as server-sent events")
    partial_images: int | None = Field(
        default=None, ge=0, le=3, description="previews of each image, in a stream"
    )
    output_format: Literal["png"] | None = Field(default=None, description="there is no other")
    quality: _Said | None = Field(default=None, description="means nothing here: see steps")
    style: _Said | None = Field(default=None, description="means nothing here")
    background: _Said | None = Field(default=None, description="always opaque")
    moderation: _Said | None = Field(default=None, description="means nothing here")
    complexity: _Said | None = Field(default=None, description="means nothing here")
    output_compression: int | None = Field(default=None, description="means nothing for PNG")
    user: _Said | None = Field(default=None, description="is not kept")
    safety_identifier: _Said | None = Field(default=None, description="is not kept")

    seed: int | None = Field(
        default=None, ge=0, lt=2**32, description="of the first; then seed + 1...; default: drawn"
    )
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS, description="of denoising")
    guidance: float | None = Field(default=None, ge=1, le=50, description="1: none")
    negative_prompt: str = Field(default="", max_length=4000)
    tokens: Tokens = Field(default={})
    blends: Blends = Field(default={})
    instruction: bool = Field(default=True, description="the model's own, before the prompt")
    deterministic: bool = Field(
        default=False, description="generated alone, so that not even rounding depends on others"
    )
    seconds: float | None = Field(
        default=None, gt=0, le=3600, description="after which nobody waits for them any more"
    )

    @model_validator(mode="after")
    def _is_of_a_size_that_can_be(self) -> "ImageGenerationRequest":
        sides_of(self.size)
        return self

    @model_validator(mode="after")
    def _says_once_what_a_placeholder_is(self) -> "ImageGenerationRequest":
        check_once(self.tokens, self.blends)
        return self

    @property
    def sides(self) -> tuple[int, int] | None:
        """Width and height; None: the model's own."""
        return sides_of(self.size)


def parse_image_order(body: bytes) -> ImageGenerationRequest:
    """In JSON's own types alone. Raises: RequestValidationError."""
    try:
        return ImageGenerationRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        findings = [{**one, "loc": ("body", *_place(one["loc"]))} for one in error.errors()]
        raise RequestValidationError(findings) from error


def _place(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Without the form of a blend, which is nothing that the client has said."""
    return (*loc[:2], *loc[3:]) if loc[:1] == ("blends",) else loc


_MEANINGLESS: Mapping[str, tuple[frozenset[Any], str]] = {
    "quality": (frozenset({"auto", "standard"}), "quality means nothing here: give steps"),
    "style": (frozenset(), "style means nothing here: say it in the prompt"),
    "background": (frozenset({"auto", "opaque"}), "background is always opaque"),
    "moderation": (frozenset({"auto"}), "moderation means nothing here"),
    "complexity": (frozenset(), "complexity means nothing here: give steps"),
    "output_compression": (frozenset({100}), "output_compression means nothing for PNG"),
    "user": (frozenset(), "user is not kept"),
    "safety_identifier": (frozenset(), "safety_identifier is not kept"),
}
"""Field -> what may be said without a word about it, and the word."""


def meaningless(order: ImageGenerationRequest) -> list[str]:
    """Warnings of what was said and means nothing here."""
    found = [
        f"{warning}; {given!r} was ignored"
        for name, (harmless, warning) in _MEANINGLESS.items()
        if (given := getattr(order, name)) is not None and given not in harmless
    ]
    if order.partial_images and not order.stream:
        found.append("partial_images are shown in a stream alone: give stream as well")
    return found

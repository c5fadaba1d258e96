"""Schemas of requests for images: OpenAI's fields, and additional ones."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from services.api.request_body import parse_body
from services.contracts.generation import MAX_STEPS, BlendPart, Placeholder, TokenName
from services.contracts.jobs import WireModel

MAX_IMAGES = 10
"""The maximum number of images in one request, which is OpenAI's too."""

Prompt = Annotated[str, StringConstraints(min_length=1, max_length=4000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class SlerpBlend(WireModel):
    """A blend of two tokens by spherical interpolation."""

    a: TokenName = Field(description="The id or alias of the first token.")
    b: TokenName = Field(description="The id or alias of the second token.")
    t: float = Field(ge=0, le=1, description="The position between the tokens: 0 is a, 1 is b.")


def _blend_form(value: Any) -> Literal["between", "parts"]:
    return "between" if isinstance(value, dict | SlerpBlend) else "parts"


Parts = Annotated[tuple[BlendPart, ...], Field(min_length=2, max_length=8)]
Blend = Annotated[
    Annotated[SlerpBlend, Tag("between")] | Annotated[Parts, Tag("parts")],
    Discriminator(_blend_form),
]

Blends = Annotated[
    dict[Placeholder, Blend],
    Field(
        max_length=16,
        description="Blends by placeholder: two tokens and a position, or tokens with weights.",
    ),
]
Tokens = Annotated[
    dict[Placeholder, TokenName],
    Field(max_length=16, description="Tokens by placeholder: the id of a token, or its alias."),
]
Size = Annotated[
    str,
    Field(
        pattern=r"^(auto|[1-9][0-9]{0,3}x[1-9][0-9]{0,3})$",
        description="`WIDTHxHEIGHT` in pixels, 8 to 4096 each; `auto`, the default, is the "
        "model's own size.",
    ),
]


def parse_size(size: str | None) -> tuple[int, int] | None:
    """Return the width and height in pixels; None for the model's own size.

    Raises:
        ValueError: A side is out of range.
    """
    if size in (None, "auto"):
        return None
    width, _, height = size.partition("x")
    sides = int(width), int(height)
    if not all(8 <= side <= 4096 for side in sides):
        raise ValueError(f"the size is {size}: width and height can be 8 to 4096")
    return sides


def reject_duplicate_placeholders(tokens: Mapping[str, Any], blends: Mapping[str, Any]) -> None:
    """Check that no placeholder has both a token and a blend.

    Raises:
        ValueError: A placeholder has both.
    """
    if duplicates := sorted(tokens.keys() & blends.keys()):
        raise ValueError(f"{duplicates[0]} is in both tokens and blends: remove one of them")


class SamplingRequest(WireModel):
    """The sampling fields that requests for single images and generation jobs share."""

    size: Size | None = None
    steps: int | None = Field(
        default=None,
        ge=1,
        le=MAX_STEPS,
        description="The number of denoising steps; 25 by default.",
    )
    guidance: float | None = Field(
        default=None,
        ge=1,
        le=50,
        description="The scale of classifier-free guidance; 1 disables it; 5 by default.",
    )
    negative_prompt: str = Field(
        default="", max_length=4000, description="What the images should not show."
    )
    instruction: bool = Field(
        default=True, description="Whether the model's own instruction precedes the prompt."
    )
    deterministic: bool = Field(
        default=False,
        description="Generate each image by itself, so that not even rounding depends on other "
        "requests.",
    )

    @model_validator(mode="after")
    def _validate_size(self) -> "SamplingRequest":
        parse_size(self.size)
        return self

    @property
    def width_and_height(self) -> tuple[int, int] | None:
        """The size in pixels; None for the model's own size."""
        return parse_size(self.size)


_IgnoredText = Annotated[str, StringConstraints(max_length=200)]


class ImageGenerationRequest(SamplingRequest):
    """A request for images of one prompt.

    OpenAI's fields that have no meaning here are accepted, and `warnings` of the response name
    them.
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

    prompt: Prompt = Field(
        description="The prompt, with placeholders; a token's id, `<tok_...>`, needs no entry in "
        "`tokens`."
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="A model of GET /v1/models. The first one is used by default and for the names "
        "of OpenAI's models.",
    )
    n: int | None = Field(
        default=None, ge=1, le=MAX_IMAGES, description="The number of images; 1 by default."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None,
        description="`b64_json` returns the PNG in base64; `url` stores the image and returns a "
        "link. The default is `b64_json`, and `url` for the names `dall-e-...`, as OpenAI has it.",
    )
    stream: bool | None = Field(
        default=None, description="Send progress and images as server-sent events."
    )
    partial_images: int | None = Field(
        default=None, ge=0, le=3, description="The number of previews per image in a stream."
    )
    output_format: Literal["png"] | None = Field(
        default=None, description="The only format is `png`."
    )
    quality: _IgnoredText | None = Field(default=None, description="Ignored; see `steps`.")
    style: _IgnoredText | None = Field(default=None, description="Ignored.")
    background: _IgnoredText | None = Field(
        default=None, description="Ignored: the background is always opaque."
    )
    moderation: _IgnoredText | None = Field(default=None, description="Ignored.")
    complexity: _IgnoredText | None = Field(default=None, description="Ignored.")
    output_compression: int | None = Field(
        default=None, ge=0, le=100, description="Ignored: PNG has no such setting."
    )
    user: _IgnoredText | None = Field(default=None, description="Ignored, and not stored.")
    safety_identifier: _IgnoredText | None = Field(
        default=None, description="Ignored, and not stored."
    )

    seed: Seed | None = Field(
        default=None,
        description="The seed of the first image; the others follow it. Random by default.",
    )
    tokens: Tokens = Field(default={})
    blends: Blends = Field(default={})
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=3600,
        description="The time in seconds that the images may take: by default, and at most, what "
        "the service allows, which is 300 unless its operator changes it.",
    )

    @property
    def wants_url(self) -> bool:
        """Return whether images are stored and linked."""
        if self.response_format is None and not self.stream:
            return (self.model or "").startswith("dall-e")
        return self.response_format == "url"

    @model_validator(mode="after")
    def _reject_duplicate_placeholders(self) -> "ImageGenerationRequest":
        reject_duplicate_placeholders(self.tokens, self.blends)
        return self


def parse_image_request(body: bytes) -> ImageGenerationRequest:
    """Parse a request body in strict mode.

    Raises:
        RequestValidationError: The body is not valid.
    """
    return parse_body(ImageGenerationRequest, body, _place)


def _place(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return a place without the tag of a blend, which is not part of the client's JSON."""
    return (*loc[:2], *loc[3:]) if loc[:1] == ("blends",) else loc


_IGNORED_FIELDS: Mapping[str, tuple[frozenset[Any], str]] = {
    "quality": (frozenset({"auto", "standard"}), "quality has no meaning here: use steps"),
    "style": (frozenset(), "style has no meaning here: describe it in the prompt"),
    "background": (frozenset({"auto", "opaque"}), "the background is always opaque"),
    "moderation": (frozenset({"auto"}), "moderation has no meaning here"),
    "complexity": (frozenset(), "complexity has no meaning here: use steps"),
    "output_compression": (frozenset({100}), "output_compression has no meaning for PNG"),
    "user": (frozenset(), "user is not stored"),
    "safety_identifier": (frozenset(), "safety_identifier is not stored"),
}
"""The values of each field that need no warning, and the warning for any other value."""


def ignored_fields(request: ImageGenerationRequest) -> list[str]:
    """Return a warning for each field of the request that has no effect."""
    warnings = [
        f"{warning}; {value!r} was ignored"
        for name, (harmless, warning) in _IGNORED_FIELDS.items()
        if (value := getattr(request, name)) is not None and value not in harmless
    ]
    if request.partial_images and not request.stream:
        warnings.append("partial_images needs stream: no previews were made")
    return warnings

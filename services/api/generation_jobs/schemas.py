"""What a client says of a job of images: prompts, who is in them, and seeds."""

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

from services.api.images.schemas import Blends, Size, Tokens, check_once, sides_of
from services.api.training_jobs.schemas import TagName, WebhookRequest
from services.contracts.generation import MAX_STEPS, Placeholder, TokenName
from services.contracts.jobs import MAX_ITEMS, WireModel

Prompt = Annotated[str, StringConstraints(min_length=1, max_length=4000)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class VariantRequest(WireModel):
    """What placeholders stand for in one telling of all prompts."""

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="in its images' ids; left out: its tokens' names",
    )
    tokens: Tokens = Field(default={})
    blends: Blends = Field(default={})

    @model_validator(mode="after")
    def _says_once_what_a_placeholder_is(self) -> "VariantRequest":
        check_once(self.tokens, self.blends)
        return self


class SeedRange(WireModel):
    """Seeds that follow each other."""

    first: Seed = 0
    count: int = Field(ge=1, le=MAX_ITEMS)

    @model_validator(mode="after")
    def _are_seeds(self) -> "SeedRange":
        if self.first + self.count > 2**32:
            raise ValueError(f"{self.count} seeds from {self.first} on: the last is {2**32 - 1}")
        return self


def _form(given: Any) -> Literal["range", "list"]:
    return "range" if isinstance(given, dict | SeedRange) else "list"


Seeds = Annotated[
    Annotated[SeedRange, Tag("range")]
    | Annotated[tuple[Seed, ...], Field(min_length=1, max_length=MAX_ITEMS), Tag("list")],
    Discriminator(_form),
]


class GenerationJobRequest(WireModel):
    """A job of 1 to 10,000 images: each prompt with each variant and each seed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "prompts": ["a photo of a <dog> on a beach", "a painting of a <dog>"],
                    "placeholder": "<dog>",
                    "tokens": ["rex", "tom"],
                    "seeds": {"first": 0, "count": 4},
                    "tags": {"project": "pets"},
                },
                {
                    "prompts": ["a photo of a <dog> and a <cat>"],
                    "variants": [
                        {"tokens": {"<dog>": "rex", "<cat>": "kit"}},
                        {
                            "name": "halfway",
                            "tokens": {"<cat>": "kit"},
                            "blends": {"<dog>": {"a": "rex", "b": "tom", "t": 0.5}},
                        },
                    ],
                    "seeds": [3, 7],
                    "steps": 30,
                    "dry_run": True,
                },
            ]
        }
    )

    prompts: tuple[Prompt, ...] = Field(
        min_length=1,
        max_length=MAX_ITEMS,
        description="with placeholders of tokens; <tok_...>, a token's id, stands for itself",
    )
    variants: tuple[VariantRequest, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ITEMS,
        description="what placeholders stand for: all prompts are generated with each",
    )
    placeholder: Placeholder | None = Field(
        default=None, description="in place of variants: what each of tokens stands for in turn"
    )
    tokens: tuple[TokenName, ...] | None = Field(
        default=None, min_length=1, max_length=MAX_ITEMS, description="ids or aliases"
    )
    seeds: Seeds = Field(
        default=(0,), description="a list, or the first and how many; default: 0 alone"
    )
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="a name of GET /v1/models; left out: the first",
    )
    size: Size | None = None
    steps: int | None = Field(default=None, ge=1, le=MAX_STEPS, description="of denoising")
    guidance: float | None = Field(default=None, ge=1, le=50, description="1: none")
    negative_prompt: str = Field(default="", max_length=4000)
    instruction: bool = Field(default=True, description="the model's own, before the prompt")
    deterministic: bool = Field(
        default=False, description="generated alone, so that not even rounding depends on others"
    )
    tags: dict[TagName, Annotated[str, StringConstraints(max_length=200)]] = Field(
        default={}, max_length=20
    )
    max_attempts: int = Field(
        default=4, ge=1, le=20, description="failed or lost ones, before an image ends as failed"
    )
    webhook: WebhookRequest | None = None
    dry_run: bool = Field(default=False, description="say what would be made, and make nothing")

    @model_validator(mode="after")
    def _says_once_who_is_in_it(self) -> "GenerationJobRequest":
        if (self.placeholder is None) != (self.tokens is None):
            raise ValueError("placeholder and tokens belong together: give both, or variants")
        if self.variants is not None and self.tokens is not None:
            raise ValueError("give either variants, or a placeholder and its tokens")
        return self

    @model_validator(mode="after")
    def _has_seeds_once(self) -> "GenerationJobRequest":
        seeds = self.seeds
        if not isinstance(seeds, SeedRange) and len(set(seeds)) < len(seeds):
            twice = next(seed for seed in seeds if seeds.count(seed) > 1)
            raise ValueError(
                f"seed {twice} is given twice, which generates the same again: drop one"
            )
        return self

    @model_validator(mode="after")
    def _is_of_a_size_that_can_be(self) -> "GenerationJobRequest":
        sides_of(self.size)
        return self

    @property
    def sides(self) -> tuple[int, int] | None:
        """Width and height; None: the model's own."""
        return sides_of(self.size)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        if isinstance(self.seeds, SeedRange):
            return tuple(range(self.seeds.first, self.seeds.first + self.seeds.count))
        return self.seeds

    @property
    def all_variants(self) -> tuple[VariantRequest, ...]:
        """One that is empty where nothing is said."""
        if self.placeholder and self.tokens:
            return tuple(VariantRequest(tokens={self.placeholder: name}) for name in self.tokens)
        return self.variants or (VariantRequest(),)


def parse_generation_order(body: bytes) -> GenerationJobRequest:
    """In JSON's own types alone. Raises: RequestValidationError."""
    try:
        return GenerationJobRequest.model_validate_json(body, strict=True)
    except ValidationError as error:
        findings = [{**one, "loc": ("body", *_place(one["loc"]))} for one in error.errors()]
        raise RequestValidationError(findings) from error


def _place(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Without the forms of seeds and blends, which are nothing that the client has said."""
    if loc[:1] == ("seeds",):
        return (*loc[:1], *loc[2:])
    return (*loc[:4], *loc[5:]) if loc[:1] == ("variants",) and loc[2:3] == ("blends",) else loc

"""Schemas of generation jobs: prompts, token variants and seeds; images and dry runs."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from services.api.images.schemas import (
    Blends,
    Prompt,
    SamplingRequest,
    Seed,
    Tokens,
    reject_duplicate_placeholders,
)
from services.api.jobs.schemas import (
    ATTEMPT_EXAMPLE,
    JOB,
    AttemptResource,
    BaseItem,
    BaseJobRequest,
    PageResource,
    example,
)
from services.api.request_body import parse_body
from services.contracts.generation import Placeholder, TokenName
from services.contracts.jobs import MAX_ITEMS, WireModel

MAX_TOKEN_LOOKUPS = 32
"""The number of different tokens in a job up to which their existence is checked at submission."""

ITEM_EXAMPLE: dict[str, Any] = {
    "index": 0,
    "id": "0000-rex-a-photo-of-a-dog-on-a-beach-7",
    "state": "succeeded",
    "reason": "",
    "attempt": 1,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "url": f"http://127.0.0.1:8000/images/pets-inc/{JOB}/0?expires=1772370000&signature=Ab",
    "report": {"seed": 7, "bytes": 8123, "warnings": []},
    "progress": None,
}


class VariantRequest(WireModel):
    """An assignment of tokens and blends to the placeholders of all prompts."""

    name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_-]{1,40}$",
        description="A name for the ids of its images; the names of its tokens by default.",
    )
    tokens: Tokens = Field(default={})
    blends: Blends = Field(default={})

    @model_validator(mode="after")
    def _reject_duplicate_placeholders(self) -> "VariantRequest":
        reject_duplicate_placeholders(self.tokens, self.blends)
        return self


class SeedRange(WireModel):
    """Consecutive seeds."""

    first: Seed = Field(default=0, description="The first seed.")
    count: int = Field(ge=1, le=MAX_ITEMS, description="The number of seeds.")

    @model_validator(mode="after")
    def _validate_last_seed(self) -> "SeedRange":
        if self.first + self.count > 2**32:
            raise ValueError(
                f"{self.count} seeds from {self.first} on exceed the largest seed, {2**32 - 1}"
            )
        return self


def _seeds_form(value: Any) -> Literal["range", "list"]:
    return "range" if isinstance(value, dict | SeedRange) else "list"


Seeds = Annotated[
    Annotated[SeedRange, Tag("range")]
    | Annotated[tuple[Seed, ...], Field(min_length=1, max_length=MAX_ITEMS), Tag("list")],
    Discriminator(_seeds_form),
]


class GenerationJobRequest(BaseJobRequest, SamplingRequest):
    """A request for a job of 1 to 10,000 images: each prompt with each variant and each seed."""

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
        description="The prompts, with placeholders; a token's id, `<tok_...>`, needs no variant.",
    )
    variants: tuple[VariantRequest, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ITEMS,
        description="The assignments of tokens to placeholders; all prompts are generated with "
        "each.",
    )
    placeholder: Placeholder | None = Field(
        default=None,
        description="In place of `variants`: the placeholder that each of `tokens` replaces.",
    )
    tokens: tuple[TokenName, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ITEMS,
        description="The ids or aliases of the tokens for `placeholder`.",
    )
    seeds: Seeds = Field(default=(0,), description="A list of seeds, or a range of them.")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="A model of GET /v1/models; the first one by default.",
    )

    @model_validator(mode="after")
    def _require_one_form_of_variants(self) -> "GenerationJobRequest":
        if (self.placeholder is None) != (self.tokens is None):
            raise ValueError("give both placeholder and tokens, or variants in their place")
        if self.variants is not None and self.tokens is not None:
            raise ValueError("give either variants, or a placeholder and its tokens")
        return self

    @model_validator(mode="after")
    def _reject_duplicate_seeds(self) -> "GenerationJobRequest":
        seeds = self.seeds
        if not isinstance(seeds, SeedRange) and len(set(seeds)) < len(seeds):
            duplicate = next(seed for seed in seeds if seeds.count(seed) > 1)
            raise ValueError(f"seed {duplicate} is given twice and would generate the same image")
        return self

    @property
    def all_seeds(self) -> tuple[int, ...]:
        if isinstance(self.seeds, SeedRange):
            return tuple(range(self.seeds.first, self.seeds.first + self.seeds.count))
        return self.seeds

    @property
    def all_variants(self) -> tuple[VariantRequest, ...]:
        """The variants in either form; a job without tokens has one empty variant."""
        if self.placeholder and self.tokens:
            return tuple(VariantRequest(tokens={self.placeholder: name}) for name in self.tokens)
        return self.variants or (VariantRequest(),)

    @property
    def num_images(self) -> int:
        """The number of images."""
        return len(self.prompts) * len(self.all_variants) * len(self.all_seeds)


def parse_generation_job(body: bytes) -> GenerationJobRequest:
    """Parse a request body in strict mode.

    Raises:
        RequestValidationError: The body is not valid.
    """
    return parse_body(GenerationJobRequest, body, _place)


def _place(loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Return a place without the tags of unions, which are not part of the client's JSON."""
    if loc[:1] == ("seeds",):
        return (*loc[:1], *loc[2:])
    is_blend = loc[:1] == ("variants",) and loc[2:3] == ("blends",)
    return (*loc[:4], *loc[5:]) if is_blend else loc


class GenerationItem(BaseItem):
    """An image of a generation job, and its state."""

    model_config = example(ITEM_EXAMPLE)

    sha256: str | None = Field(default=None, description="The SHA-256 of the PNG.")
    url: str | None = Field(
        default=None,
        description="A link to the PNG that works without an API key until it expires.",
    )


class GenerationItemPage(PageResource):
    """A page of a job's images, by index."""

    model_config = example({"items": [ITEM_EXAMPLE], "next": "1"})

    items: list[GenerationItem]


class GenerationItemWithAttempts(GenerationItem):
    """An image with all attempts at it."""

    model_config = example(ITEM_EXAMPLE | {"attempts": [ATTEMPT_EXAMPLE]})

    attempts: list[AttemptResource]


class GenerationDryRun(BaseModel):
    """The generation job that a request would create."""

    model_config = example(
        {
            "count": 16,
            "model": "miniature",
            "prompts": 2,
            "variants": 2,
            "seeds": 4,
            "steps": 400,
            "missing_tokens": ["tom"],
            "warnings": ["no prompt mentions <rex>, so this token changes no image: ..."],
        }
    )

    count: int = Field(description="The number of images: prompts x variants x seeds.")
    model: str = Field(description="The model that generates the images.")
    prompts: int = Field(description="The number of prompts.")
    variants: int = Field(description="The number of variants.")
    seeds: int = Field(description="The number of seeds.")
    steps: int = Field(description="The number of denoising steps of all images together.")
    missing_tokens: list[str] = Field(
        description="The tokens that do not exist; empty if the job names more than "
        f"{MAX_TOKEN_LOOKUPS} tokens, because then none is looked up."
    )
    warnings: list[str] = Field(
        default=[], description="What of the request has no effect, or another than may be meant."
    )

"""Of what a client has said, a job of images as the ledger keeps it: each prompt with each variant
and each seed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError

from services.api.generation_jobs.schemas import GenerationJobRequest, VariantRequest
from services.api.images.request import inline_tokens, settled
from services.api.problems import refusal
from services.api.training_jobs.build import check_webhook
from services.contracts.generation import (
    GenerationJobSpec,
    ImageItem,
    ImageSpec,
    PromptSpec,
    TokenBinding,
)
from services.contracts.jobs import MAX_ITEMS, Item, JobRequest
from services.contracts.models import ServedModels, generation_pool
from services.ledger.ids import is_token_id
from services.settings import ApiSettings

_CAST, _PROMPT = 40, 30
"""Characters of an id that a variant's and a prompt's part have: ids are names of files, too."""

_END = 8
"""Characters of a token's id that tell it from others, mostly."""


@dataclass(frozen=True, slots=True)
class BuiltGenerationJob:
    """A job of images that could be submitted."""

    request: JobRequest
    model: str
    prompts: int
    variants: int
    seeds: int
    steps: int
    """Of each image."""


def compose(
    order: GenerationJobRequest, served_models: ServedModels, settings: ApiSettings
) -> BuiltGenerationJob:
    """Raises: RequestValidationError."""
    model = _model(order.model, served_models)
    if order.webhook:
        check_webhook(order.webhook.url, private=settings.allow_private_webhooks)
    variants, seeds = order.all_variants, order.all_seeds
    count = len(order.prompts) * len(variants) * len(seeds)
    if count > MAX_ITEMS:
        raise refusal(
            ("body", "prompts"),
            f"{len(order.prompts)} prompts x {len(variants)} variants x {len(seeds)} seeds are "
            f"{count} images, and a job has at most {MAX_ITEMS}: ask for them in parts",
        )
    common = _common(order)
    job = GenerationJobSpec(
        model=model,
        prompts=tuple(_telling(order, number) for number in range(len(order.prompts))),
        variants=tuple(_variant(order, number, variant) for number, variant in enumerate(variants)),
        common=common,
        webhook=order.webhook.url if order.webhook else None,
    )
    steps = ImageSpec.model_validate({**common, "prompt": "", "seed": 0}).steps
    try:
        request = JobRequest(
            kind="generation",
            pool=generation_pool(model),
            items=tuple(_items(order.prompts, variants, seeds)),
            shared=job.model_dump(mode="json"),
            tags=order.tags,
            max_attempts=order.max_attempts,
        )
    except ValidationError as error:
        raise refusal(("body", "prompts"), error.errors()[0]["msg"]) from error
    return BuiltGenerationJob(request, model, len(order.prompts), len(variants), len(seeds), steps)


def _model(name: str | None, served_models: ServedModels) -> str:
    if name is not None and name not in served_models:
        raise refusal(("body", "model"), f"no model {name!r}; there are {', '.join(served_models)}")
    return name or next(iter(served_models))


def _common(order: GenerationJobRequest) -> dict[str, JsonValue]:
    """Fields of `ImageSpec` that all have alike; those that were left out are the engine's."""
    width, height = order.sides or (None, None)
    given: dict[str, JsonValue] = {
        "steps": order.steps,
        "guidance": order.guidance,
        "width": width,
        "height": height,
        "negative_prompt": order.negative_prompt,
        "instruction": order.instruction,
        "deterministic": order.deterministic,
    }
    return {name: value for name, value in given.items() if value is not None}


def _telling(order: GenerationJobRequest, number: int) -> PromptSpec:
    prompt = order.prompts[number]
    text = f"{prompt} {order.negative_prompt}"
    return PromptSpec(prompt=prompt, tokens=inline_tokens(text, {}, ("body", "prompts", number)))


def _variant(order: GenerationJobRequest, number: int, variant: VariantRequest) -> TokenBinding:
    tokens, blends = settled(variant.tokens, variant.blends)
    try:
        return TokenBinding(tokens=tokens, blends=blends)
    except ValidationError as error:
        found = error.errors()[0]
        raise refusal(("body", "variants", number, *found["loc"]), found["msg"]) from error


def _items(
    prompts: Sequence[str], variants: Sequence[VariantRequest], seeds: Sequence[int]
) -> Sequence[Item]:
    """The images of a prompt follow each other, so that engines read it once."""
    said = [_plain(prompt, _PROMPT) for prompt in prompts]
    who = [_name(variant) for variant in variants]
    works = [
        ImageItem(prompt=prompt, variant=variant, seed=seed)
        for prompt in range(len(prompts))
        for variant in range(len(variants))
        for seed in seeds
    ]
    return [
        Item(
            name="-".join(
                filter(None, (f"{index:04d}", who[one.variant], said[one.prompt], str(one.seed)))
            ),
            work=one.model_dump(),
        )
        for index, one in enumerate(works)
    ]


def _name(variant: VariantRequest) -> str:
    if variant.name:
        return variant.name
    names = [*variant.tokens.values(), *variant.blends]
    return _plain("-".join(name[-_END:] if is_token_id(name) else name for name in names), _CAST)


def _plain(text: str, most: int) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:most].strip("-")

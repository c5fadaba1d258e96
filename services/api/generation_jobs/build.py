"""Builds the JobRequest of a generation job: one item per prompt, variant and seed."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError

from dti_engine.config import PLACEHOLDER
from dti_engine.domains import ModelDomain, domain_of
from dti_engine.text.prompt_check import (
    syntax_warnings,
    unmentioned,
    word_warnings,
    words_beyond,
)
from services.api import order_limits
from services.api.generation_jobs.schemas import GenerationJobRequest, VariantRequest
from services.api.images.request import (
    inline_tokens,
    refuse_foreign_syntax,
    resolve_blends,
)
from services.api.images.schemas import SlerpBlend
from services.api.jobs.schemas import shorten
from services.api.problems import invalid_request
from services.api.training_jobs.build import check_webhook, choose_model
from services.auth.tenants import Limits
from services.contracts.generation import (
    MAX_TOKENS,
    GenerationJobSpec,
    ImageItem,
    ImageSpec,
    PromptSpec,
    TokenBinding,
)
from services.contracts.jobs import MAX_ITEMS, JobItem, JobRequest
from services.contracts.models import ServedModels, generation_pool
from services.ledger.ids import is_token_id
from services.settings import ApiSettings

# <Rex> is found too: the engine refuses it, since as plain text it would mean something else.
_MENTION = re.compile(PLACEHOLDER.pattern, re.IGNORECASE)

_MAX_VARIANT_LENGTH, _MAX_PROMPT_LENGTH = 40, 30
"""The characters of a variant and a prompt in an item's id: ids become file names."""

_TOKEN_SUFFIX_LENGTH = 8
"""The last characters of a token's id, which usually tell it from others."""


@dataclass(frozen=True, slots=True)
class BuiltGenerationJob:
    """A valid generation job."""

    request: JobRequest
    model: str
    num_prompts: int
    num_variants: int
    num_seeds: int
    steps_per_image: int
    warnings: Sequence[str]
    """What the model will not read of the prompts and tokens as they may be meant."""


def build_generation_job(
    request: GenerationJobRequest,
    limits: Limits,
    served_models: ServedModels,
    settings: ApiSettings,
) -> BuiltGenerationJob:
    """Build a generation job of a tenant with these limits.

    Raises:
        RequestValidationError: The request is not valid.
    """
    model = choose_model(request.model, served_models)
    for number, prompt in enumerate(request.prompts):
        refuse_foreign_syntax(prompt, ("body", "prompts", number))
    refuse_foreign_syntax(request.negative_prompt, ("body", "negative_prompt"))
    if request.webhook:
        check_webhook(request.webhook.url, allow_private=settings.allow_private_webhooks)
    prompts, variants, seeds = request.prompts, request.all_variants, request.all_seeds
    count = len(prompts) * len(variants) * len(seeds)
    if count > MAX_ITEMS:
        raise invalid_request(
            ("body", "prompts"),
            f"{len(prompts)} prompts x {len(variants)} variants x {len(seeds)} seeds are {count} "
            f"images, and a job has at most {MAX_ITEMS}: submit several jobs",
        )
    common = _common_fields(request)
    steps = ImageSpec.model_validate({**common, "prompt": "", "seed": 0}).steps
    cost = order_limits.image_cost(
        model, served_models[model], request.width_and_height, steps, count
    )
    order_limits.check_tenant_limits(limits, cost, ("body", "prompts"))
    spec = GenerationJobSpec(
        model=model,
        prompts=tuple(_prompt_spec(number, prompt) for number, prompt in enumerate(prompts)),
        variants=tuple(_binding(number, variant) for number, variant in enumerate(variants)),
        common=common,
        negative_tokens=_inline_tokens(request.negative_prompt, ("body", "negative_prompt")),
        webhook=request.webhook.url if request.webhook else None,
    )
    _check_placeholders(spec, request.negative_prompt)
    try:
        job = JobRequest(
            kind="generation",
            pool=generation_pool(model),
            items=tuple(_items(prompts, variants, seeds)),
            shared=spec.model_dump(mode="json"),
            tags=request.tags,
            max_attempts=request.max_attempts,
        )
    except ValidationError as error:
        raise invalid_request(("body", "prompts"), error.errors()[0]["msg"]) from error
    order_limits.check_stored_bytes(limits, job, ("body", "prompts"))
    return BuiltGenerationJob(
        request=job,
        model=model,
        num_prompts=len(prompts),
        num_variants=len(variants),
        num_seeds=len(seeds),
        steps_per_image=steps,
        warnings=_warnings(request, domain_of(served_models[model].weights)),
    )


def _warnings(request: GenerationJobRequest, domain: ModelDomain | None) -> list[str]:
    """Return what is known without the model's weights of texts and tokens without effect."""
    vocabulary = domain.words if domain else ()
    texts = [*request.prompts, request.negative_prompt]
    placeholders = dict.fromkeys(
        placeholder
        for variant in request.all_variants
        for placeholder in (*variant.tokens, *variant.blends)
    )
    labels = [f"prompt {number}" for number in range(len(request.prompts))]
    found = [
        *unmentioned(texts, placeholders),
        *(
            warning
            for label, text in zip([*labels, "the negative prompt"], texts, strict=True)
            for warning in (
                *syntax_warnings(label, text),
                *word_warnings(label, words_beyond(text, vocabulary)),
            )
        ),
    ]
    return shorten(found)


def token_references(
    request: GenerationJobRequest,
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the names of tokens outside the prompts, each with its place in the request."""
    for number, name in enumerate(request.tokens or ()):
        yield ("body", "tokens", number), name
    for number, variant in enumerate(request.variants or ()):
        place = ("body", "variants", number)
        for placeholder, name in variant.tokens.items():
            yield (*place, "tokens", placeholder), name
        for placeholder, blend in variant.blends.items():
            names = (
                (blend.a, blend.b)
                if isinstance(blend, SlerpBlend)
                else tuple(part.token for part in blend)
            )
            for name in names:
                yield (*place, "blends", placeholder), name


def _common_fields(request: GenerationJobRequest) -> dict[str, JsonValue]:
    """Return the fields of `ImageSpec` that all images share; the engine decides omitted ones."""
    width, height = request.width_and_height or (None, None)
    fields: dict[str, JsonValue] = {
        "steps": request.steps,
        "guidance": request.guidance,
        "width": width,
        "height": height,
        "negative_prompt": request.negative_prompt,
        "instruction": request.instruction,
        "deterministic": request.deterministic,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _prompt_spec(number: int, prompt: str) -> PromptSpec:
    return PromptSpec(prompt=prompt, tokens=_inline_tokens(prompt, ("body", "prompts", number)))


def _inline_tokens(text: str, place: tuple[str | int, ...]) -> dict[str, str]:
    tokens = inline_tokens(text, {}, place)
    if len(tokens) > MAX_TOKENS:
        raise invalid_request(
            place, f"names {len(tokens)} tokens, and an image has at most {MAX_TOKENS}: name fewer"
        )
    return tokens


def _check_placeholders(spec: GenerationJobSpec, negative_prompt: str) -> None:
    """Refuse images that an engine would refuse later, which is known without a model."""
    negative = set(_MENTION.findall(negative_prompt))
    mentions = [set(_MENTION.findall(each.prompt)) for each in spec.prompts]
    for number, variant in enumerate(spec.variants):
        bound = {**spec.negative_tokens, **variant.tokens}
        _check_bound(negative, {*bound, *variant.blends}, number, ("body", "negative_prompt"))
        for index, prompt in enumerate(spec.prompts):
            place = ("body", "prompts", index)
            tokens = bound.keys() | prompt.tokens.keys()
            _check_bound(mentions[index], tokens | variant.blends.keys(), number, place)
            if len(tokens - variant.blends.keys()) > MAX_TOKENS:
                raise invalid_request(
                    place,
                    f"has {len(tokens)} tokens with variant {number} and the negative prompt, and "
                    f"an image has at most {MAX_TOKENS}: use fewer",
                )


def _check_bound(
    mentioned: set[str], bound: set[str], variant: int, place: tuple[str | int, ...]
) -> None:
    if unbound := sorted(mentioned - bound):
        names = ", ".join(sorted(bound)) or "none"
        raise invalid_request(
            place,
            f"uses {unbound[0]}, which stands for no token in variant {variant}, where there are: "
            f"{names[:200]}; bind it, or leave out < and >",
        )


def _binding(number: int, variant: VariantRequest) -> TokenBinding:
    tokens, blends = resolve_blends(variant.tokens, variant.blends)
    try:
        return TokenBinding(tokens=tokens, blends=blends)
    except ValidationError as error:
        first = error.errors()[0]
        place = ("body", "variants", number, *first["loc"])
        raise invalid_request(place, first["msg"]) from error


def _items(
    prompts: Sequence[str], variants: Sequence[VariantRequest], seeds: Sequence[int]
) -> Sequence[JobItem]:
    """Return the items, with the images of a prompt in a row so that engines encode it once."""
    # Once for each prompt and variant: a job has up to 10,000 images of them.
    prompt_slugs = [_slug(prompt, _MAX_PROMPT_LENGTH) for prompt in prompts]
    variant_slugs = [_variant_slug(variant) for variant in variants]
    images = [
        ImageItem(prompt=prompt, variant=variant, seed=seed)
        for prompt in range(len(prompts))
        for variant in range(len(variants))
        for seed in seeds
    ]
    return [
        JobItem(
            name="-".join(
                filter(
                    None,
                    (
                        f"{index:04d}",
                        variant_slugs[image.variant],
                        prompt_slugs[image.prompt],
                        str(image.seed),
                    ),
                )
            ),
            work=image.model_dump(),
        )
        for index, image in enumerate(images)
    ]


def _variant_slug(variant: VariantRequest) -> str:
    if variant.name:
        return variant.name
    names = [*variant.tokens.values(), *variant.blends]
    short = [name[-_TOKEN_SUFFIX_LENGTH:] if is_token_id(name) else name for name in names]
    return _slug("-".join(short), _MAX_VARIANT_LENGTH)


def _slug(text: str, max_length: int) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:max_length].strip("-")

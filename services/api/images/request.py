"""Builds the engine request of a request for images; everything left open is decided here."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dti_engine.config import PLACEHOLDER
from dti_engine.errors import TokenError
from dti_engine.text.prompt_check import require_plain
from services.api import order_limits
from services.api.images.schemas import Blend, ImageGenerationRequest, SlerpBlend, ignored_fields
from services.api.problems import invalid_request
from services.auth.authenticator import Principal
from services.contracts.generation import BlendPart, GenerateRequest, ImageSpec
from services.contracts.models import ServedModels, find_model
from services.errors import InvalidIdError
from services.ledger.ids import parse_token_id

_OPENAI_MODEL = re.compile(r"(dall-e|gpt-image|chatgpt-image)[a-z0-9.-]*")
"""Names that OpenAI's clients send and may not let their users change."""


@dataclass(frozen=True, slots=True)
class EngineCall:
    """A valid request to the engine of a model."""

    model: str
    request: GenerateRequest
    warnings: tuple[str, ...]


def build_engine_call(
    request: ImageGenerationRequest,
    principal: Principal,
    served_models: ServedModels,
    max_timeout_s: float,
) -> EngineCall:
    """Build the engine call of a request.

    max_timeout_s: also the timeout of a request that names none.

    Raises:
        UnknownModelError: The model is not offered.
        RequestValidationError: The request is not valid.
    """
    # A process that is told to end waits for its requests no longer than this.
    if request.timeout_s and request.timeout_s > max_timeout_s:
        raise invalid_request(
            ("body", "timeout_s"),
            f"is {request.timeout_s:g}, and the service allows at most {max_timeout_s:g} (its "
            "setting generation_timeout_s): give less, or leave it out",
        )
    model, warnings = _model(request.model, served_models)
    refuse_foreign_syntax(request.prompt, ("body", "prompt"))
    refuse_foreign_syntax(request.negative_prompt, ("body", "negative_prompt"))
    _check_cost(request, model, served_models, principal)
    fields = _image_fields(request)
    # Drawn here, so that the response can name it: the same request with this seed gives the same
    # image.
    first_seed = secrets.randbits(32) if request.seed is None else request.seed
    try:
        engine_request = GenerateRequest(
            tenant=principal.tenant,
            images=tuple(
                ImageSpec(**fields, seed=(first_seed + number) % 2**32)
                for number in range(request.n or 1)
            ),
            timeout_s=request.timeout_s or max_timeout_s,
            progress=bool(request.stream),
            previews=_preview_interval(request),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise invalid_request(("body", *first["loc"]), first["msg"]) from error
    return EngineCall(model, engine_request, (*warnings, *ignored_fields(request)))


def _check_cost(
    request: ImageGenerationRequest, name: str, served_models: ServedModels, principal: Principal
) -> None:
    """Raise RequestValidationError if the model or the tenant takes no such order."""
    steps: int = request.steps or ImageSpec.model_fields["steps"].default
    cost = order_limits.image_cost(
        name, served_models[name], request.width_and_height, steps, request.n or 1
    )
    order_limits.check_tenant_limits(principal.limits, cost, ("body",))


def _model(name: str | None, served_models: ServedModels) -> tuple[str, tuple[str, ...]]:
    """Return the name of an offered model, and warnings."""
    default = next(iter(served_models))
    if name is None:
        return default, ()
    # Many of OpenAI's clients have a fixed list of models. A name that only looks like a mistake is
    # still refused.
    if name not in served_models and _OPENAI_MODEL.fullmatch(name):
        return default, (f"there is no model {name} here: {default} was used",)
    find_model(name, served_models)
    return name, ()


def _image_fields(request: ImageGenerationRequest) -> dict[str, Any]:
    """Return the fields of each `ImageSpec` except the seed; omitted fields are left out."""
    tokens, blends = resolve_blends(request.tokens, request.blends)
    text = f"{request.prompt} {request.negative_prompt}"
    tokens = inline_tokens(text, blends, ("body", "prompt")) | tokens
    width, height = request.width_and_height or (None, None)
    optional = {
        "steps": request.steps,
        "guidance": request.guidance,
        "width": width,
        "height": height,
    }
    return {name: value for name, value in optional.items() if value is not None} | {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "instruction": request.instruction,
        "deterministic": request.deterministic,
        "tokens": tokens,
        "blends": blends,
    }


def refuse_foreign_syntax(text: str, place: Sequence[str | int]) -> None:
    """Refuse weights of words and other syntax of other programs, before anything is queued.

    Raises:
        RequestValidationError: The text has such syntax.
    """
    try:
        require_plain([text])
    except TokenError as error:
        raise invalid_request(place, str(error)) from error


def resolve_blends(
    tokens: Mapping[str, str], blends: Mapping[str, Blend]
) -> tuple[dict[str, str], dict[str, tuple[BlendPart, ...]]]:
    """Return tokens and blends in the engine's form; a blend at t = 0 or 1 is a plain token."""
    plain, blended = dict(tokens), dict[str, tuple[BlendPart, ...]]()
    for placeholder, blend in blends.items():
        if not isinstance(blend, SlerpBlend):
            blended[placeholder] = blend
        # At an end the blend is the token itself, bit for bit, and costs no entry in the engine's
        # cache.
        elif blend.t in (0, 1):
            plain[placeholder] = blend.b if blend.t else blend.a
        else:
            blended[placeholder] = (
                BlendPart(token=blend.a, weight=1 - blend.t),
                BlendPart(token=blend.b, weight=blend.t),
            )
    return plain, blended


def inline_tokens(
    text: str, assigned: Mapping[str, Any], place: Sequence[str | int]
) -> dict[str, str]:
    """Return the tokens that a prompt names by their own ids, such as `<tok_...>`.

    Args:
        text: The prompt.
        assigned: Placeholders that stand for something else.
        place: The place of the prompt in the request, for errors.

    Raises:
        RequestValidationError: An id is malformed.
    """
    tokens: dict[str, str] = {}
    for placeholder in PLACEHOLDER.findall(text):
        name = placeholder[1:-1]
        if name.startswith("tok_") and placeholder not in assigned:
            try:
                parse_token_id(name)
            except InvalidIdError as error:
                raise invalid_request(place, str(error)) from error
            tokens[placeholder] = name
    return tokens


def _preview_interval(request: ImageGenerationRequest) -> int:
    """Return the steps between two previews, rounded up so that there are not too many."""
    if not (request.stream and request.partial_images):
        return 0
    steps: int = request.steps or ImageSpec.model_fields["steps"].default
    return -(-steps // (request.partial_images + 1))

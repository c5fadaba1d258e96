"""Of what a client has said, the request that an engine gets: all that was left open is settled."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dti_engine.config import PLACEHOLDER
from services.api.images.schemas import Blend, ImageGenerationRequest, SlerpBlend, meaningless
from services.api.problems import refusal
from services.contracts.generation import BlendPart, GenerateRequest, ImageSpec
from services.contracts.models import ServedModels, find_model
from services.errors import InvalidIdError
from services.ledger.ids import parse_token_id

_OPENAI = re.compile(r"(dall-e|gpt-image|chatgpt-image)[a-z0-9.-]*")
"""Names that programs have from elsewhere, and may not let be changed."""


@dataclass(frozen=True, slots=True)
class EngineCall:
    """Images that can be asked for."""

    model: str
    wanted: GenerateRequest
    warnings: tuple[str, ...]


def commission(
    order: ImageGenerationRequest, tenant: str, served_models: ServedModels, seconds: float
) -> EngineCall:
    """seconds: that images may take where the order does not say.

    Raises: UnknownModelError, RequestValidationError.
    """
    model, warnings = _model(order.model, served_models)
    given = _given(order)
    first = secrets.randbits(32) if order.seed is None else order.seed
    try:
        wanted = GenerateRequest(
            tenant=tenant,
            images=tuple(
                ImageSpec(**given, seed=(first + number) % 2**32) for number in range(order.n or 1)
            ),
            timeout_s=order.seconds or seconds,
            progress=bool(order.stream),
            previews=_previews(order),
        )
    except ValidationError as error:
        found = error.errors()[0]
        raise refusal(("body", *found["loc"]), found["msg"]) from error
    return EngineCall(model, wanted, (*warnings, *meaningless(order)))


def _model(name: str | None, served_models: ServedModels) -> tuple[str, tuple[str, ...]]:
    """A name that is offered, and warnings."""
    first = next(iter(served_models))
    if name is None:
        return first, ()
    if name not in served_models and _OPENAI.fullmatch(name):
        return first, (f"there is no model {name} here: {first} has generated",)
    find_model(name, served_models)
    return name, ()


def _given(order: ImageGenerationRequest) -> dict[str, Any]:
    """Of each image, but for its seed; what was left out is not in it."""
    tokens, blends = settled(order.tokens, order.blends)
    text = f"{order.prompt} {order.negative_prompt}"
    tokens = inline_tokens(text, blends, ("body", "prompt")) | tokens
    width, height = order.sides or (None, None)
    given = {"steps": order.steps, "guidance": order.guidance, "width": width, "height": height}
    return {name: value for name, value in given.items() if value is not None} | {
        "prompt": order.prompt,
        "negative_prompt": order.negative_prompt,
        "instruction": order.instruction,
        "deterministic": order.deterministic,
        "tokens": tokens,
        "blends": blends,
    }


def settled(
    tokens: Mapping[str, str], blends: Mapping[str, Blend]
) -> tuple[dict[str, str], dict[str, tuple[BlendPart, ...]]]:
    """As engines are told of them: a blend at one of its ends is a token."""
    alone, mixed = dict(tokens), dict[str, tuple[BlendPart, ...]]()
    for placeholder, blend in blends.items():
        if not isinstance(blend, SlerpBlend):
            mixed[placeholder] = blend
        elif blend.t in (0, 1):
            alone[placeholder] = blend.b if blend.t else blend.a
        else:
            mixed[placeholder] = (
                BlendPart(token=blend.a, weight=1 - blend.t),
                BlendPart(token=blend.b, weight=blend.t),
            )
    return alone, mixed


def inline_tokens(
    text: str, taken: Mapping[str, Any], place: Sequence[str | int]
) -> dict[str, str]:
    """Tokens that stand in a prompt by their own ids, but for what is `taken` for something else.
    place: of the prompt in the request.

    Raises: RequestValidationError.
    """
    found: dict[str, str] = {}
    for placeholder in PLACEHOLDER.findall(text):
        name = placeholder[1:-1]
        if name.startswith("tok_") and placeholder not in taken:
            try:
                parse_token_id(name)
            except InvalidIdError as error:
                raise refusal(place, str(error)) from error
            found[placeholder] = name
    return found


def _previews(order: ImageGenerationRequest) -> int:
    """Every how many steps, so that there are no more than were asked for before the last one."""
    if not (order.stream and order.partial_images):
        return 0
    steps: int = order.steps or ImageSpec.model_fields["steps"].default
    return -(-steps // (order.partial_images + 1))

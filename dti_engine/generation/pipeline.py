"""The generation pipeline: prompts and learned tokens to images, in batches across subjects.

A blend is a `LearnedToken` like any other (`tokens.slerp_tokens`, `tokens.mean_tokens`).

An image depends on its request, the number of steps and the size. Which requests share its batch,
and in what order, changes nothing; their number, and how many are guided, change the shape of the
batch, and so rounding only.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from dti_engine import __version__, devices
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import (
    ConfigurationError,
    DTIError,
    GenerationFailedError,
)
from dti_engine.generation.denoiser import Denoiser, ImageRequest, begin, decode, to_image
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.generation.scheduler import LinearScheduler
from dti_engine.text.prompt_check import require_plain, text_warnings
from dti_engine.text.prompts import bind

__all__ = [
    "ImageRequest",
    "generate",
    "image_settings",
    "request_warnings",
    "require_generation",
]

_MAX_STEPS = 999  # models are trained at 1000; some schedulers leave out the first
_NUM_SEEDS = 2**32  # torch's CPU generator ignores higher bits


def generate(
    backbone: Backbone,
    requests: Sequence[ImageRequest],
    *,
    steps: int = 25,
    batch_size: int = 8,
    height: int | None = None,
    width: int | None = None,
    prompt_cache: PromptCache | None = None,
    on_image: Callable[[int, Image.Image], None] = lambda index, image: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Image.Image]:
    """Return one image per request, in order; height and width in pixels, None: the model's own.

    prompt_cache: keeps encoded prompts between calls; None: only between the batches of this call.

    on_image gets the index and the image as soon as its batch is done; on_step the number of
    denoising steps done and in total, over all batches.

    Raises:
        ConfigurationError: Size, steps, batch size or a request is invalid; nothing was computed.
        TokenError: A request's prompt is invalid; nothing was computed.
        ArtifactMismatchError: A request's token does not fit the model; nothing was computed.
        GenerationFailedError: The model overflows, or memory runs out.
    """
    if not 1 <= steps <= _MAX_STEPS or batch_size < 1:
        raise ConfigurationError(
            f"steps must lie in 1 .. {_MAX_STEPS} and batch_size must be at least 1, "
            f"got {steps} and {batch_size}"
        )
    height = backbone.image_size if height is None else height
    width = backbone.image_size if width is None else width
    backbone.latent_shape(height, width)  # raises for a size that does not fit
    _require_all(requests, backbone)
    prompt_cache = PromptCache(backbone) if prompt_cache is None else prompt_cache
    scheduler = LinearScheduler.of(backbone.new_scheduler(), steps)
    denoiser = Denoiser(backbone)
    done = itertools.count(1)
    images: list[Image.Image] = []
    try:
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            # All images of this call have one number of steps, so whole batches go through
            # together. A service, whose requests differ, lets images join and leave (`Denoiser`).
            states = begin(backbone, prompt_cache, batch, scheduler, (height, width))
            for _ in range(steps):
                denoiser.step(states)
                on_step(next(done), steps * -(-len(requests) // batch_size))
            for pixels in decode(backbone, states):
                images.append(_finish(pixels, len(images)))
                on_image(len(images) - 1, images[-1])
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        raise GenerationFailedError(
            f"memory ran out with {min(batch_size, len(requests))} images of {height} x {width} "
            "at once; give a smaller batch size, or smaller images"
        ) from error
    return images


def _require_all(requests: Sequence[ImageRequest], backbone: Backbone) -> None:
    """Check every request before the first one is generated; the error names its index."""
    for index, request in enumerate(requests):
        try:
            require_generation(request, backbone)
        except DTIError as error:
            raise type(error)(f"request {index}: {error}") from error


def _finish(pixels: Tensor, index: int) -> Image.Image:
    try:
        return to_image(pixels)
    except GenerationFailedError as error:
        raise GenerationFailedError(f"request {index}: {error}") from error


def require_generation(request: ImageRequest, backbone: Backbone) -> None:
    """Check a request without running the model; tokenizing the prompts is cheap.

    Raises:
        ConfigurationError: Seed or guidance is out of range.
        TokenError: As `prompts.bind` and `prompt_check.require_plain`.
        ArtifactMismatchError: As `prompts.bind`.
    """
    if not 0 <= request.seed < _NUM_SEEDS:
        raise ConfigurationError(f"seed must lie in 0 .. {_NUM_SEEDS - 1}, got {request.seed}")
    if not (math.isfinite(request.guidance) and request.guidance >= 1):
        raise ConfigurationError(f"guidance must be finite and >= 1, got {request.guidance}")
    prompts = [request.prompt, request.negative_prompt]
    require_plain(prompts)
    instructions = [request.instruction, False]
    bind(prompts, [request.tokens] * len(prompts), backbone.text_encoders, instructions)


def request_warnings(request: ImageRequest, backbone: Backbone) -> list[str]:
    """Return what the model does not read of a valid request's texts, as `text_warnings` does."""
    vectors = {name: token.vector_counts() for name, token in request.tokens.items()}
    texts = {"the prompt": request.prompt, "the negative prompt": request.negative_prompt}
    return [
        warning
        for label, text in texts.items()
        for warning in text_warnings(label, text, vectors, backbone.text_encoders)
    ]


def image_settings(
    request: ImageRequest, backbone: Backbone, *, steps: int, tokens: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings that reproduce an image; tokens: placeholder -> `Artifact.origin`."""
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "guidance": request.guidance,
        "instruction": request.instruction,
        "steps": steps,
        "sampler": backbone.sampler,
        "tokens": dict(tokens),
        "model": backbone.name,
        "model_fingerprint": backbone.fingerprint,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "engine_version": __version__,
    }

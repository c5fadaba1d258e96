"""Prompts and learned tokens to pictures, many in one batch, whoever's tokens they are.

A blend is a `LearnedToken` like any other, made by `blends.slerp_tokens` or `blends.mean_tokens`.

What a picture depends on: its request, the number of steps and the size. Which requests share its
batch, and in what order, changes nothing; how many there are, and whether any is guided, changes
the batch's shape, and so rounding only.
"""

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from dti_engine import __version__, memory
from dti_engine.backbones.interface import Backbone
from dti_engine.conditioning import PromptReader, Wording
from dti_engine.errors import (
    ArtifactFormatError,
    ConfigurationError,
    DTIError,
    OutputError,
    PaintingFailedError,
)
from dti_engine.prompts import bind
from dti_engine.tokens import LearnedToken
from dti_engine.views import Framing

# An autoencoder needs far more memory per pixel than a denoiser, and gains nothing by many.
_MAX_DECODED_PX = 4 * 1024**2
_MAX_STEPS = 999  # of the 1000 that models are trained at; some schedulers leave out the first
_NUM_SEEDS = 2**32  # torch's CPU generator ignores higher bits
_SETTINGS = "dti"  # the text chunk of a saved picture


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """One picture: a prompt, and the tokens that its placeholders stand for.

    A seed draws the same noise on every device. guidance 1 means none, and the negative prompt then
    has no effect. instruction: whether a model that has one puts its own instruction before the
    prompt, as its authors do; the negative prompt never has it.
    """

    prompt: str
    seed: int
    tokens: Mapping[str, LearnedToken] = field(default_factory=dict[str, LearnedToken])
    negative_prompt: str = ""
    guidance: float = 5.0
    instruction: bool = True


def generate(
    backbone: Backbone,
    requests: Sequence[ImageRequest],
    *,
    steps: int = 25,
    batch_size: int = 8,
    height: int | None = None,
    width: int | None = None,
    reader: PromptReader | None = None,
    on_image: Callable[[int, Image.Image], None] = lambda index, image: None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[Image.Image]:
    """One picture per request, in their order; height and width in pixels, the model's own if None.

    A reader of this backbone remembers prompts from call to call; None: from batch to batch.

    on_image gets the index and the picture as soon as its batch is done; on_step the number of
    denoising steps done and to do, over all batches.

    Raises: ConfigurationError, TokenError or ArtifactMismatchError, with its index, for the first
        bad request, before anything is computed; ConfigurationError for size, steps, batch_size;
        PaintingFailedError if the model overflows, or memory runs out.
    """
    if not 1 <= steps <= _MAX_STEPS or batch_size < 1:
        raise ConfigurationError(
            f"steps must lie in 1 .. {_MAX_STEPS} and batch_size must be at least 1, "
            f"got {steps} and {batch_size}"
        )
    height = backbone.image_size if height is None else height
    width = backbone.image_size if width is None else width
    backbone.latent_shape(height, width)  # refuses a size that does not fit
    for index, request in enumerate(requests):
        _require_valid(request, index, backbone)
    reader = PromptReader(backbone) if reader is None else reader
    batches = [requests[i : i + batch_size] for i in range(0, len(requests), batch_size)]
    done = itertools.count(1)
    images: list[Image.Image] = []
    try:
        for batch in batches:
            latents = _sample(
                backbone,
                reader,
                batch,
                (height, width),
                steps,
                lambda: on_step(next(done), steps * len(batches)),
            )
            for part in latents.split(max(1, _MAX_DECODED_PX // (height * width))):
                for pixels in backbone.decode_latents(part):
                    images.append(_to_image(pixels, len(images)))
                    on_image(len(images) - 1, images[-1])
    except (RuntimeError, MemoryError) as error:
        if not memory.has_run_out(error):
            raise
        raise PaintingFailedError(
            f"memory ran out with {min(batch_size, len(requests))} pictures of {height} x {width} "
            "at once; give a smaller batch size, or smaller pictures"
        ) from error
    return images


@torch.inference_mode()
def _sample(
    backbone: Backbone,
    reader: PromptReader,
    batch: Sequence[ImageRequest],
    size: tuple[int, int],
    steps: int,
    on_step: Callable[[], None],
) -> Tensor:
    """Latents (B, C, h, w) of one batch; every sample is guided with its own strength.

    size: height and width in pixels.

    Source: classifier-free guidance, Ho and Salimans 2022, eq. 6 with w = guidance - 1.
    """
    wordings = [Wording.of(r.prompt, r.tokens, instruction=r.instruction) for r in batch]
    if any(request.guidance != 1 for request in batch):
        wordings += [Wording.of(request.negative_prompt, request.tokens) for request in batch]
    copies = len(wordings) // len(batch)
    framing = torch.tensor([Framing.whole(*size)] * len(wordings), dtype=torch.float32)
    conditioning = replace(reader.read(wordings), framing=framing.to(backbone.device))
    guidance = torch.tensor([[[[float(request.guidance)]]] for request in batch]).to(
        backbone.device
    )
    scheduler = backbone.new_scheduler()
    scheduler.set_timesteps(steps, device=backbone.device)
    shape = backbone.latent_shape(*size)
    noise = torch.stack([_noise(shape, request.seed) for request in batch])
    latents = noise.to(backbone.device) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, t).repeat(copies, 1, 1, 1)
        output = backbone.denoise(noisy, t.expand(len(noisy)), conditioning)
        # One copy is its own opposite; `lerp` gives exactly `prompted` where guidance is 1.
        prompted, opposed = output[: len(batch)], output[-len(batch) :]
        output = torch.lerp(opposed, prompted, guidance)
        latents = scheduler.step(output, t, latents, return_dict=False)[0]
        on_step()
    return latents


def _noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Drawn on the CPU and for one picture alone, so that neither device nor neighbours matter."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _to_image(pixels: Tensor, index: int) -> Image.Image:
    """(3, H, W) in [-1, 1], clipped to it. Raises: PaintingFailedError if they are not finite."""
    if not bool(pixels.isfinite().all()):
        raise PaintingFailedError(
            f"request {index}: the model made no picture but NaN or infinity; run it in float32 or "
            "bfloat16, since float16 overflows in some autoencoders"
        )
    levels = ((pixels + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def _require_valid(request: ImageRequest, index: int, backbone: Backbone) -> None:
    """Refuse now what would fail later. Spelling the prompts is cheap: no model runs."""
    try:
        if not 0 <= request.seed < _NUM_SEEDS:
            raise ConfigurationError(f"seed must lie in 0 .. {_NUM_SEEDS - 1}, got {request.seed}")
        if not (math.isfinite(request.guidance) and request.guidance >= 1):
            raise ConfigurationError(f"guidance must be finite and >= 1, got {request.guidance}")
        prompts = [request.prompt, request.negative_prompt]
        instructions = [request.instruction, False]
        bind(prompts, [request.tokens] * len(prompts), backbone.text_encoders, instructions)
    except DTIError as error:
        raise type(error)(f"request {index}: {error}") from error


def picture_settings(
    request: ImageRequest, backbone: Backbone, *, steps: int, tokens: Mapping[str, Any]
) -> dict[str, Any]:
    """What it takes to paint a picture again; tokens: placeholder -> `Artifact.origin` of each."""
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "guidance": request.guidance,
        "instruction": request.instruction,
        "steps": steps,
        "tokens": dict(tokens),
        "backbone": backbone.name,
        "backbone_fingerprint": backbone.fingerprint,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "engine_version": __version__,
    }


def save_picture(image: Image.Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Write a PNG that carries its settings as JSON, so that a picture says how it was made.

    Raises: OutputError if it cannot be written.
    """
    chunks = PngInfo()
    chunks.add_text(_SETTINGS, json.dumps(settings))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG", pnginfo=chunks)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `save_picture` wrote. Raises: ArtifactFormatError if there are none."""
    try:
        with Image.open(path) as image:
            return json.loads(image.info[_SETTINGS])
    except (OSError, KeyError, ValueError) as cause:
        raise ArtifactFormatError(
            f"{path} holds no settings; give a PNG file as the engine wrote it, not edited since"
        ) from cause

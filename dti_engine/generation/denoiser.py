"""Images in the making: each at a step of its own, any of them in one call of the model.

So an image can join others that are under way and leave them when it is done. What it becomes
depends on its request, its steps and its size alone; which others are in a call, and where each of
them is, changes nothing. How many they are changes the shape of the call, and so rounding only.

Shapes: B images, M >= B rows of a call (one for each image, and one more for each that is
guided), C x h x w latents.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.errors import GenerationFailedError
from dti_engine.generation.prompt_cache import PromptCache, PromptKey, join
from dti_engine.generation.scheduler import LinearScheduler
from dti_engine.images.crops import MicroConditioning
from dti_engine.text.tokens import LearnedToken

_PREVIEW_CELLS = 32  # latents of a preview's longer side, at most
_PREVIEW_PX = 256

# An autoencoder needs far more memory per pixel than a denoiser, and gains nothing by many.
_MAX_DECODED_PX = 4 * 1024**2


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """One image: a prompt, and the tokens that its placeholders stand for.

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

    @property
    def guided(self) -> bool:
        return self.guidance != 1


@dataclass(eq=False)
class DenoisingState:
    """One image in the making."""

    request: ImageRequest
    sampler: LinearScheduler
    size: tuple[int, int]
    """Height and width in pixels."""
    latents: Tensor
    """(C, h, w) fp32."""
    prompted: Conditioning
    opposed: Conditioning | None
    """Of the negative prompt; None: not guided. Both are batches of one."""
    done: int = 0
    """Steps."""

    @property
    def finished(self) -> bool:
        return self.done == len(self.sampler)


@torch.inference_mode()
def begin(
    backbone: Backbone,
    reader: PromptCache,
    requests: Sequence[ImageRequest],
    sampler: LinearScheduler,
    size: tuple[int, int],
) -> list[DenoisingState]:
    """Read the prompts and draw the noise. size: height and width in pixels.

    Raises: as `prompts.bind`; ConfigurationError for the size.
    """
    guided = [request for request in requests if request.guided]
    wordings = [PromptKey.of(r.prompt, r.tokens, instruction=r.instruction) for r in requests]
    wordings += [PromptKey.of(request.negative_prompt, request.tokens) for request in guided]
    micro_conditioning = torch.tensor(
        [MicroConditioning.whole(*size)], dtype=torch.float32, device=backbone.device
    )
    read = [
        replace(each, micro_conditioning=micro_conditioning) for each in reader.read_each(wordings)
    ]
    opposed = dict(zip(guided, read[len(requests) :], strict=True))
    shape = backbone.latent_shape(*size)
    return [
        DenoisingState(
            request,
            sampler,
            size,
            _noise(shape, request.seed).to(backbone.device) * sampler.spread,
            prompted,
            opposed.get(request),
        )
        for request, prompted in zip(requests, read[: len(requests)], strict=True)
    ]


def _noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Drawn on the CPU and for one image alone, so that neither device nor neighbours matter."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a step has seen and heard, from which it can be told what an image will look like."""

    backbone: Backbone
    noisy: Tensor
    output: Tensor
    times: Tensor

    def latents(self, rows: Sequence[int]) -> Tensor:
        """(len(rows), C, h, w): where those images seem to be heading."""
        index = torch.tensor(list(rows), device=self.noisy.device)
        noisy, output, times = (each[index] for each in (self.noisy, self.output, self.times))
        return self.backbone.objective.latents(noisy, output, times)


@dataclass(frozen=True, eq=False)
class _Call:
    """Which images are in a call, and how they lie in its rows: (M,) and (B,) indices."""

    batch: tuple[DenoisingState, ...]
    conditioning: Conditioning
    image: Tensor
    opposed: Tensor
    guidance: Tensor


class Denoiser:
    """Takes images of one size a step further, all in one call of the model."""

    def __init__(self, backbone: Backbone, shapes: Sequence[int] = ()) -> None:
        """shapes: how many rows a call may have, rising: one of fewer gets rows that are thrown
        away. For models that are compiled, which is done for each shape; () allows any.
        """
        self._backbone = backbone
        self._shapes = shapes
        self._call: _Call | None = None

    @torch.inference_mode()
    def step(self, batch: Sequence[DenoisingState]) -> Prediction:
        """One step of each. Nothing of them has changed if it raises.

        Source: classifier-free guidance, Ho and Salimans 2022, eq. 6 with w = guidance - 1.
        """
        call = self._prepare(tuple(batch))
        moves = [each.sampler.moves[each.done] for each in batch]
        device = self._backbone.device
        numbers = torch.tensor([move[1:] for move in moves], dtype=torch.float32).to(device)
        scale, keep, add = numbers[:, :, None, None, None].unbind(dim=1)
        times = batch[0].sampler.times(moves).to(device)
        latents = torch.stack([each.latents for each in batch])
        noisy = scale * latents
        output = self._backbone.denoise(noisy[call.image], times[call.image], call.conditioning)
        # Whoever is not guided is their own opposite; `lerp` gives exactly `prompted` there.
        output = torch.lerp(output[call.opposed], output[: len(batch)], call.guidance)
        for each, moved in zip(batch, (keep * latents + add * output).unbind(), strict=True):
            each.latents = moved
            each.done += 1
        return Prediction(self._backbone, noisy, output, times)

    def _prepare(self, batch: tuple[DenoisingState, ...]) -> _Call:
        """The same as last time while nobody joins or leaves."""
        if self._call is None or self._call.batch != batch:
            self._call = _lay_out(batch, self._backbone.device, self._shapes)
        return self._call


def _lay_out(
    batch: tuple[DenoisingState, ...], device: torch.device, shapes: Sequence[int]
) -> _Call:
    guided = [i for i, each in enumerate(batch) if each.opposed]
    image_rows = [*range(len(batch)), *guided]
    parts = [each.prompted for each in batch] + [each.opposed for each in batch if each.opposed]
    spare = next((shape for shape in shapes if shape >= len(parts)), len(parts)) - len(parts)
    opposed = list(range(len(batch)))
    for row, i in enumerate(guided, len(batch)):
        opposed[i] = row
    return _Call(
        batch,
        join([*parts, *parts[:1] * spare]),
        torch.tensor([*image_rows, *image_rows[:1] * spare], device=device),
        torch.tensor(opposed, device=device),
        torch.tensor([[[[float(each.request.guidance)]]] for each in batch]).to(device),
    )


@torch.inference_mode()
def decode(backbone: Backbone, batch: Sequence[DenoisingState]) -> Iterator[Tensor]:
    """Pixels (3, H, W) in [-1, 1] of each, all of one size, decoded a few at a time."""
    if batch:
        height, width = batch[0].size
        at_once = max(1, _MAX_DECODED_PX // (height * width))
        for start in range(0, len(batch), at_once):
            latents = torch.stack([each.latents for each in batch[start : start + at_once]])
            yield from backbone.decode_latents(latents)


@torch.inference_mode()
def preview(prediction: Prediction, rows: Sequence[int]) -> list[Image.Image]:
    """Small rough images of where those are heading: latents are averaged over squares of at
    least 2 x 2, so that decoding costs a quarter at most. Raises: GenerationFailedError.
    """
    latents = prediction.latents(rows)
    square = max(2, max(latents.shape[-2:]) // _PREVIEW_CELLS)
    coarse = functional.avg_pool2d(latents, square, ceil_mode=True)
    images = [to_image(pixels) for pixels in prediction.backbone.decode_latents(coarse)]
    for image in images:
        image.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
    return images


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1], clipped to it. Raises: GenerationFailedError if they are not finite."""
    if not bool(pixels.isfinite().all()):
        raise GenerationFailedError(
            "the model made no image but NaN or infinity; run it in float32 or bfloat16, since "
            "float16 overflows in some autoencoders"
        )
    levels = ((pixels + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())

"""Denoising for continuous batching: each image at its own step, all in one call of the model.

An image can therefore join a running batch and leave it when it is finished. The result depends on
its request, number of steps and size alone; which other images share a call, and their steps,
change nothing. Their number changes the shape of the call, and so rounding only.

Shapes: B images, M >= B rows of a call (one per image, and one more per guided image),
C x h x w latents.
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

_PREVIEW_CELLS = 32  # latents along a preview's longer side, at most
_PREVIEW_PX = 256

# Of one decoder call: it needs far more memory per pixel than a denoiser, and batches gain nothing.
_MAX_DECODED_PX = 4 * 1024**2


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """A request for one image: a prompt, and the tokens bound to its placeholders.

    A seed draws the same noise on every device. guidance 1 means no guidance, and the negative
    prompt then has no effect. instruction: whether a model that has an instruction of its own puts
    it before the prompt, as its authors do; the negative prompt never gets it.
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
    """The state of one image between denoising steps."""

    request: ImageRequest
    scheduler: LinearScheduler
    size: tuple[int, int]
    """Height and width in pixels."""
    latents: Tensor
    """(C, h, w) fp32."""
    conditioning: Conditioning
    negative: Conditioning | None
    """Of the negative prompt; None: not guided. Both are batches of one."""
    steps_done: int = 0

    @property
    def finished(self) -> bool:
        return self.steps_done == len(self.scheduler)


@torch.inference_mode()
def begin(
    backbone: Backbone,
    prompt_cache: PromptCache,
    requests: Sequence[ImageRequest],
    scheduler: LinearScheduler,
    size: tuple[int, int],
) -> list[DenoisingState]:
    """Encode the prompts and draw the initial noise. size: height and width in pixels.

    Raises:
        TokenError: As `prompts.bind`.
        ArtifactMismatchError: As `prompts.bind`.
        ConfigurationError: The size does not fit the model.
    """
    guided = [request for request in requests if request.guided]
    keys = [PromptKey.of(r.prompt, r.tokens, instruction=r.instruction) for r in requests]
    # In the same call as the prompts: a negative prompt that many requests share, mostly the empty
    # one, is encoded once.
    keys += [PromptKey.of(request.negative_prompt, request.tokens) for request in guided]
    micro_conditioning = torch.tensor(
        [MicroConditioning.whole(*size)], dtype=torch.float32, device=backbone.device
    )
    encoded = [
        replace(each, micro_conditioning=micro_conditioning)
        for each in prompt_cache.encode_each(keys)
    ]
    # Requests compare by identity, so two with equal content keep an entry each.
    negative = dict(zip(guided, encoded[len(requests) :], strict=True))
    shape = backbone.latent_shape(*size)
    return [
        DenoisingState(
            request,
            scheduler,
            size,
            _noise(shape, request.seed).to(backbone.device) * scheduler.initial_sigma,
            conditioning,
            negative.get(request),
        )
        for request, conditioning in zip(requests, encoded[: len(requests)], strict=True)
    ]


def _noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    """Draw noise on the CPU, for one image alone, so that device and neighbours change nothing."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, eq=False)
class Prediction:
    """The inputs and outputs of one step, from which the final images can be predicted."""

    backbone: Backbone
    noisy: Tensor
    output: Tensor
    times: Tensor

    def latents(self, rows: Sequence[int]) -> Tensor:
        """Return the predicted final latents of some images of the batch, (len(rows), C, h, w)."""
        index = torch.tensor(list(rows), device=self.noisy.device)
        noisy, output, times = (each[index] for each in (self.noisy, self.output, self.times))
        return self.backbone.objective.latents(noisy, output, times)


@dataclass(frozen=True, eq=False)
class _CallLayout:
    """The layout of a batch in the rows of a call.

    image: (M,) index of each row's image. negative: (B,) row of each image's negative prompt.
    """

    batch: tuple[DenoisingState, ...]
    conditioning: Conditioning
    image: Tensor
    negative: Tensor
    guidance: Tensor


class Denoiser:
    """Takes images of one size one step further, all in one call of the model."""

    def __init__(self, backbone: Backbone, shapes: Sequence[int] = ()) -> None:
        """Create a denoiser whose calls have only the numbers of rows in `shapes`, ascending.

        A smaller call is padded with rows that are discarded. This is for compiled models, which
        compile once per shape; () allows any number.
        """
        self._backbone = backbone
        self._shapes = shapes
        self._layout: _CallLayout | None = None

    @torch.inference_mode()
    def step(self, batch: Sequence[DenoisingState]) -> Prediction:
        """Take one step of each image; if it raises, no image has changed.

        Source: classifier-free guidance, Ho and Salimans 2022, eq. 6 with w = guidance - 1.
        """
        layout = self._layout_of(tuple(batch))
        steps = [each.scheduler.steps[each.steps_done] for each in batch]
        device = self._backbone.device
        # One small tensor for all images, and so one copy to the device per step.
        coefficients = torch.tensor([step[1:] for step in steps], dtype=torch.float32).to(device)
        scale, keep, add = coefficients[:, :, None, None, None].unbind(dim=1)
        # Images may have different schedulers, but those of one model agree on the dtype of times.
        times = batch[0].scheduler.times(steps).to(device)
        latents = torch.stack([each.latents for each in batch])
        noisy = scale * latents
        output = self._backbone.denoise(
            noisy[layout.image], times[layout.image], layout.conditioning
        )
        # The negative row of an unguided image is its own row, and there `lerp` returns exactly the
        # conditional output, bit for bit.
        output = torch.lerp(output[layout.negative], output[: len(batch)], layout.guidance)
        # Nothing has changed so far, so a caller may repeat the call with fewer images if memory
        # ran out above.
        for each, updated in zip(batch, (keep * latents + add * output).unbind(), strict=True):
            each.latents = updated
            each.steps_done += 1
        return Prediction(self._backbone, noisy, output, times)

    def _layout_of(self, batch: tuple[DenoisingState, ...]) -> _CallLayout:
        """Return the layout of a batch, cached while no image joins or leaves."""
        # States compare by identity, so an equal tuple means the same images in the same order.
        if self._layout is None or self._layout.batch != batch:
            self._layout = _lay_out(batch, self._backbone.device, self._shapes)
        return self._layout


def _lay_out(
    batch: tuple[DenoisingState, ...], device: torch.device, shapes: Sequence[int]
) -> _CallLayout:
    guided = [i for i, each in enumerate(batch) if each.negative]
    image_rows = [*range(len(batch)), *guided]
    parts = [each.conditioning for each in batch] + [
        each.negative for each in batch if each.negative
    ]
    num_padding = next((shape for shape in shapes if shape >= len(parts)), len(parts)) - len(parts)
    negative = list(range(len(batch)))
    for row, i in enumerate(guided, len(batch)):
        negative[i] = row
    return _CallLayout(
        batch,
        # Padding repeats the first row, a valid input whose output is dropped; zeros might not be
        # one.
        join([*parts, *parts[:1] * num_padding]),
        torch.tensor([*image_rows, *image_rows[:1] * num_padding], device=device),
        torch.tensor(negative, device=device),
        torch.tensor([[[[float(each.request.guidance)]]] for each in batch]).to(device),
    )


@torch.inference_mode()
def decode(backbone: Backbone, batch: Sequence[DenoisingState]) -> Iterator[Tensor]:
    """Yield pixels (3, H, W) in [-1, 1] of each image, all of one size, decoded a few at a time."""
    if batch:
        height, width = batch[0].size
        at_once = max(1, _MAX_DECODED_PX // (height * width))
        for start in range(0, len(batch), at_once):
            latents = torch.stack([each.latents for each in batch[start : start + at_once]])
            yield from backbone.decode_latents(latents)


@torch.inference_mode()
def preview(prediction: Prediction, rows: Sequence[int]) -> list[Image.Image]:
    """Return small rough previews of the final images in `rows`.

    Latents are averaged over squares of at least 2 x 2, so that decoding costs a quarter at most.

    Raises:
        GenerationFailedError: As `to_image`.
    """
    latents = prediction.latents(rows)
    square = max(2, max(latents.shape[-2:]) // _PREVIEW_CELLS)
    coarse = functional.avg_pool2d(latents, square, ceil_mode=True)
    images = [to_image(pixels) for pixels in prediction.backbone.decode_latents(coarse)]
    for image in images:
        image.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
    return images


def to_image(pixels: Tensor) -> Image.Image:
    """Return pixels (3, H, W), clipped to [-1, 1], as an image.

    Raises:
        GenerationFailedError: A pixel is not finite.
    """
    # Conversion to integers turns NaN into some level: without the check, the image would be black
    # or noise, without an error.
    if not bool(pixels.isfinite().all()):
        raise GenerationFailedError(
            "the model made no image but NaN or infinity; run it in float32 or bfloat16, since "
            "float16 overflows in some autoencoders"
        )
    levels = ((pixels + 1) * 127.5).round().clamp(0, 255).to("cpu", torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())

"""All that is random in a training step, as a pure function of (seed, step).

No generator outlives a call, so a subject sees the same samples whatever its slot, its neighbours,
its device or the number of times it was resumed. Knows no models, only how many to choose from.

What goes into one step: samples of subjects, and blank ones where a slot is empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dti_engine.backbones.interface import Backbone
from dti_engine.config import Timesteps, TrainConfig
from dti_engine.images.crops import MicroConditioning
from dti_engine.text.inputs import PromptBatch
from dti_engine.text.prompts import tokenize

_FIXED = 2**64 - 1  # a step that no training comes to
_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1, to which (j + u) / B may round otherwise


@dataclass(frozen=True, slots=True)
class SampleDraws:
    """The B samples of one subject at one step."""

    views: Tensor  # (B,) int64, index into all crops of all images
    captions: Tensor  # (B,) int64, index into the caption templates
    u: Tensor  # (B,) float32 in [0, 1), which the objective turns into timesteps
    posterior: Tensor  # (B, C, h, w) float32, standard normal: the noise of the latents themselves
    noise: Tensor  # (B, C, h, w) float32, standard normal: the noise to be predicted

    def to(self, device: torch.device) -> "SampleDraws":
        """The same there, without waiting for it."""
        tensors = [getattr(self, each.name) for each in fields(self)]
        if device.type == "cuda":  # from other memory, a copy waits for the step before
            tensors = [each.pin_memory() for each in tensors]
        return SampleDraws(*(each.to(device, non_blocking=True) for each in tensors))


def draw(
    seed: int,
    step: int,
    *,
    batch_size: int,
    num_crops: Sequence[int],
    num_captions: int,
    latent_shape: tuple[int, ...],
    timesteps: Timesteps,
    shift: float = 1.0,
) -> SampleDraws:
    """The samples of a subject's own `step`: image, crop, caption, time and both noises.

    An image is as likely as any other, however many crops (`num_crops`, per image) it has.
    Stratified times come one from each B-th of [0, 1): the same mean, less variance. A shift above
    1 then moves them all to more noise (`_shifted`).

    (seed, step), each in 0 .. 2**64 - 1, are the key of the generator, not a seed hashed into fewer
    bits: no two pairs share a stream. Drawn on the CPU, hence the same for every device.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """
    random = _generator(seed, step)
    crops = np.asarray(num_crops)
    subject_images = random.integers(len(crops), size=batch_size)
    views = (np.cumsum(crops) - crops)[subject_images] + random.integers(crops[subject_images])
    captions = random.integers(num_captions, size=batch_size)
    u = random.random(batch_size)
    if timesteps == "stratified":
        u = (np.arange(batch_size) + u) / batch_size
    posterior, noise = random.standard_normal((2, batch_size, *latent_shape), dtype=np.float32)
    return _draws(views, captions, _shifted(u, shift), posterior, noise)


def draw_fixed(
    seed: int,
    *,
    size: int,
    num_crops: Sequence[int],
    num_captions: int,
    latent_shape: tuple[int, ...],
    shift: float = 1.0,
) -> SampleDraws:
    """Samples of a subject that stay the same, so that losses on them can be compared over steps.

    Times lie in the middle of each `size`-th of [0, 1), shifted as in training; images come
    in turn, in a random order, and captions too. Their latents are means: the noise of an
    autoencoder would only blur.
    """
    random = _generator(seed, _FIXED)
    crops = np.asarray(num_crops)
    subject_images = np.resize(random.permutation(len(crops)), size)
    views = (np.cumsum(crops) - crops)[subject_images] + random.integers(crops[subject_images])
    captions = np.resize(random.permutation(num_captions), size)
    u = random.permutation((np.arange(size) + 0.5) / size)
    noise = random.standard_normal((size, *latent_shape), dtype=np.float32)
    return _draws(views, captions, _shifted(u, shift), np.zeros_like(noise), noise)


def _shifted(u: NDArray[Any], shift: float) -> NDArray[Any]:
    """u in [0, 1) leaning to 1, where there is more noise, if shift > 1.

    Source: Esser et al. 2024 (Stable Diffusion 3), eq. 23.
    """
    return shift * u / (1 + (shift - 1) * u)


def _generator(seed: int, step: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))


def _draws(
    views: NDArray[Any], captions: NDArray[Any], u: NDArray[Any], *noises: NDArray[Any]
) -> SampleDraws:
    return SampleDraws(
        torch.from_numpy(views),
        torch.from_numpy(captions),
        torch.from_numpy(np.minimum(u, _BELOW_ONE).astype(np.float32)),
        *map(torch.from_numpy, noises),
    )


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Samples of one step: B of one slot, or those of all slots in order."""

    latents: Tensor  # (B, C, h, w)
    noise: Tensor  # (B, C, h, w)
    u: Tensor  # (B,)
    weights: Tensor  # (B, 1, h, w), all ones without a mask: one shape for every mix of subjects
    micro_conditioning: Tensor  # (B, 6) float32, see `crops.MicroConditioning`
    prompts: PromptBatch

    @staticmethod
    def concat(parts: Sequence["TrainingBatch"]) -> "TrainingBatch":
        """One batch of all their samples, in order."""
        return TrainingBatch(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.noise for part in parts]),
            torch.cat([part.u for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.micro_conditioning for part in parts]),
            PromptBatch.concat([part.prompts for part in parts]),
        )


def blank_samples(backbone: Backbone, config: TrainConfig) -> TrainingBatch:
    """What an empty slot puts into a step: the same shapes, no learned row, hence no gradient."""
    shape = backbone.latent_shape(config.resolution, config.resolution)
    zeros = torch.zeros(config.batch_size, *shape, device=backbone.device)
    prompts = tokenize([""] * len(zeros), backbone.text_encoders, [{}] * len(zeros))
    ones = torch.ones_like(zeros[:, :1])
    micro_conditioning = MicroConditioning.whole(config.resolution, config.resolution)
    return TrainingBatch(
        zeros,
        zeros,
        zeros[:, 0, 0, 0],
        ones,
        torch.tensor(
            [micro_conditioning] * len(zeros), dtype=torch.float32, device=backbone.device
        ),
        prompts.to(backbone.device),
    )

"""The samples of a training step: random draws as a pure function of (seed, step), and batches.

No random generator outlives a call, so a subject sees the same samples whatever its slot, its
neighbours, its device or the number of times it was resumed.
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

_FIXED_STEP = 2**64 - 1  # a step number that no training reaches
_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1; (j + u) / B may round up to 1 in float32


@dataclass(frozen=True, slots=True)
class SampleDraws:
    """The random choices of the B samples of one subject at one step."""

    crops: Tensor  # (B,) int64, index into all crops of all images
    captions: Tensor  # (B,) int64, index into the caption templates
    u: Tensor  # (B,) float32 in [0, 1), which the objective turns into timesteps
    posterior: Tensor  # (B, C, h, w) float32, standard normal: samples the autoencoder's latents
    noise: Tensor  # (B, C, h, w) float32, standard normal: the noise to be predicted

    def to(self, device: torch.device) -> "SampleDraws":
        """Return a copy on `device`, without waiting for the transfer."""
        tensors = [getattr(self, each.name) for each in fields(self)]
        if device.type == "cuda":  # a copy from pageable memory would wait for the previous step
            tensors = [each.pin_memory() for each in tensors]
        return SampleDraws(*(each.to(device, non_blocking=True) for each in tensors))


def draw_samples(
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
    """Draw image, crop, caption, time and both noises for each sample of a subject's own `step`.

    Every image is equally likely, however many crops (`num_crops`, per image) it has. Stratified
    times take one from each B-th of [0, 1): the same mean with less variance. A shift above 1 then
    moves all of them to more noise (`_shifted`).

    (seed, step), each in 0 .. 2**64 - 1, is the key of the generator, not a seed hashed into fewer
    bits, so no two pairs share a stream. Drawn on the CPU, hence the same for every device.

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
    """
    # The order of these draws is fixed for good. A token is a function of its seed: another order
    # would give the same seed other samples, also to subjects that resume from a checkpoint of an
    # older version.
    rng = _generator(seed, step)
    crop_counts = np.asarray(num_crops)
    # First an image, then one of its crops. A draw from all crops at once would prefer images with
    # many of them.
    images = rng.integers(len(crop_counts), size=batch_size)
    crops = (np.cumsum(crop_counts) - crop_counts)[images] + rng.integers(crop_counts[images])
    captions = rng.integers(num_captions, size=batch_size)
    u = rng.random(batch_size)
    if timesteps == "stratified":
        u = (np.arange(batch_size) + u) / batch_size
    posterior, noise = rng.standard_normal((2, batch_size, *latent_shape), dtype=np.float32)
    return _draws(crops, captions, _shifted(u, shift), posterior, noise)


def draw_fixed_samples(
    seed: int,
    *,
    size: int,
    num_crops: Sequence[int],
    num_captions: int,
    latent_shape: tuple[int, ...],
    shift: float = 1.0,
) -> SampleDraws:
    """Draw the samples of a subject's fixed batch, whose losses are comparable between steps.

    Times are the midpoints of each `size`-th of [0, 1), shifted as in training; images and captions
    take turns in a random order. The latents are means, since sampling the autoencoder would only
    add noise to the comparison.
    """
    rng = _generator(seed, _FIXED_STEP)
    crop_counts = np.asarray(num_crops)
    # `resize` repeats the permutation, so that images occur equally often, some once more.
    images = np.resize(rng.permutation(len(crop_counts)), size)
    crops = (np.cumsum(crop_counts) - crop_counts)[images] + rng.integers(crop_counts[images])
    captions = np.resize(rng.permutation(num_captions), size)
    # Permuted, since images take turns in the order of the samples: without it, the later images
    # of each round would have the later times.
    u = rng.permutation((np.arange(size) + 0.5) / size)
    noise = rng.standard_normal((size, *latent_shape), dtype=np.float32)
    return _draws(crops, captions, _shifted(u, shift), np.zeros_like(noise), noise)


def _shifted(u: NDArray[Any], shift: float) -> NDArray[Any]:
    """Return u in [0, 1) moved towards 1, where there is more noise, if shift > 1.

    Source: Esser et al. 2024 (Stable Diffusion 3), eq. 23.
    """
    return shift * u / (1 + (shift - 1) * u)


def _generator(seed: int, step: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))


def _draws(
    crops: NDArray[Any], captions: NDArray[Any], u: NDArray[Any], *noises: NDArray[Any]
) -> SampleDraws:
    return SampleDraws(
        torch.from_numpy(crops),
        torch.from_numpy(captions),
        torch.from_numpy(np.minimum(u, _BELOW_ONE).astype(np.float32)),
        *map(torch.from_numpy, noises),
    )


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """The samples of one step: B of one slot, or those of all slots in order (the packed batch)."""

    latents: Tensor  # (B, C, h, w)
    noise: Tensor  # (B, C, h, w)
    u: Tensor  # (B,)
    weights: Tensor  # (B, 1, h, w), all ones without a mask, for one shape whatever the subjects
    micro_conditioning: Tensor  # (B, 6) float32, see `crops.MicroConditioning`
    prompts: PromptBatch

    @staticmethod
    def concat(parts: Sequence["TrainingBatch"]) -> "TrainingBatch":
        """Return one packed batch of all samples, in order."""
        return TrainingBatch(
            torch.cat([part.latents for part in parts]),
            torch.cat([part.noise for part in parts]),
            torch.cat([part.u for part in parts]),
            torch.cat([part.weights for part in parts]),
            torch.cat([part.micro_conditioning for part in parts]),
            PromptBatch.concat([part.prompts for part in parts]),
        )


def blank_samples(backbone: Backbone, config: TrainConfig) -> TrainingBatch:
    """Return the samples of an empty slot: the usual shapes, but no learned row and no gradient."""
    shape = backbone.latent_shape(config.resolution, config.resolution)
    zeros = torch.zeros(config.batch_size, *shape, device=backbone.device)
    # An empty prompt, of which `PromptBatch.concat` makes the length of the longest one.
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

"""What the engine asks of a diffusion model; each model family keeps these promises in one file.

Every parameter is frozen and in evaluation mode; the only gradient that ever flows goes to learned
rows. The calls hold no state: whatever a result depends on is in the arguments. `recompute` may be
set at any time; it trades time for memory, and changes no result. `compile` changes rounding only.

Shapes: B samples, S positions, D text features, C x h x w latents, H x W pixels.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dti_engine.backbones.objectives import Objective
from dti_engine.text.encoder import TextEncoder
from dti_engine.text.inputs import PromptBatch, Rows

__all__ = [
    "Backbone",
    "Conditioning",
    "DiffusersScheduler",
    "Latents",
    "TextEncoder",
    "fingerprint",
]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What prompts become for the denoiser.

    hidden: (B, S, D). pooled: (B, P) summary of each prompt, or None. mask: (B, S), 1 where hidden
    counts, or None. micro_conditioning: (B, 6), see `crops.MicroConditioning`, or None.
    """

    hidden: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    micro_conditioning: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Latents:
    """The posterior of encoded images, scaled as the denoiser expects.

    mean, std: (B, C, h, w) fp32; std is 0 for a deterministic autoencoder.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Latents mean + std * noise; noise: (B, C, h, w) standard normal."""
        return self.mean + self.std * noise


class DiffusersScheduler(Protocol):
    """The part of a diffusers scheduler that generation uses. It has state: one per run."""

    timesteps: Tensor
    init_noise_sigma: float

    def set_timesteps(
        self, num_inference_steps: int, device: torch.device | str | None = None
    ) -> None: ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool
    ) -> tuple[Tensor, ...]:
        """With return_dict False; the first item is the sample one step less noisy."""
        ...


class Backbone(Protocol):
    """A frozen text-to-image diffusion model."""

    name: str  # the hub id, the folder's name, or "miniature": never a path
    fingerprint: str  # of the text encoders; says which weights a token belongs to
    text_encoders: Mapping[str, TextEncoder]
    pools: bool  # whether the denoiser takes a summary of each prompt: `Conditioning.pooled`
    objective: Objective
    device: torch.device
    dtype: torch.dtype  # that the denoiser computes in
    image_size: int  # pixels of the side that the model was trained at
    recompute: bool  # compute activations again in the backward pass, instead of keeping them

    def encode_images(self, pixels: Tensor) -> Latents:
        """pixels (B, 3, H, W) in [-1, 1]. No gradient."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, H, W) fp32 in [-1, 1]. No gradient."""
        ...

    def encode_prompts(
        self, prompts: PromptBatch, rows: Rows, micro_conditioning: Tensor | None = None
    ) -> Conditioning:
        """Read prompts with learned rows in place, in training and in serving alike.

        micro_conditioning: (B, 6), see `crops.MicroConditioning`, for models that take it; None
            means a whole image of the model's own size.

        Differentiable in rows. The inputs may lie on any device.
        """
        ...

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Raw output of the model, to be compared with `objective.target`.

        Shapes: noisy (B, C, h, w), timesteps (B,) -> (B, C, h, w) fp32.
        """
        ...

    def compile(self) -> None:
        """Have the denoiser compiled when it is next called, and for every new shape: minutes."""
        ...

    def new_scheduler(self) -> DiffusersScheduler:
        """A fresh deterministic sampler for one run of generation."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of an image of this size. Raises: ConfigurationError if it does not fit."""
        ...


def fingerprint(encoders: Mapping[str, TextEncoder]) -> str:
    """sha256, in hexadecimal, over names, shapes and values of the embedding tables.

    Values are taken in half precision: copies of a checkpoint in single and in half precision then
    agree.
    """
    digest = hashlib.sha256()
    for name in sorted(encoders):
        table = encoders[name].vocabulary()
        digest.update(f"{name} {tuple(table.shape)} ".encode())
        digest.update(table.to("cpu", torch.float16).contiguous().numpy().data)
    return digest.hexdigest()

"""The interface of a diffusion model to the engine; each model family implements it in one module.

Every parameter is frozen and in evaluation mode; gradients flow to learned rows only. The calls
hold no state: everything a result depends on is an argument. `recompute` may be set at any time; it
trades time for memory and changes no result. `compile` changes rounding only.

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
    """Encoded prompts, as the denoiser takes them.

    hidden: (B, S, D). pooled: (B, P) summary of each prompt, or None. mask: (B, S), 1 where hidden
    is valid, or None. micro_conditioning: (B, 6), see `crops.MicroConditioning`, or None.
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
        """Return mean + std * noise; noise: (B, C, h, w) standard normal."""
        return self.mean + self.std * noise


class DiffusersScheduler(Protocol):
    """The part of a diffusers scheduler that generation uses; it has state, so one per run."""

    timesteps: Tensor
    init_noise_sigma: float

    def set_timesteps(
        self, num_inference_steps: int, device: torch.device | str | None = None
    ) -> None: ...

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor: ...

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool
    ) -> tuple[Tensor, ...]:
        """Return a tuple (return_dict is False) whose first item is the sample of the next step."""
        ...


class Backbone(Protocol):
    """A frozen text-to-image diffusion model."""

    name: str  # the hub id, the folder's name, or "miniature": never a path
    fingerprint: str  # of the text encoders; identifies the weights that a token belongs to
    text_encoders: Mapping[str, TextEncoder]
    pools: bool  # whether the denoiser takes a summary of each prompt: `Conditioning.pooled`
    sampler: str  # the name of `new_scheduler` that other programs know, such as "DDIM"
    objective: Objective
    device: torch.device
    dtype: torch.dtype  # of the denoiser's computation
    image_size: int  # side in pixels that the model was trained at
    recompute: bool  # activation checkpointing: recompute them in the backward pass

    def encode_images(self, pixels: Tensor) -> Latents:
        """Return the latents of pixels (B, 3, H, W) in [-1, 1]. No gradient."""
        ...

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode (B, C, h, w) to pixels (B, 3, H, W), fp32 in [-1, 1]. No gradient."""
        ...

    def encode_prompts(
        self, prompts: PromptBatch, rows: Rows, micro_conditioning: Tensor | None = None
    ) -> Conditioning:
        """Encode prompts with learned rows injected, in training and in generation alike.

        micro_conditioning: (B, 6), see `crops.MicroConditioning`, for models that take it; None
        means a whole image of the model's own size.

        Differentiable in rows. The inputs may be on any device.
        """
        ...

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """Return the raw output of the model, which `objective.target` is the target of.

        Shapes: noisy (B, C, h, w), timesteps (B,) -> (B, C, h, w) fp32.
        """
        ...

    def compile(self) -> None:
        """Compile the denoiser at its next call, and again for every new shape, in minutes each."""
        ...

    def new_scheduler(self) -> DiffusersScheduler:
        """Return a fresh deterministic scheduler for one run of generation."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the latent shape (C, h, w) of an image of this size in pixels.

        Raises:
            ConfigurationError: The size does not fit the model.
        """
        ...


def fingerprint(encoders: Mapping[str, TextEncoder]) -> str:
    """Return the SHA-256, in hexadecimal, over names, shapes and values of the embedding tables.

    Values are hashed in half precision, so that copies of a model in single and in half precision
    have the same fingerprint.
    """
    digest = hashlib.sha256()
    # Sorted, since the order of a mapping is its maker's.
    for name in sorted(encoders):
        table = encoders[name].vocabulary()
        digest.update(f"{name} {tuple(table.shape)} ".encode())
        # The buffer itself: `tobytes` would copy a table of up to a gigabyte.
        digest.update(table.to("cpu", torch.float16).contiguous().numpy().data)
    return digest.hexdigest()

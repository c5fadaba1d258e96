"""Training objectives: noise, velocity or flow matching, behind one loss call.

With latents x, noise eps and a uniform u in [0, 1), an objective chooses the timestep t, mixes
`noisy` from x and eps, and computes the `target` of the raw output of the model.

Shapes: x, eps (B, C, h, w); u, t (B,).
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from dti_engine.errors import ModelLoadError

ConditioningT = TypeVar("ConditioningT", contravariant=True)


class Objective(Protocol):
    """The training objective of a model: its input at time t, and its target."""

    @property
    def name(self) -> str: ...

    def timesteps(self, u: Tensor) -> Tensor:
        """Return timesteps (B,) as the model takes them; uniform u gives those of its training."""
        ...

    def noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...

    def latents(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        """Return the latents that `noisy` was mixed from, if `predicted` equals the target."""
        ...


@dataclass(frozen=True, eq=False)
class _DiffusionObjective:
    """The mixture sqrt(a_t) x + sqrt(1 - a_t) eps, where a_t = alphas_cumprod[t], (T,) fp32."""

    alphas_cumprod: Tensor

    def timesteps(self, u: Tensor) -> Tensor:
        return _discrete(u, len(self.alphas_cumprod))

    def noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, spread = _amplitudes(self.alphas_cumprod, t)
        return signal * latents + spread * noise


@dataclass(frozen=True, eq=False)
class NoiseObjective(_DiffusionObjective):
    """Noise prediction: eps from the mixture.

    Source: Ho et al. 2020, eq. 4 and 14.
    """

    name: str = "noise"

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise

    def latents(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        signal, spread = _amplitudes(self.alphas_cumprod, t)
        return (noisy - spread * predicted) / signal


@dataclass(frozen=True, eq=False)
class VelocityObjective(_DiffusionObjective):
    """Velocity prediction: sqrt(a_t) eps - sqrt(1 - a_t) x, from the mixture.

    Source: Salimans and Ho 2022, appendix D.
    """

    name: str = "velocity"

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, spread = _amplitudes(self.alphas_cumprod, t)
        return signal * noise - spread * latents

    def latents(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        signal, spread = _amplitudes(self.alphas_cumprod, t)
        return signal * noisy - spread * predicted


@dataclass(frozen=True)
class FlowMatchingObjective:
    """Flow matching: eps - x from (1 - s) x + s eps, where s = t / num_train_timesteps.

    Source: Lipman et al. 2023, straight paths.
    """

    num_train_timesteps: int = 1000
    name: str = "flow"

    def timesteps(self, u: Tensor) -> Tensor:
        return self.num_train_timesteps * u

    def noisy(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        s = _per_sample(t / self.num_train_timesteps)
        return (1 - s) * latents + s * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - latents

    def latents(self, noisy: Tensor, predicted: Tensor, t: Tensor) -> Tensor:
        return noisy - _per_sample(t / self.num_train_timesteps) * predicted


class DenoiseFunction(Protocol[ConditioningT]):
    """The part of a backbone that the loss needs."""

    objective: Objective

    def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: ConditioningT) -> Tensor: ...


def denoising_loss(
    backbone: DenoiseFunction[ConditioningT],
    latents: Tensor,
    noise: Tensor,
    u: Tensor,
    conditioning: ConditioningT,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the mean squared error of each sample, the one training loss of the engine.

    weights have a mean of 1 in each sample (`tensors.mask_weights`). None and ones give the same
    loss, bit for bit.

    Shapes: latents, noise (B, C, h, w) fp32; u (B,) in [0, 1); weights (B, 1, h, w) -> (B,).
    Differentiable through conditioning.
    """
    objective = backbone.objective
    t = objective.timesteps(u)
    predicted = backbone.denoise(objective.noisy(latents, noise, t), t, conditioning)
    # In float32: the difference of two bfloat16 numbers of similar size keeps one or two digits.
    squared = (predicted.float() - objective.target(latents, noise, t)).square()
    if weights is not None:
        squared = weights * squared
    return squared.flatten(1).mean(dim=1)


def objective_from_scheduler(prediction_type: str, alphas_cumprod: Tensor) -> Objective:
    """Return the objective that the discrete scheduler of a model states.

    alphas_cumprod: (T,), on the device of the model.

    Raises:
        ModelLoadError: The prediction type is neither "epsilon" nor "v_prediction".
    """
    if prediction_type == "epsilon":
        return NoiseObjective(alphas_cumprod.float())
    if prediction_type == "v_prediction":
        return VelocityObjective(alphas_cumprod.float())
    raise ModelLoadError(
        f"the scheduler states prediction_type {prediction_type!r}; "
        "supported are 'epsilon' and 'v_prediction'"
    )


def _discrete(u: Tensor, num_timesteps: int) -> Tensor:
    """Map u in [0, 1) to 0 .. num_timesteps - 1; the product never rounds up to num_timesteps."""
    return (u * num_timesteps).long()


def _amplitudes(alphas_cumprod: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return the amplitudes of signal and noise at t, each (B, 1, 1, 1)."""
    alpha = _per_sample(alphas_cumprod[t])
    return torch.sqrt(alpha), torch.sqrt(1 - alpha)


def _per_sample(value: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1)."""
    return value[:, None, None, None]

"""Noise, velocity and flow: algebra, diffusers as oracle, and the one loss."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from dti_engine.backbones.objectives import (
    FlowMatchingObjective,
    NoiseObjective,
    Objective,
    VelocityObjective,
    denoising_loss,
    objective_from_scheduler,
)
from dti_engine.errors import ModelLoadError
from dti_engine.images.tensors import mask_weights

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
ALPHAS = SCHEDULER.alphas_cumprod
OBJECTIVES: list[Objective] = [
    NoiseObjective(ALPHAS),
    VelocityObjective(ALPHAS),
    FlowMatchingObjective(),
]
U = torch.tensor([0.0, 0.2, 0.5, 0.97])

over_objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda each: each.name)


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(4, 4, 8, 8)


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(4, 4, 8, 8)


@pytest.mark.parametrize(
    "objective", [NoiseObjective(ALPHAS), VelocityObjective(ALPHAS)], ids=lambda o: o.name
)
def test_the_noisy_latents_are_those_of_diffusers(
    objective: Objective, latents: Tensor, noise: Tensor
) -> None:
    t = objective.timesteps(U)
    expected = SCHEDULER.add_noise(latents, noise, t)
    torch.testing.assert_close(objective.noisy(latents, noise, t), expected, rtol=0, atol=1e-6)


def test_the_velocity_is_that_of_diffusers(latents: Tensor, noise: Tensor) -> None:
    t = VelocityObjective(ALPHAS).timesteps(U)
    expected = SCHEDULER.get_velocity(latents, noise, t)
    target = VelocityObjective(ALPHAS).target(latents, noise, t)
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-6)


def test_the_velocity_is_the_derivative_along_the_arc_from_latents_to_noise(
    latents: Tensor, noise: Tensor
) -> None:
    objective = VelocityObjective(ALPHAS.double())
    t = objective.timesteps(U)
    angle = torch.acos(ALPHAS.double()[t].sqrt())[:, None, None, None]

    def at(angle: Tensor) -> Tensor:
        return torch.cos(angle) * latents.double() + torch.sin(angle) * noise.double()

    slope = (at(angle + 1e-5) - at(angle - 1e-5)) / 2e-5
    target = objective.target(latents.double(), noise.double(), t)
    torch.testing.assert_close(target, slope, rtol=0, atol=1e-8)


def test_the_flow_is_straight_and_runs_from_latents_to_noise(
    latents: Tensor, noise: Tensor
) -> None:
    objective = FlowMatchingObjective()
    target = objective.target(latents, noise, torch.zeros(4))
    for s in (0.0, 0.3, 1.0):
        noisy = objective.noisy(latents, noise, torch.full((4,), 1000 * s))
        torch.testing.assert_close(noisy, latents + s * target, rtol=0, atol=1e-6)
    ends = [objective.noisy(latents, noise, torch.full((4,), t)) for t in (0.0, 1000.0)]
    assert torch.equal(ends[0], latents)
    assert torch.equal(ends[1], noise)


def test_flow_times_are_those_of_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    u = torch.arange(1, 1001, dtype=torch.float64).flip(0) / 1000
    timesteps = FlowMatchingObjective().timesteps(u).float()
    torch.testing.assert_close(timesteps, scheduler.timesteps, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "objective", [NoiseObjective(ALPHAS), VelocityObjective(ALPHAS)], ids=lambda o: o.name
)
def test_uniform_u_reaches_every_timestep_equally(objective: Objective) -> None:
    u = (torch.arange(2000) + 0.5) / 2000
    assert torch.equal(objective.timesteps(u), torch.arange(1000).repeat_interleave(2))


def test_the_largest_u_below_one_stays_within_the_schedule() -> None:
    below_one = torch.nextafter(torch.ones(1), torch.zeros(1))
    for num_timesteps in range(1, 2000):
        objective = NoiseObjective(torch.ones(1).expand(num_timesteps))
        assert objective.timesteps(below_one).tolist() == [num_timesteps - 1]


class KnowingDenoiser:
    """Predicts the target plus a given error per sample; it is told both in place of a prompt."""

    def __init__(self, objective: Objective, dtype: torch.dtype = torch.float32) -> None:
        self.objective = objective
        self.dtype = dtype

    def denoise(
        self, noisy: Tensor, timesteps: Tensor, conditioning: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        latents, noise, error = conditioning
        target = self.objective.target(latents, noise, timesteps)
        return (target + error[:, None, None, None]).to(self.dtype)


@over_objectives
def test_the_loss_is_the_mean_squared_error_of_each_sample(
    objective: Objective, latents: Tensor, noise: Tensor
) -> None:
    error = torch.tensor([0.0, 1.0, -2.0, 0.5])
    loss = denoising_loss(KnowingDenoiser(objective), latents, noise, U, (latents, noise, error))
    torch.testing.assert_close(loss, error.square(), rtol=1e-5, atol=1e-10)


@over_objectives
def test_the_loss_of_a_half_precision_model_is_computed_in_single_precision(
    objective: Objective, latents: Tensor, noise: Tensor
) -> None:
    backbone = KnowingDenoiser(objective, torch.bfloat16)
    loss = denoising_loss(backbone, latents, noise, U, (latents, noise, torch.zeros(4)))
    assert loss.dtype == torch.float32
    assert 0 < float(loss.max()) < 1e-4  # what rounding the prediction to 8 bits costs


@pytest.mark.parametrize(("stated", "name"), [("epsilon", "noise"), ("v_prediction", "velocity")])
def test_a_checkpoints_prediction_type_names_its_objective(stated: str, name: str) -> None:
    assert objective_from_scheduler(stated, ALPHAS).name == name


def test_an_unknown_prediction_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelLoadError, match=r"'sample'.*'epsilon' and 'v_prediction'"):
        objective_from_scheduler("sample", ALPHAS)


# The masked loss


def _masked(weights: Tensor | None, seed: int) -> tuple[Tensor, Tensor]:
    """Losses of a random prediction, and their gradient in that prediction."""
    generator = torch.Generator().manual_seed(seed)
    latents, noise, predicted = torch.randn(3, 4, 4, 8, 8, generator=generator)
    predicted.requires_grad_()

    class Fixed:
        objective = VelocityObjective(ALPHAS)

        def denoise(self, noisy: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
            return conditioning

    losses = denoising_loss(Fixed(), latents, noise, U, predicted, weights)
    (gradient,) = torch.autograd.grad(losses.sum(), predicted)
    return losses, gradient


def _random_mask(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)
    pixels[:, : 8 * (seed % 6)] = 0
    return Image.fromarray(pixels)


over_seeds = pytest.mark.parametrize("seed", range(12))


@over_seeds
def test_a_white_mask_gives_the_loss_without_one_bit_for_bit(seed: int) -> None:
    weights = mask_weights([Image.new("L", (64, 64), 255), None] * 2, 8, 8)
    for masked, plain in zip(_masked(weights, seed), _masked(None, seed), strict=True):
        assert torch.equal(masked, plain)


@over_seeds
def test_nothing_outside_of_a_mask_counts(seed: int) -> None:
    weights = mask_weights([_random_mask(seed)] * 4, 8, 8)
    _, gradient = _masked(weights, seed)
    outside = (weights == 0).expand_as(gradient)
    assert outside.any() or seed % 6 == 0
    assert (gradient[outside] == 0).all()
    assert (gradient[~outside] != 0).all()


@over_seeds
def test_the_masked_loss_is_the_mean_over_the_area_of_the_mask(seed: int) -> None:
    mask = Image.new("L", (64, 64))
    left = 8 * (seed % 7)
    mask.paste(255, (left, 0, 64, 64))
    losses, _ = _masked(mask_weights([mask] * 4, 8, 8), seed)
    generator = torch.Generator().manual_seed(seed)
    latents, noise, predicted = torch.randn(3, 4, 4, 8, 8, generator=generator)
    objective = VelocityObjective(ALPHAS)
    error = predicted - objective.target(latents, noise, objective.timesteps(U))
    inside = error[..., left // 8 :].square().flatten(1).mean(dim=1)
    torch.testing.assert_close(losses, inside, rtol=1e-5, atol=0)


@over_seeds
def test_how_bright_a_mask_is_does_not_matter(seed: int) -> None:
    mask = _random_mask(seed)
    dim = mask.point(lambda value: value // 8 * 8)
    dimmer = dim.point(lambda value: value // 4)
    bright, dark = (_masked(mask_weights([each] * 4, 8, 8), seed)[0] for each in (dim, dimmer))
    torch.testing.assert_close(bright, dark, rtol=1e-5, atol=0)


@over_objectives
def test_the_latents_of_a_right_prediction_are_those_that_were_mixed(
    objective: Objective, latents: Tensor, noise: Tensor
) -> None:
    t = objective.timesteps(U)
    noisy, target = objective.noisy(latents, noise, t), objective.target(latents, noise, t)
    torch.testing.assert_close(objective.latents(noisy, target, t), latents, rtol=0, atol=1e-4)
    assert not torch.allclose(objective.latents(noisy, target + 1, t), latents, atol=1e-2)

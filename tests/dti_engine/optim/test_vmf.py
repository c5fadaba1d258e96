"""The von Mises-Fisher prior: its gradient, its mean resultant length, its samples."""

import math

import pytest
import torch

from dti_engine.errors import ConfigurationError
from dti_engine.optim import sphere, vmf


@pytest.fixture(params=range(3))
def random(request: pytest.FixtureRequest) -> torch.Generator:
    return torch.Generator().manual_seed(request.param)


def test_gradient_is_that_of_the_energy(random: torch.Generator) -> None:
    x, loc = sphere.normalize(torch.randn(2, 4, 16, generator=random, dtype=torch.float64))
    kappa = torch.tensor([0.0, 1e-4, 1.0, 1e3], dtype=torch.float64)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(vmf.energy(x, loc, kappa).sum(), x)
    assert torch.equal(vmf.gradient(loc, kappa), expected)
    assert torch.equal(vmf.gradient(loc, 1e-4), -1e-4 * loc)


def integrated_resultant_length(kappa: float, dim: int) -> float:
    """Mean of t under exp(kappa t) (1 - t^2)^((d - 3) / 2), by the midpoint rule in logarithms."""
    steps = 200_000
    angle = (torch.arange(steps, dtype=torch.float64) + 0.5) * math.pi / steps
    density = torch.softmax(kappa * angle.cos() + (dim - 2) * angle.sin().log(), dim=0)
    return float((density * angle.cos()).sum())


@pytest.mark.parametrize("dim", [2, 3, 16, 768, 2304])
@pytest.mark.parametrize("kappa", [0.0, 1e-4, 1.0, 50.0, 1e3, 1e5])
def test_mean_resultant_length_is_the_integral(kappa: float, dim: int) -> None:
    length = float(vmf.mean_resultant_length(kappa, dim))
    assert length == pytest.approx(integrated_resultant_length(kappa, dim), rel=1e-9, abs=1e-14)


def test_mean_resultant_length_has_the_closed_form_in_three_dimensions() -> None:
    kappa = torch.logspace(-1, 6, 50, dtype=torch.float64)
    expected = 1 / torch.tanh(kappa) - 1 / kappa
    assert torch.allclose(vmf.mean_resultant_length(kappa, 3), expected, rtol=1e-9)


@pytest.mark.parametrize(("dim", "tolerance"), [(2, 0.07), (16, 0.03), (768, 3e-4)])
def test_estimate_inverts_the_mean_resultant_length(dim: int, tolerance: float) -> None:
    kappa = torch.logspace(-2, 5, 50, dtype=torch.float64)
    estimate = vmf.estimate_concentration(vmf.mean_resultant_length(kappa, dim), dim)
    assert torch.allclose(estimate, kappa, rtol=tolerance)


@pytest.mark.parametrize(("dim", "kappa"), [(2, 3.0), (3, 0.0), (16, 40.0), (768, 500.0)])
def test_samples_are_unit_vectors_with_the_mean_of_the_distribution(
    random: torch.Generator, dim: int, kappa: float
) -> None:
    loc = sphere.normalize(torch.randn(dim, generator=random, dtype=torch.float64))
    x = vmf.sample(loc, kappa, 5000, generator=random)
    assert x.shape == (5000, dim)
    assert torch.allclose(sphere.length(x), torch.ones(5000, 1, dtype=torch.float64))
    error = x.mean(dim=0) - vmf.mean_resultant_length(kappa, dim) * loc
    assert float(sphere.length(error)) < 2 / math.sqrt(5000)  # |error|^2 has mean < 1 / n
    cosine_error = float(error @ loc)
    assert abs(cosine_error) < 4 * float((x @ loc).std()) / math.sqrt(5000)


def test_cosines_follow_the_exact_law_in_three_dimensions(random: torch.Generator) -> None:
    """Kolmogorov-Smirnov: the distribution function of the cosine t is known for d = 3."""
    kappa, n = 2.5, 20_000
    loc = torch.tensor([0.0, 0.6, -0.8], dtype=torch.float64)
    t = (vmf.sample(loc, kappa, n, generator=random) @ loc).sort().values
    law = torch.expm1(kappa * (t + 1)) / math.expm1(2 * kappa)
    empirical = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    assert float((law - empirical).abs().max()) < 1.95 / math.sqrt(n)  # p = 0.001


def test_samples_repeat_with_the_generator() -> None:
    loc = sphere.normalize(torch.arange(1.0, 9.0))
    first, again = (
        vmf.sample(loc, 7.0, 9, generator=torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first, again)


@pytest.mark.parametrize("kappa", [-1.0, math.nan, math.inf])
def test_sample_rejects_a_concentration_out_of_range(kappa: float) -> None:
    with pytest.raises(ConfigurationError, match=str(kappa)):
        vmf.sample(torch.ones(1), kappa, 1, generator=torch.Generator())

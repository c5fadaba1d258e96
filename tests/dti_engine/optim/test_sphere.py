"""Laws of the sphere, in float64 over several seeds; geoopt as an independent oracle."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from dti_engine.errors import AntipodalError, ConfigurationError, ZeroVectorError
from dti_engine.optim import sphere

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # geoopt 0.5.1 calls torch.jit.script
    import geoopt

DIM = 48
ANGLES = [0.0, 1e-12, 1e-6, 1e-3, 0.7, math.pi / 2, 3.0, math.pi - 1e-3, math.pi - 1e-6]


@pytest.fixture(params=range(4))
def random(request: pytest.FixtureRequest) -> torch.Generator:
    return torch.Generator().manual_seed(request.param)


def unit(random: torch.Generator, *shape: int) -> Tensor:
    return sphere.normalize(torch.randn(*shape, DIM, generator=random, dtype=torch.float64))


def unit_tangent(random: torch.Generator, point: Tensor) -> Tensor:
    return sphere.normalize(sphere.to_tangent(point, unit(random, *point.shape[:-1])))


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-14) -> bool:
    return bool((a - b).abs().max() <= tolerance)


def test_normalize_gives_length_one_at_any_scale(random: torch.Generator) -> None:
    x = unit(random, 5)
    for scale in (1e-300, 1e-160, 1.0, 1e160, 1e300):
        assert close(sphere.normalize(scale * x), x)


def test_normalize_rejects_a_zero_vector_among_others(random: torch.Generator) -> None:
    x = unit(random, 3)
    x[1] = 0
    with pytest.raises(ZeroVectorError):
        sphere.normalize(x)


def test_tangents_are_orthogonal_and_projecting_twice_changes_nothing(
    random: torch.Generator,
) -> None:
    point = unit(random, 5)
    tangent = sphere.to_tangent(point, torch.randn(5, DIM, generator=random, dtype=torch.float64))
    assert close((tangent * point).sum(-1), 0)
    assert close(sphere.to_tangent(point, tangent), tangent)


@pytest.mark.parametrize("length", [0.0, 1e-9, 0.04, 1.0, 50.0])
def test_retraction_turns_by_the_arctangent_of_the_length(
    random: torch.Generator, length: float
) -> None:
    point = unit(random, 5)
    moved = sphere.retract(point, length * unit_tangent(random, point))
    assert close(sphere.length(moved), 1)
    assert close(sphere.geodesic_distance(point, moved), math.atan(length), 1e-15 + 1e-14 * length)


@pytest.mark.parametrize("angle", ANGLES)
def test_log_undoes_exp(random: torch.Generator, angle: float) -> None:
    point = unit(random, 5)
    tangent = angle * unit_tangent(random, point)
    other = sphere.exp_map(point, tangent)
    from_antipode = math.pi - angle
    assert close(sphere.length(other), 1)
    assert close(sphere.log_map(point, other), tangent, 4e-15 / from_antipode)
    assert close(sphere.exp_map(point, sphere.log_map(point, other)), other)


@pytest.mark.parametrize("angle", [*ANGLES, math.pi])
def test_distance_is_accurate_from_zero_to_pi(random: torch.Generator, angle: float) -> None:
    point = unit(random, 5)
    other = sphere.exp_map(point, angle * unit_tangent(random, point))
    assert close(sphere.geodesic_distance(point, other), angle, 1e-15)
    assert torch.equal(
        sphere.geodesic_distance(point, other), sphere.geodesic_distance(other, point)
    )


def test_distance_resolves_a_microradian_in_float32(random: torch.Generator) -> None:
    """acos(<a, b>) would answer 0 or 3e-4 here; what is left is the rounding of the points."""
    point = unit(random, 5)
    other = sphere.exp_map(point, 1e-6 * unit_tangent(random, point))
    distance = sphere.geodesic_distance(point.float(), other.float())
    assert close(distance, 1e-6, 1e-7)


def test_exp_and_log_have_finite_gradients_at_zero(random: torch.Generator) -> None:
    point = unit(random)
    tangent = torch.zeros_like(point, requires_grad=True)
    (exp_gradient,) = torch.autograd.grad(sphere.exp_map(point, tangent).sum(), tangent)
    assert close(exp_gradient, 1)
    other = point.clone().requires_grad_()
    (log_gradient,) = torch.autograd.grad(sphere.log_map(point, other).sum(), other)
    assert bool(torch.isfinite(log_gradient).all())


def test_exp_and_log_agree_with_geoopt(random: torch.Generator) -> None:
    manifold = geoopt.Sphere()
    a, b = unit(random, 5), unit(random, 5)
    tangent = 0.3 * unit_tangent(random, a)
    assert close(sphere.exp_map(a, tangent), manifold.expmap(a, tangent))
    assert close(sphere.log_map(a, b), manifold.logmap(a, b), 1e-13)
    assert close(sphere.retract(a, tangent), manifold.retr(a, tangent))


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("angle", [1e-6, 0.7, 3.0])
def test_slerp_is_shoemakes_formula(random: torch.Generator, angle: float, t: float) -> None:
    a = unit(random, 5)
    b = sphere.exp_map(a, angle * unit_tangent(random, a))
    expected = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
    assert close(sphere.slerp(a, b, t), expected, 1e-13)
    assert close(sphere.geodesic_distance(a, sphere.slerp(a, b, t)), t * angle)


def test_slerp_of_equal_points_stays_and_takes_one_fraction_per_row(
    random: torch.Generator,
) -> None:
    a, b = unit(random, 3), unit(random, 3)
    assert close(sphere.slerp(a, a, 0.3), a)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    ends = torch.stack((a[0], sphere.normalize(a[1] + b[1]), b[2]))
    assert close(sphere.slerp(a, b, t), ends)


def test_opposite_points_have_no_path_and_no_mean(random: torch.Generator) -> None:
    for dtype in (torch.float32, torch.float64):
        a = unit(random).to(dtype)
        b = sphere.normalize(-3 * a)
        for refused in (
            lambda a=a, b=b: sphere.log_map(a, b),
            lambda a=a, b=b: sphere.slerp(a, b, 0.5),
            lambda a=a, b=b: sphere.mean_direction(torch.stack((a, b))),
        ):
            with pytest.raises(AntipodalError):
                refused()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5])
def test_mean_of_two_is_their_slerp(random: torch.Generator, share: float) -> None:
    a, b = unit(random, 3), unit(random, 3)
    weights = torch.tensor([2 - 2 * share, 2 * share], dtype=torch.float64)
    mean = sphere.mean_direction(torch.stack((a, b), dim=-2), weights)
    assert close(mean, sphere.slerp(a, b, share))


def test_mean_of_several_balances_their_logarithms(random: torch.Generator) -> None:
    points = unit(random, 3, 6)
    weights = torch.rand(3, 6, generator=random, dtype=torch.float64)
    mean = sphere.mean_direction(points, weights)
    pull = weights.unsqueeze(-1) * sphere.log_map(mean.unsqueeze(-2), points)
    assert close(pull.sum(-2), 0, 1e-12)
    order = torch.randperm(6, generator=random)
    assert close(sphere.mean_direction(points[:, order], weights[:, order]), mean, 1e-12)


def test_mean_needs_one_open_hemisphere_however_the_weights_lie() -> None:
    angles = torch.tensor([0, 2 * math.pi / 3, 4 * math.pi / 3], dtype=torch.float64)
    circle = torch.stack((angles.cos(), angles.sin(), torch.zeros(3)), dim=-1)
    weights = torch.tensor([100.0, 1.0, 1.0])
    with pytest.raises(AntipodalError, match="hemisphere"):
        sphere.mean_direction(circle, weights)
    lifted = sphere.normalize(circle + torch.tensor([0, 0, 0.01]))
    pole = torch.tensor([0, 0, 1.0], dtype=torch.float64)
    assert close(sphere.mean_direction(lifted), pole, 1e-12)


def test_mean_finds_a_hemisphere_that_the_plain_mean_does_not() -> None:
    """Nineteen points on one side, one far round: its cosine to their sum is negative."""
    angles = torch.tensor([0.0] * 19 + [2.8], dtype=torch.float64)
    points = torch.stack((angles.cos(), angles.sin()), dim=-1)
    mean = sphere.mean_direction(points)
    assert close(torch.atan2(mean[1], mean[0]), 2.8 / 20, 1e-12)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0], [1.0, math.nan]])
def test_mean_rejects_weights_without_meaning(weights: list[float]) -> None:
    points = torch.eye(2, dtype=torch.float64)
    with pytest.raises(ConfigurationError, match="weights"):
        sphere.mean_direction(points, torch.tensor(weights))


def test_mean_keeps_the_dtype_of_its_points() -> None:
    mean = sphere.mean_direction(torch.eye(3))
    assert mean.dtype == torch.float32
    assert close(mean, 3**-0.5, 1e-7)

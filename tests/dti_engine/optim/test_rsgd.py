"""Laws of one training step, in float64 over several seeds; numpy and geoopt as oracles."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from dti_engine.errors import ConfigurationError
from dti_engine.optim import sphere
from dti_engine.optim.rsgd import (
    RunningNorm,
    StepReport,
    reference_step,
    step_rows_,
    vectorized_step_,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # geoopt 0.5.1 calls torch.jit.script
    import geoopt

ROWS, DIM = 6, 48


class Case(NamedTuple):
    v: Tensor
    gradient: Tensor
    mu: Tensor


@pytest.fixture(params=range(4))
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


def make_case(seed: int, dtype: torch.dtype = torch.float64) -> Case:
    """Rows near their priors, with gradients of very different sizes."""
    random = torch.Generator().manual_seed(seed)
    v, noise, gradient = torch.randn(3, ROWS, DIM, generator=random, dtype=dtype)
    v = sphere.normalize(v)
    sizes = torch.logspace(-6, 3, ROWS, dtype=dtype).unsqueeze(-1)
    return Case(v, sizes * gradient, sphere.normalize(v + 0.05 * noise))


def zero_running(rows: int, beta2: float, dtype: torch.dtype = torch.float64) -> RunningNorm:
    return RunningNorm(torch.zeros(rows, dtype=dtype), torch.zeros(rows, dtype=dtype), beta2)


def stepped(
    case: Case, lr: float | Tensor, kappa: float | Tensor = 0.0, active: Tensor | None = None
) -> tuple[Tensor, StepReport]:
    v = case.v.clone()
    return v, vectorized_step_(v, case.gradient, case.mu, lr, kappa, active=active)


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-14) -> bool:
    return bool((a - b).abs().max() <= tolerance)


@pytest.mark.parametrize("lr", [1e-6, 0.01, 0.04, 1.0])
def test_step_turns_every_row_by_the_arctangent_of_lr(case: Case, lr: float) -> None:
    v, report = stepped(case, lr, kappa=1e-4)
    assert close(sphere.length(v), 1)
    assert close(sphere.geodesic_distance(case.v, v), math.atan(lr), 1e-14)
    assert close(report.step_angle, math.atan(lr))


def test_each_row_has_its_own_lr_and_kappa(case: Case) -> None:
    lr = torch.linspace(0.01, 0.1, ROWS, dtype=torch.float64)
    kappa = torch.logspace(-5, 2, ROWS, dtype=torch.float64)
    v, _ = stepped(case, lr, kappa)
    for row in range(ROWS):
        alone, _ = reference_step(
            case.v[row], case.gradient[row], case.mu[row], float(lr[row]), float(kappa[row])
        )
        assert close(v[row], alone, 1e-15)


def test_step_goes_downhill(case: Case) -> None:
    v, _ = stepped(case, 0.01)
    assert bool(((v - case.v) * case.gradient).sum(-1).lt(0).all())


def test_without_prior_the_scale_of_the_loss_does_not_matter(case: Case) -> None:
    expected, _ = stepped(case, 0.02)
    for scale in (1e-20, 1e-3, 1e6):
        v, _ = stepped(case._replace(gradient=scale * case.gradient), 0.02)
        assert close(v, expected)


def test_step_commutes_with_rotations(case: Case) -> None:
    random = torch.Generator().manual_seed(9)
    q, _ = torch.linalg.qr(torch.randn(DIM, DIM, generator=random, dtype=torch.float64))
    v, _ = stepped(case, 0.04, kappa=0.1)
    rotated, _ = stepped(Case(*(x @ q for x in case)), 0.04, kappa=0.1)
    assert close(rotated, v @ q, 1e-13)


def test_a_dominant_prior_leads_to_mu_along_the_geodesic(case: Case) -> None:
    lr, v = 0.01, case.v.clone()
    start = sphere.geodesic_distance(case.v, case.mu)
    for k in range(1, 60):
        vectorized_step_(v, case.gradient, case.mu, lr, kappa=1e18)
        if k * lr < start.min():
            assert close(v, sphere.slerp(case.v, case.mu, k * math.atan(lr) / start), 1e-12)
    assert bool((sphere.geodesic_distance(v, case.mu) <= math.atan(lr) + 1e-9).all())


def test_prior_acts_before_projection_and_normalization(case: Case) -> None:
    with_prior, _ = stepped(case, 0.04, kappa=0.3)
    added = case._replace(gradient=case.gradient - 0.3 * case.mu)
    assert close(with_prior, stepped(added, 0.04)[0], 1e-15)


@pytest.mark.parametrize("gradient", [0.0, 7.5, -1e-9, 1e12])
def test_a_radial_gradient_moves_nothing(case: Case, gradient: float) -> None:
    """In exact arithmetic the tangent gradient is zero; rounding must not become a full step."""
    for dtype in (torch.float32, torch.float64):
        before = case.v.to(dtype)
        v, running = before.clone(), zero_running(ROWS, 0.9, dtype)
        report = vectorized_step_(v, gradient * before, before, 0.04, 1e-4, running)
        assert torch.equal(v, before)
        assert not bool(torch.stack((report.step_length, running.weight)).any())
        alone, _ = reference_step(before[0], gradient * before[0], before[0], 0.04, 1e-4)
        assert torch.equal(alone, before[0])


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e200])
def test_a_gradient_that_is_not_finite_stops_its_row_only(case: Case, poison: float) -> None:
    gradient = case.gradient.clone()
    gradient[2, 5] = poison
    running = zero_running(ROWS, 0.9)
    v, expected = case.v.clone(), case.v.clone()
    vectorized_step_(expected, case.gradient, case.mu, 0.04, running=zero_running(ROWS, 0.9))
    report = vectorized_step_(v, gradient, case.mu, 0.04, running=running)
    assert torch.equal(v[2], case.v[2])
    assert float(report.step_length[2]) == float(running.weight[2]) == 0
    assert not math.isfinite(float(report.tangent_norm[2]))
    others = torch.arange(ROWS) != 2
    assert torch.equal(v[others], expected[others])
    assert torch.equal(reference_step(case.v[2], gradient[2], case.mu[2], 0.04)[0], case.v[2])


def test_inactive_rows_keep_every_bit_and_report_zeros(case: Case) -> None:
    active = torch.tensor([True, False, True, False, True, True])
    gradient = case.gradient.clone()
    gradient[1] = math.nan
    v, running = case.v.clone(), zero_running(ROWS, 0.9)
    report = vectorized_step_(v, gradient, case.mu, 0.04, 1e-4, running, active)
    assert torch.equal((v != case.v).any(-1), active)
    assert torch.equal(running.weight > 0, active)
    assert torch.equal(running.second_moment > 0, active)
    for values in report:
        assert torch.equal(values > 0, active)


def test_a_neighbour_changes_no_bit_of_a_row(case: Case) -> None:
    v, _ = stepped(case, 0.04, kappa=1e-4)
    other = make_case(99)
    mixed = Case(*(torch.cat((x[:3], y[3:])) for x, y in zip(case, other, strict=True)))
    assert torch.equal(stepped(mixed, 0.04, kappa=1e-4)[0][:3], v[:3])


def test_report_names_the_norms_and_the_angle(case: Case) -> None:
    v, report = stepped(case, 0.04, kappa=0.5)
    raw = case.gradient - 0.5 * case.mu
    tangent = raw - (raw * case.v).sum(-1, keepdim=True) * case.v
    assert torch.allclose(report.data_norm, sphere.length(case.gradient).squeeze(-1))
    assert torch.allclose(report.tangent_norm, sphere.length(tangent).squeeze(-1))
    assert close(report.step_angle, sphere.geodesic_distance(case.v, v), 1e-14)


def numpy_run(case: Case, gradients: np.ndarray, active: np.ndarray, beta2: float) -> np.ndarray:
    """Take the step of the official code, with step counts and powers of beta for each row."""
    v, mu = case.v.numpy().copy(), case.mu.numpy()
    moment, count = np.zeros(ROWS), np.zeros(ROWS)
    for g, on in zip(gradients, active, strict=True):
        for i in np.flatnonzero(on):
            raw = g[i] - 1e-3 * mu[i]
            raw -= (raw @ v[i]) * v[i]
            count[i] += 1
            moment[i] = beta2 * moment[i] + (1 - beta2) * (raw @ raw)
            moved = v[i] - 0.02 * raw / (math.sqrt(moment[i] / (1 - beta2 ** count[i])) + 1e-8)
            v[i] = moved / math.sqrt(moved @ moved)
    return v


@pytest.mark.parametrize("beta2", [0.0, 0.5, 0.99])
def test_many_steps_equal_a_numpy_transcription(case: Case, beta2: float) -> None:
    """At beta2 = 0 it divides by |g| + 1e-8, ours by |g|: equal for gradients of order 1."""
    random = np.random.default_rng(0)
    gradients = random.normal(size=(20, ROWS, DIM))
    active = random.random((20, ROWS)) < 0.7
    v, running = case.v.clone(), zero_running(ROWS, beta2) if beta2 else None
    for g, on in zip(torch.from_numpy(gradients), torch.from_numpy(active), strict=True):
        vectorized_step_(v, g, case.mu, 0.02, 1e-3, running, on)
    expected = torch.from_numpy(numpy_run(case, gradients, active, beta2))
    assert close(v, expected, 1e-12 if beta2 else 2e-8)


def test_geoopt_takes_the_same_step_from_the_unit_tangent(case: Case) -> None:
    raw = case.gradient - 1e-4 * case.mu
    unit_tangent = sphere.normalize(sphere.to_tangent(case.v, raw))
    rows = geoopt.ManifoldParameter(case.v.clone(), manifold=geoopt.Sphere())
    rows.grad = unit_tangent
    geoopt.optim.RiemannianSGD([rows], lr=0.04).step()
    assert close(stepped(case, 0.04, kappa=1e-4)[0], rows.detach())


@pytest.mark.parametrize("beta2", [0.0, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vectorized_equals_reference_to_the_stated_rounding(
    dtype: torch.dtype, beta2: float
) -> None:
    for seed in range(20):
        case = make_case(seed, dtype)
        v, running = case.v.clone(), zero_running(ROWS, beta2, dtype) if beta2 else None
        report = vectorized_step_(v, case.gradient, case.mu, 0.04, 1e-3, running)
        alone = zero_running(1, beta2, dtype) if beta2 else None
        rows = [reference_step(*row, 0.04, 1e-3, alone)[0] for row in zip(*case, strict=True)]
        raw = sphere.length(case.gradient - 1e-3 * case.mu)
        stated = 4 * torch.finfo(dtype).eps * (1 + 0.04 * raw / report.tangent_norm.unsqueeze(-1))
        assert bool(((v - torch.stack(rows)).abs() <= stated).all())


def test_no_value_is_read_back_from_the_device() -> None:
    """Meta tensors have no values: any branch on one would raise."""
    rows = torch.empty(4, 8, device="meta")
    flags = torch.empty(4, device="meta", dtype=torch.bool)
    running = RunningNorm(rows[:, 0], rows[:, 1], 0.9)
    report = step_rows_(rows, rows, rows, rows[:, 2], rows[:, 3], running, flags)
    assert report.step_angle.shape == (4,)


def test_wrong_shapes_are_rejected_before_anything_moves(case: Case) -> None:
    v = case.v.clone()
    with pytest.raises(ConfigurationError, match=r"mu must have shape \[6, 48\], got \[48\]"):
        step_rows_(v, case.gradient, case.mu[0], 0.04)
    with pytest.raises(ConfigurationError, match=r"lr must have shape \[6\], got \[5\]"):
        step_rows_(v, case.gradient, case.mu, torch.ones(5))
    with pytest.raises(ConfigurationError, match="active must be boolean"):
        step_rows_(v, case.gradient, case.mu, 0.04, active=torch.ones(ROWS))
    assert torch.equal(v, case.v)

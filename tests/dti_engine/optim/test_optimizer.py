"""RiemannianSGD as a torch optimizer: convergence, checked options, masks, state."""

import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dti_engine.errors import ConfigurationError
from dti_engine.optim import sphere
from dti_engine.optim.optimizer import RiemannianSGD
from dti_engine.optim.rsgd import step_rows_

ROWS, DIM = 4, 24


def unit_rows(seed: int, rows: int = ROWS, dim: int = DIM) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return sphere.normalize(torch.randn(rows, dim, generator=random))


def gradient(step: int) -> Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1000 + step))


def parameter(seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(unit_rows(seed))


def test_finds_the_minimiser_on_the_sphere() -> None:
    rows, goal = parameter(0), unit_rows(1)
    optimizer = RiemannianSGD([rows], lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    for _ in range(300):
        optimizer.zero_grad()
        (rows - goal).square().sum().backward()
        optimizer.step()
        schedule.step()
    assert float(sphere.geodesic_distance(rows.detach(), goal).max()) < 1e-3


def test_the_default_mu_is_the_initial_rows() -> None:
    rows = parameter()
    start = rows.detach().clone()
    optimizer = RiemannianSGD([rows], lr=0.1, kappa=1e6)
    for step in range(5):
        rows.grad = gradient(step)
        optimizer.step()
        assert float(sphere.geodesic_distance(rows.detach(), start).max()) < 0.2
    assert torch.equal(optimizer.param_groups[0]["mu"], start)


def test_gradients_are_only_read_and_may_be_expanded() -> None:
    rows = parameter()
    optimizer = RiemannianSGD([rows], lr=0.1, kappa=1.0, beta2=0.9)
    rows.sum().backward()
    assert rows.grad is not None
    before = rows.grad.clone()
    optimizer.step()
    assert torch.equal(rows.grad, before)


def test_every_group_has_its_own_dimension_options_and_mask() -> None:
    small, large = parameter(0), torch.nn.Parameter(unit_rows(1, rows=2, dim=40))
    before = small.detach().clone(), large.detach().clone()
    optimizer = RiemannianSGD(
        [{"params": [small]}, {"params": [large], "lr": torch.tensor([0.01, 0.3])}], lr=0.1
    )
    small.grad, large.grad = gradient(0), torch.ones(2, 40)
    optimizer.step(active=[torch.tensor([True, False, True, True]), torch.tensor([False, True])])
    turned = [
        sphere.geodesic_distance(rows.detach(), start)
        for rows, start in zip((small, large), before, strict=True)
    ]
    expected = [torch.tensor([0.1, 0, 0.1, 0.1]).atan(), torch.tensor([0, 0.3]).atan()]
    for angle, expected_angle, report in zip(turned, expected, optimizer.reports, strict=True):
        assert torch.allclose(angle, expected_angle, atol=1e-6)
        assert report is not None
        assert torch.allclose(report.step_angle, expected_angle)


def test_a_group_without_gradient_is_left_alone() -> None:
    rows = parameter()
    optimizer = RiemannianSGD([rows], lr=0.1)
    optimizer.step()
    assert optimizer.reports == [None]
    assert torch.equal(rows.detach(), unit_rows(0))


def test_a_closure_is_evaluated_with_gradients() -> None:
    rows = parameter()
    optimizer = RiemannianSGD([rows], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = rows[:, 0].sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == pytest.approx(float(unit_rows(0)[:, 0].sum()))
    assert not torch.equal(rows.detach(), unit_rows(0))


def mask(step: int) -> Tensor:
    return torch.rand(ROWS, generator=torch.Generator().manual_seed(2000 + step)) < 0.7


def run(optimizer: RiemannianSGD, rows: torch.nn.Parameter, steps: range) -> None:
    for step in steps:
        rows.grad = gradient(step)
        optimizer.step(active=mask(step))


@pytest.mark.parametrize("beta2", [0.0, 0.95])
def test_resuming_from_the_state_equals_going_on_bit_for_bit(beta2: float) -> None:
    lr, kappa = torch.linspace(0.01, 0.1, ROWS), torch.linspace(0, 1e-2, ROWS)
    rows = parameter()
    optimizer = RiemannianSGD([rows], lr, mu=unit_rows(3), kappa=kappa, beta2=beta2)
    run(optimizer, rows, range(10))
    file = io.BytesIO()
    torch.save({"rows": rows.detach(), "optimizer": optimizer.state_dict()}, file)
    run(optimizer, rows, range(10, 20))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = torch.nn.Parameter(saved["rows"])
    fresh = RiemannianSGD([resumed], lr=0.5, beta2=beta2)
    fresh.load_state_dict(saved["optimizer"])
    assert fresh.reports == [None]
    run(fresh, resumed, range(10, 20))
    assert torch.equal(resumed, rows)


def test_a_row_counts_its_own_steps() -> None:
    """A row that joins late steps as if it were alone: its bias correction starts with it."""
    rows, alone = parameter(), parameter()
    optimizer = RiemannianSGD([rows], lr=0.1, beta2=0.9)
    late = torch.tensor([True, True, True, False])
    for step in range(3):
        rows.grad = gradient(step)
        optimizer.step(active=late)
    other = RiemannianSGD([alone], lr=0.1, beta2=0.9)
    for step in range(3, 6):
        rows.grad = alone.grad = gradient(step)
        optimizer.step()
        other.step()
    assert torch.equal(rows[3], alone[3])
    assert not torch.equal(rows[0], alone[0])


def test_options_are_copied_and_may_be_changed_between_steps() -> None:
    rows, lr, mu = parameter(), torch.full((ROWS,), 0.1), unit_rows(1)
    optimizer = RiemannianSGD([rows], lr, mu=mu, kappa=1.0)
    lr.zero_()
    mu.zero_()
    optimizer.param_groups[0]["lr"][2] = 0.3
    rows.grad = gradient(0)
    optimizer.step()
    expected = unit_rows(0)
    step_rows_(expected, gradient(0), unit_rows(1), torch.tensor([0.1, 0.1, 0.3, 0.1]), 1.0)
    assert torch.equal(rows.detach(), expected)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"lr": -0.1}, r"lr must be finite and >= 0, got -0\.1"),
        ({"lr": math.nan}, "lr must be finite and >= 0, got nan"),
        ({"lr": torch.tensor([0.1, 0.2])}, r"lr must be a float or \[4\], got \[2\]"),
        ({"kappa": math.inf}, "kappa must be finite and >= 0, got inf"),
        ({"kappa": torch.tensor([0, 0, 0, -1.0])}, r"kappa must be finite .*-1\."),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\), got 1\.0"),
        ({"eps": -1e-8}, "eps must be finite and >= 0, got -1e-08"),
        ({"mu": unit_rows(0)[0]}, r"mu must have the shape .*, got \[24\]"),
        ({"mu": 2 * unit_rows(0)}, r"mu must have rows of length 1, got one of (2\.0|1\.99)"),
        ({"params": [unit_rows(0), unit_rows(1)]}, "one tensor of rows, got 2"),
        ({"params": [0.4 * unit_rows(0)]}, r"params must have rows of length 1, got one of 0\.4"),
        ({"params": [unit_rows(0).bfloat16()]}, r"params must be float32 .*, got torch\.bfloat16"),
        ({"params": [unit_rows(0)[0]]}, r"params must have the shape .*, got \[24\]"),
    ],
)
def test_options_out_of_range_are_rejected_with_their_value(
    option: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RiemannianSGD([{"params": [parameter()], **option}], lr=0.1)


def test_masks_that_do_not_fit_are_rejected() -> None:
    rows = parameter()
    optimizer = RiemannianSGD([rows], lr=0.1)
    rows.grad = gradient(0)
    with pytest.raises(ConfigurationError, match="one mask per group: 1, got 2"):
        optimizer.step(active=[mask(0), mask(1)])
    with pytest.raises(ConfigurationError, match=r"active must have shape \[4\], got \[3\]"):
        optimizer.step(active=mask(0)[:3])

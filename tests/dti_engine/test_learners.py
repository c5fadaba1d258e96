"""Learned rows: what a step does to them, and that they do not notice their neighbours."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dti_engine import sphere
from dti_engine.errors import ZeroVectorError
from dti_engine.learners import DirectionLearner, Learner, VectorLearner
from dti_engine.step import reference_step

ROWS, DIM = 6, 32
LR, KAPPA, WEIGHT_DECAY = 0.04, 0.1, 0.01


def _table(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(ROWS, DIM, dtype=dtype)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _directions(dtype: torch.dtype = torch.float64) -> DirectionLearner:
    return DirectionLearner(_table(dtype), lr=LR, kappa=KAPPA)


def _running_directions() -> DirectionLearner:
    return DirectionLearner(_table(), lr=LR, kappa=KAPPA, beta2=0.9)


def _vectors() -> VectorLearner:
    return VectorLearner(_table(), lr=LR, weight_decay=WEIGHT_DECAY)


@pytest.fixture(params=[_directions, _running_directions, _vectors], ids=["dti", "dti-beta2", "ti"])
def new_learner(request: pytest.FixtureRequest) -> Callable[[], Learner]:
    return request.param


def _seat(learner: Learner, rows: slice, *, seed: int = 0, magnitude: float = 0.4) -> Tensor:
    """Seats embeddings of this length, and returns their directions."""
    directions = sphere.normalize(_random(rows.stop - rows.start, DIM, seed=seed))
    learner.seat(rows, magnitude * directions)
    return directions


def test_a_seated_row_starts_at_its_initial_embedding(new_learner: Callable[[], Learner]) -> None:
    learner, initial = new_learner(), _random(2, DIM)
    learner.seat(slice(1, 3), initial)
    torch.testing.assert_close(learner.embeddings()[1:3].detach(), initial, rtol=1e-14, atol=0)


def test_a_direction_cannot_start_from_zero() -> None:
    with pytest.raises(ZeroVectorError):
        _directions().seat(slice(0, 1), torch.zeros(1, DIM))


def test_only_seated_rows_move(new_learner: Callable[[], Learner]) -> None:
    learner = new_learner()
    _seat(learner, slice(0, 2))
    _seat(learner, slice(2, 4), seed=1)
    learner.vacate(slice(2, 4))
    before = learner.embeddings().detach().clone()
    learner.step(_random(ROWS, DIM, seed=2))
    moved = (learner.embeddings() != before).any(dim=1).tolist()
    assert moved == [True, True, False, False, False, False]


def test_a_row_does_not_notice_its_neighbours(new_learner: Callable[[], Learner]) -> None:
    alone, crowded = new_learner(), new_learner()
    _seat(alone, slice(2, 3))
    _seat(crowded, slice(2, 3))
    _seat(crowded, slice(3, 6), seed=5)
    for step in range(5):
        gradient = _random(ROWS, DIM, seed=100 + step)
        lonely = torch.zeros_like(gradient)
        lonely[2] = gradient[2]
        alone.step(lonely)
        gradient[4] *= math.nan if step == 3 else 1
        crowded.step(gradient)
    assert torch.equal(alone.embeddings()[2], crowded.embeddings()[2])


def test_a_row_that_is_seated_again_remembers_nothing(new_learner: Callable[[], Learner]) -> None:
    used, fresh = new_learner(), new_learner()
    _seat(used, slice(0, 1), seed=7)
    for step in range(3):
        used.step(_random(ROWS, DIM, seed=100 + step))
    used.vacate(slice(0, 1))
    for learner in (used, fresh):
        _seat(learner, slice(0, 1))
        learner.step(_random(ROWS, DIM, seed=11))
    assert torch.equal(used.embeddings()[0], fresh.embeddings()[0])


def test_rows_go_on_from_their_state_bit_for_bit_wherever_they_lie(
    new_learner: Callable[[], Learner],
) -> None:
    through, other = new_learner(), new_learner()
    _seat(through, slice(1, 3))
    for step in range(3):
        through.step(_random(ROWS, DIM, seed=100 + step))
    state = through.state(slice(1, 3))
    for step in range(3):
        gradient = _random(ROWS, DIM, seed=200 + step)
        if step == 0:
            other.restore(slice(4, 6), state)
        through.step(gradient)
        other.step(gradient.roll(3, dims=0))
    assert torch.equal(other.embeddings()[4:6], through.embeddings()[1:3])
    assert other.seated.tolist() == [False] * 4 + [True] * 2


def test_the_report_says_how_far_a_row_turned_and_how_long_it_is(
    new_learner: Callable[[], Learner],
) -> None:
    learner = new_learner()
    initial = _seat(learner, slice(0, 1))
    for step in range(3):
        before = sphere.normalize(learner.embeddings()[:1].detach())
        gradient = _random(ROWS, DIM, seed=100 + step)
        report = learner.step(gradient)
    after = learner.embeddings()[:1].detach()
    for reported, expected in (
        (report.gradient_norm, gradient[:1].norm(dim=1)),
        (report.step_angle, sphere.geodesic_distance(before, sphere.normalize(after))),
        (report.prior_angle, sphere.geodesic_distance(initial, sphere.normalize(after))),
        (report.norm, after.norm(dim=1)),
    ):
        torch.testing.assert_close(reported[:1], expected, rtol=1e-9, atol=0)


def test_directions_follow_the_reference_step_with_the_magnitude_inside_the_gradient() -> None:
    learner, magnitude = _directions(), 0.4
    v = mu = _seat(learner, slice(0, 1), magnitude=magnitude)[0]
    for step in range(5):
        target = _random(ROWS, DIM, seed=100 + step)
        loss = (learner.embeddings() - target).square().sum()
        (gradient,) = torch.autograd.grad(loss, learner.parameter)
        learner.step(gradient)
        v, _ = reference_step(v, magnitude * 2 * (magnitude * v - target[0]), mu, LR, KAPPA)
    torch.testing.assert_close(learner.embeddings()[0].detach(), magnitude * v, rtol=0, atol=1e-8)


def test_directions_turn_by_their_learning_rate_and_keep_their_length() -> None:
    learner = _directions(torch.float32)
    _seat(learner, slice(0, 3), magnitude=0.387)
    for step in range(200):
        report = learner.step(_random(ROWS, DIM, seed=100 + step).float())
        torch.testing.assert_close(report.step_angle[:3], torch.full((3,), math.atan(LR)))
    lengths = learner.embeddings()[:3].norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), 0.387), rtol=0, atol=1e-6)


def test_vectors_equal_one_adamw_per_subject_though_they_start_at_different_times() -> None:
    packed = _vectors()
    separate: dict[int, torch.optim.AdamW] = {}
    for step in range(20):
        if step in (0, 7, 8):
            row = len(separate)
            _seat(packed, slice(row, row + 1), seed=step)
            parameter = torch.nn.Parameter(packed.embeddings()[row].detach().clone())
            separate[row] = torch.optim.AdamW([parameter], lr=LR, weight_decay=WEIGHT_DECAY)
        gradient = _random(ROWS, DIM, seed=100 + step)
        packed.step(gradient)
        for row, optimizer in separate.items():
            _only_parameter(optimizer).grad = gradient[row]
            optimizer.step()
    expected = torch.stack([_only_parameter(optimizer).detach() for optimizer in separate.values()])
    torch.testing.assert_close(packed.embeddings()[:3].detach(), expected, rtol=1e-12, atol=1e-14)


def _only_parameter(optimizer: torch.optim.Optimizer) -> Tensor:
    return optimizer.param_groups[0]["params"][0]


def test_vectors_change_their_length() -> None:
    learner = _vectors()
    _seat(learner, slice(0, 1), magnitude=0.4)
    for step in range(20):
        learner.step(_random(ROWS, DIM, seed=100 + step))
    assert abs(learner.embeddings()[0].norm().item() - 0.4) > 0.05

"""Learned rows: what a step does to them, and that they do not notice their neighbours."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dti_engine.config import TrainConfig
from dti_engine.errors import ZeroVectorError
from dti_engine.optim import sphere
from dti_engine.optim.embeddings import EmbeddingOptimizer, new_embedding_optimizer
from dti_engine.optim.rsgd import reference_step

ROWS, DIM = 6, 32
LR, KAPPA, WEIGHT_DECAY, AVERAGING = 0.04, 0.1, 0.01, 0.9
DTI = TrainConfig(steps=100, batch_size=1, resolution=8, lr=LR, kappa=KAPPA)
TI = DTI.changed(method="ti", kappa=0.0, weight_decay=WEIGHT_DECAY)
AVERAGED = DTI.changed(ema_decay=AVERAGING)
CONFIGS = {"dti": DTI, "dti-beta2": DTI.changed(beta2=0.9), "dti-averaged": AVERAGED, "ti": TI}
CONFIGS |= {"ti-pulled": TI.changed(anchor_weight=0.5)}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return CONFIGS[request.param]


def _learner(config: TrainConfig, dtype: torch.dtype = torch.float64) -> EmbeddingOptimizer:
    return new_embedding_optimizer(config, ROWS, torch.zeros(1, DIM, dtype=dtype))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _seat(
    learner: EmbeddingOptimizer,
    rows: slice,
    config: TrainConfig,
    *,
    seed: int = 0,
    magnitude: float = 0.4,
) -> Tensor:
    """Seats embeddings of this length, and returns their directions."""
    directions = sphere.normalize(_random(rows.stop - rows.start, DIM, seed=seed))
    learner.add_rows(rows, magnitude * directions, config)
    return directions


def _rows(learner: EmbeddingOptimizer) -> Tensor:
    """What the encoder gets and what a token keeps, (rows, 2, d)."""
    return torch.stack([learner.embeddings().detach(), learner.learned()], dim=1)


def test_a_seated_row_starts_at_its_initial_embedding(config: TrainConfig) -> None:
    learner, initial = _learner(config), _random(2, DIM)
    learner.add_rows(slice(1, 3), initial, config)
    expected = torch.stack([initial, initial], dim=1)
    torch.testing.assert_close(_rows(learner)[1:3], expected, rtol=1e-14, atol=0)


def test_a_direction_cannot_start_from_zero() -> None:
    with pytest.raises(ZeroVectorError):
        _learner(DTI).add_rows(slice(0, 1), torch.zeros(1, DIM), DTI)


def test_only_seated_rows_move(config: TrainConfig) -> None:
    learner = _learner(config)
    _seat(learner, slice(0, 2), config)
    _seat(learner, slice(2, 4), config, seed=1)
    learner.step(_random(ROWS, DIM, seed=3))
    learner.remove_rows(slice(2, 4))
    before = _rows(learner)
    learner.step(_random(ROWS, DIM, seed=2))
    moved = (_rows(learner) != before).any(dim=2)
    assert moved.tolist() == [[True, True]] * 2 + [[False, False]] * 4


def test_a_row_does_not_notice_its_neighbours(config: TrainConfig) -> None:
    alone, crowded = _learner(config), _learner(config)
    _seat(alone, slice(2, 3), config)
    _seat(crowded, slice(2, 3), config)
    _seat(crowded, slice(3, 6), config, seed=5)
    for step in range(5):
        gradient = _random(ROWS, DIM, seed=100 + step)
        lonely = torch.zeros_like(gradient)
        lonely[2] = gradient[2]
        alone.step(lonely)
        gradient[4] *= math.nan if step == 3 else 1
        crowded.step(gradient)
    assert torch.equal(_rows(alone)[2], _rows(crowded)[2])


@pytest.mark.parametrize(
    "configs",
    [
        [DTI, DTI.changed(lr=0.01), DTI.changed(kappa=0.0), AVERAGED],
        [TI, TI.changed(lr=0.01), TI.changed(weight_decay=0.5)],
    ],
    ids=["dti", "ti"],
)
def test_each_row_learns_as_its_own_config_says(configs: list[TrainConfig]) -> None:
    mixed, alike = _learner(configs[0]), [_learner(each) for each in configs]
    for row, config in enumerate(configs):
        for learner in (mixed, alike[row]):
            _seat(learner, slice(row, row + 1), config, seed=row)
    for step in range(5):
        for learner in (mixed, *alike):
            learner.step(_random(ROWS, DIM, seed=100 + step))
    for row, learner in enumerate(alike):
        assert torch.equal(_rows(mixed)[row], _rows(learner)[row])
    ends = _rows(mixed)[: len(configs), 1]
    assert len({each.numpy().tobytes() for each in ends}) == len(configs)


def test_a_row_that_is_seated_again_remembers_nothing(config: TrainConfig) -> None:
    used, fresh = _learner(config), _learner(config)
    _seat(used, slice(0, 1), config, seed=7)
    for step in range(3):
        used.set_learning_rate(slice(0, 1), 0.3)
        used.step(_random(ROWS, DIM, seed=100 + step))
    used.remove_rows(slice(0, 1))
    for learner in (used, fresh):
        _seat(learner, slice(0, 1), config)
        learner.step(_random(ROWS, DIM, seed=11))
    assert torch.equal(_rows(used)[0], _rows(fresh)[0])


def test_rows_go_on_from_their_state_bit_for_bit_wherever_they_lie(config: TrainConfig) -> None:
    through, other = _learner(config), _learner(config)
    _seat(through, slice(1, 3), config)
    for step in range(3):
        through.step(_random(ROWS, DIM, seed=100 + step))
    _seat(other, slice(4, 6), config, seed=9)
    other.restore(slice(4, 6), through.state(slice(1, 3)))
    for step in range(3):
        assert torch.equal(_rows(other)[4:6], _rows(through)[1:3])
        gradient = _random(ROWS, DIM, seed=200 + step)
        through.step(gradient)
        other.step(gradient.roll(3, dims=0))
    assert torch.equal(_rows(other)[4:6], _rows(through)[1:3])


def test_the_report_says_how_far_a_row_turned_and_how_long_it_is(config: TrainConfig) -> None:
    learner = _learner(config)
    initial = _seat(learner, slice(0, 1), config)
    for step in range(3):
        before = sphere.normalize(learner.embeddings()[:1].detach())
        gradient = _random(ROWS, DIM, seed=100 + step)
        report = learner.step(gradient)
    after, learned = learner.embeddings()[:1].detach(), learner.learned()[:1]
    for reported, expected in (
        (report.gradient_norm, gradient[:1].norm(dim=1)),
        (report.step_angle, sphere.geodesic_distance(before, sphere.normalize(after))),
        (report.prior_angle, sphere.geodesic_distance(initial, sphere.normalize(learned))),
        (report.norm, learned.norm(dim=1)),
    ):
        torch.testing.assert_close(reported[:1], expected, rtol=1e-9, atol=0)


# Directions


def test_directions_follow_the_reference_step_with_the_magnitude_inside_the_gradient() -> None:
    learner, magnitude = _learner(DTI), 0.4
    v = mu = _seat(learner, slice(0, 1), DTI, magnitude=magnitude)[0]
    for step in range(5):
        target = _random(ROWS, DIM, seed=100 + step)
        loss = (learner.embeddings() - target).square().sum()
        (gradient,) = torch.autograd.grad(loss, learner.parameter)
        learner.step(gradient)
        v, _ = reference_step(v, magnitude * 2 * (magnitude * v - target[0]), mu, LR, KAPPA)
    torch.testing.assert_close(learner.embeddings()[0].detach(), magnitude * v, rtol=0, atol=1e-8)


def test_directions_turn_by_their_learning_rate_and_keep_their_length() -> None:
    learner = _learner(AVERAGED, torch.float32)
    _seat(learner, slice(0, 3), AVERAGED, magnitude=0.387)
    rates = torch.tensor([LR, LR, 0.1])
    learner.set_learning_rate(slice(2, 3), 0.1)
    for step in range(200):
        report = learner.step(_random(ROWS, DIM, seed=100 + step).float())
        torch.testing.assert_close(report.step_angle[:3], rates.atan())
    lengths = _rows(learner)[:3].norm(dim=2)
    torch.testing.assert_close(lengths, torch.full((3, 2), 0.387), rtol=0, atol=1e-6)


def test_an_averaged_direction_is_that_of_the_running_mean_of_those_passed_through() -> None:
    plain, averaged = _learner(DTI), _learner(AVERAGED)
    for learner, config in ((plain, DTI), (averaged, AVERAGED)):
        _seat(learner, slice(1, 2), config, magnitude=0.4)
    passed: list[np.ndarray] = []
    for step in range(30):
        for learner in (plain, averaged):
            learner.step(_random(ROWS, DIM, seed=100 + step))
        # Averaging only looks on: it changes nothing of the way.
        assert torch.equal(averaged.embeddings()[1], plain.embeddings()[1])
        assert torch.equal(plain.learned()[1], plain.embeddings()[1])
        passed.append(plain.parameter[1].detach().numpy().copy())
        weights = AVERAGING ** np.arange(len(passed))[::-1]  # the last one weighs most
        mean = np.average(passed, axis=0, weights=weights)
        expected = torch.from_numpy(0.4 * mean / np.linalg.norm(mean))
        torch.testing.assert_close(averaged.learned()[1], expected, rtol=0, atol=1e-15)
    assert not torch.allclose(averaged.learned()[1], plain.learned()[1], rtol=0, atol=0.01)


def test_an_average_of_one_direction_is_that_direction() -> None:
    learner = _learner(AVERAGED, torch.float32)
    _seat(learner, slice(0, 2), AVERAGED)
    learner.step(_random(ROWS, DIM).float())
    torch.testing.assert_close(learner.learned(), learner.embeddings().detach())


# Vectors


def test_vectors_equal_one_adamw_per_subject_though_they_start_at_different_times() -> None:
    packed = _learner(TI)
    separate: dict[int, torch.optim.AdamW] = {}
    for step in range(20):
        if step in (0, 7, 8):
            row = len(separate)
            _seat(packed, slice(row, row + 1), TI, seed=step)
            parameter = torch.nn.Parameter(packed.embeddings()[row].detach().clone())
            separate[row] = torch.optim.AdamW([parameter], lr=LR, weight_decay=WEIGHT_DECAY)
        if step == 12:
            packed.set_learning_rate(slice(1, 2), 0.01)
            separate[1].param_groups[0]["lr"] = 0.01
        gradient = _random(ROWS, DIM, seed=100 + step)
        packed.step(gradient)
        for row, optimizer in separate.items():
            _only_parameter(optimizer).grad = gradient[row]
            optimizer.step()
    expected = torch.stack([_only_parameter(optimizer).detach() for optimizer in separate.values()])
    torch.testing.assert_close(packed.learned()[:3], expected, rtol=1e-12, atol=1e-14)


def _only_parameter(optimizer: torch.optim.Optimizer) -> Tensor:
    return optimizer.param_groups[0]["params"][0]


def test_pulled_vectors_are_those_of_autograd_on_data_and_distance() -> None:
    """CrossInit: the mean over a token's vectors of the distance to the start, not its square."""
    config, data = TI.changed(anchor_weight=0.5), _random(2, DIM, seed=3)
    learner, start = _learner(config), _random(2, DIM)
    learner.add_rows(slice(1, 3), start, config)
    expected = start.clone().requires_grad_()
    adamw = torch.optim.AdamW([expected], lr=LR, weight_decay=WEIGHT_DECAY)
    for _ in range(5):
        gradient = torch.zeros(ROWS, DIM, dtype=torch.float64)
        gradient[1:3] = data
        report = learner.step(gradient)
        adamw.zero_grad()
        distances = torch.linalg.vector_norm(expected - start, dim=-1)
        ((data * expected).sum() + 0.5 * distances.mean()).backward()
        adamw.step()
        torch.testing.assert_close(learner.parameter.detach()[1:3], expected.detach())
    torch.testing.assert_close(report.gradient_norm[1:3], torch.linalg.vector_norm(data, dim=-1))
    plain = _learner(TI)
    plain.add_rows(slice(1, 3), start, TI)
    for _ in range(5):
        plain.step(gradient)
    assert not torch.allclose(plain.parameter[1:3], learner.parameter[1:3], atol=1e-4)


def test_vectors_change_their_length() -> None:
    learner = _learner(TI)
    _seat(learner, slice(0, 1), TI, magnitude=0.4)
    for step in range(20):
        learner.step(_random(ROWS, DIM, seed=100 + step))
    assert abs(learner.embeddings()[0].norm().item() - 0.4) > 0.05

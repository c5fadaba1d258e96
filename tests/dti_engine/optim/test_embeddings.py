"""Embedding optimizers: steps, state, and independence of neighbouring rows."""

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
CONFIGS |= {"ti-anchored": TI.changed(anchor_weight=0.5)}


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> TrainConfig:
    return CONFIGS[request.param]


def _optimizer(config: TrainConfig, dtype: torch.dtype = torch.float64) -> EmbeddingOptimizer:
    return new_embedding_optimizer(config, ROWS, torch.zeros(1, DIM, dtype=dtype))


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _add(
    optimizer: EmbeddingOptimizer,
    rows: slice,
    config: TrainConfig,
    *,
    seed: int = 0,
    magnitude: float = 0.4,
) -> Tensor:
    """Add embeddings of this length, and return their directions."""
    directions = sphere.normalize(_random(rows.stop - rows.start, DIM, seed=seed))
    optimizer.add_rows(rows, magnitude * directions, config)
    return directions


def _rows(optimizer: EmbeddingOptimizer) -> Tensor:
    """Return the embeddings for the encoder and those that a token keeps, (rows, 2, d)."""
    return torch.stack([optimizer.embeddings().detach(), optimizer.learned()], dim=1)


def test_a_row_starts_at_its_initial_embedding(config: TrainConfig) -> None:
    optimizer, initial = _optimizer(config), _random(2, DIM)
    optimizer.add_rows(slice(1, 3), initial, config)
    expected = torch.stack([initial, initial], dim=1)
    torch.testing.assert_close(_rows(optimizer)[1:3], expected, rtol=1e-14, atol=0)


def test_a_direction_cannot_start_from_zero() -> None:
    with pytest.raises(ZeroVectorError):
        _optimizer(DTI).add_rows(slice(0, 1), torch.zeros(1, DIM), DTI)


def test_only_active_rows_move(config: TrainConfig) -> None:
    optimizer = _optimizer(config)
    _add(optimizer, slice(0, 2), config)
    _add(optimizer, slice(2, 4), config, seed=1)
    optimizer.step(_random(ROWS, DIM, seed=3))
    optimizer.remove_rows(slice(2, 4))
    before = _rows(optimizer)
    optimizer.step(_random(ROWS, DIM, seed=2))
    moved = (_rows(optimizer) != before).any(dim=2)
    assert moved.tolist() == [[True, True]] * 2 + [[False, False]] * 4


def test_neighbours_do_not_change_a_row(config: TrainConfig) -> None:
    alone, crowded = _optimizer(config), _optimizer(config)
    _add(alone, slice(2, 3), config)
    _add(crowded, slice(2, 3), config)
    _add(crowded, slice(3, 6), config, seed=5)
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
def test_each_row_follows_its_own_config(configs: list[TrainConfig]) -> None:
    mixed, alike = _optimizer(configs[0]), [_optimizer(each) for each in configs]
    for row, config in enumerate(configs):
        for optimizer in (mixed, alike[row]):
            _add(optimizer, slice(row, row + 1), config, seed=row)
    for step in range(5):
        for optimizer in (mixed, *alike):
            optimizer.step(_random(ROWS, DIM, seed=100 + step))
    for row, optimizer in enumerate(alike):
        assert torch.equal(_rows(mixed)[row], _rows(optimizer)[row])
    ends = _rows(mixed)[: len(configs), 1]
    assert len({each.numpy().tobytes() for each in ends}) == len(configs)


def test_a_row_that_is_added_again_has_fresh_state(config: TrainConfig) -> None:
    used, fresh = _optimizer(config), _optimizer(config)
    _add(used, slice(0, 1), config, seed=7)
    for step in range(3):
        used.set_learning_rate(slice(0, 1), 0.3)
        used.step(_random(ROWS, DIM, seed=100 + step))
    used.remove_rows(slice(0, 1))
    for optimizer in (used, fresh):
        _add(optimizer, slice(0, 1), config)
        optimizer.step(_random(ROWS, DIM, seed=11))
    assert torch.equal(_rows(used)[0], _rows(fresh)[0])


def test_rows_resume_from_their_state_bit_for_bit_at_any_position(config: TrainConfig) -> None:
    through, other = _optimizer(config), _optimizer(config)
    _add(through, slice(1, 3), config)
    for step in range(3):
        through.step(_random(ROWS, DIM, seed=100 + step))
    _add(other, slice(4, 6), config, seed=9)
    other.restore(slice(4, 6), through.state(slice(1, 3)))
    for step in range(3):
        assert torch.equal(_rows(other)[4:6], _rows(through)[1:3])
        gradient = _random(ROWS, DIM, seed=200 + step)
        through.step(gradient)
        other.step(gradient.roll(3, dims=0))
    assert torch.equal(_rows(other)[4:6], _rows(through)[1:3])


def test_metrics_have_the_angle_and_the_norm_of_a_row(config: TrainConfig) -> None:
    optimizer = _optimizer(config)
    initial = _add(optimizer, slice(0, 1), config)
    for step in range(3):
        before = sphere.normalize(optimizer.embeddings()[:1].detach())
        gradient = _random(ROWS, DIM, seed=100 + step)
        report = optimizer.step(gradient)
    after, learned = optimizer.embeddings()[:1].detach(), optimizer.learned()[:1]
    for reported, expected in (
        (report.gradient_norm, gradient[:1].norm(dim=1)),
        (report.step_angle, sphere.geodesic_distance(before, sphere.normalize(after))),
        (report.prior_angle, sphere.geodesic_distance(initial, sphere.normalize(learned))),
        (report.norm, learned.norm(dim=1)),
    ):
        torch.testing.assert_close(reported[:1], expected, rtol=1e-9, atol=0)


# Directions


def test_directions_follow_the_reference_step_with_the_magnitude_inside_the_gradient() -> None:
    optimizer, magnitude = _optimizer(DTI), 0.4
    v = mu = _add(optimizer, slice(0, 1), DTI, magnitude=magnitude)[0]
    for step in range(5):
        target = _random(ROWS, DIM, seed=100 + step)
        loss = (optimizer.embeddings() - target).square().sum()
        (gradient,) = torch.autograd.grad(loss, optimizer.parameter)
        optimizer.step(gradient)
        v, _ = reference_step(v, magnitude * 2 * (magnitude * v - target[0]), mu, LR, KAPPA)
    torch.testing.assert_close(optimizer.embeddings()[0].detach(), magnitude * v, rtol=0, atol=1e-8)


def test_directions_turn_by_their_learning_rate_and_keep_their_length() -> None:
    optimizer = _optimizer(AVERAGED, torch.float32)
    _add(optimizer, slice(0, 3), AVERAGED, magnitude=0.387)
    rates = torch.tensor([LR, LR, 0.1])
    optimizer.set_learning_rate(slice(2, 3), 0.1)
    for step in range(200):
        report = optimizer.step(_random(ROWS, DIM, seed=100 + step).float())
        torch.testing.assert_close(report.step_angle[:3], rates.atan())
    lengths = _rows(optimizer)[:3].norm(dim=2)
    torch.testing.assert_close(lengths, torch.full((3, 2), 0.387), rtol=0, atol=1e-6)


def test_an_averaged_direction_is_that_of_the_moving_average() -> None:
    plain, averaged = _optimizer(DTI), _optimizer(AVERAGED)
    for optimizer, config in ((plain, DTI), (averaged, AVERAGED)):
        _add(optimizer, slice(1, 2), config, magnitude=0.4)
    passed: list[np.ndarray] = []
    for step in range(30):
        for optimizer in (plain, averaged):
            optimizer.step(_random(ROWS, DIM, seed=100 + step))
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
    optimizer = _optimizer(AVERAGED, torch.float32)
    _add(optimizer, slice(0, 2), AVERAGED)
    optimizer.step(_random(ROWS, DIM).float())
    torch.testing.assert_close(optimizer.learned(), optimizer.embeddings().detach())


# Vectors


def test_vectors_equal_one_adamw_per_subject_though_they_start_at_different_times() -> None:
    packed = _optimizer(TI)
    separate: dict[int, torch.optim.AdamW] = {}
    for step in range(20):
        if step in (0, 7, 8):
            row = len(separate)
            _add(packed, slice(row, row + 1), TI, seed=step)
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


def test_anchored_vectors_equal_autograd_of_loss_plus_distance() -> None:
    """CrossInit: the mean over a token's vectors of the distance to the start, not its square."""
    config, data = TI.changed(anchor_weight=0.5), _random(2, DIM, seed=3)
    optimizer, start = _optimizer(config), _random(2, DIM)
    optimizer.add_rows(slice(1, 3), start, config)
    expected = start.clone().requires_grad_()
    adamw = torch.optim.AdamW([expected], lr=LR, weight_decay=WEIGHT_DECAY)
    for _ in range(5):
        gradient = torch.zeros(ROWS, DIM, dtype=torch.float64)
        gradient[1:3] = data
        report = optimizer.step(gradient)
        adamw.zero_grad()
        distances = torch.linalg.vector_norm(expected - start, dim=-1)
        ((data * expected).sum() + 0.5 * distances.mean()).backward()
        adamw.step()
        torch.testing.assert_close(optimizer.parameter.detach()[1:3], expected.detach())
    torch.testing.assert_close(report.gradient_norm[1:3], torch.linalg.vector_norm(data, dim=-1))
    plain = _optimizer(TI)
    plain.add_rows(slice(1, 3), start, TI)
    for _ in range(5):
        plain.step(gradient)
    assert not torch.allclose(plain.parameter[1:3], optimizer.parameter[1:3], atol=1e-4)


def test_vectors_change_their_length() -> None:
    optimizer = _optimizer(TI)
    _add(optimizer, slice(0, 1), TI, magnitude=0.4)
    for step in range(20):
        optimizer.step(_random(ROWS, DIM, seed=100 + step))
    assert abs(optimizer.embeddings()[0].norm().item() - 0.4) > 0.05

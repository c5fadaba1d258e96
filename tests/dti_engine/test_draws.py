"""Every draw is a pure function of (seed, step), and fair."""

import dataclasses
from typing import Any

import pytest
import torch

from dti_engine.draws import Draws, draw

SHAPE: dict[str, Any] = {
    "batch_size": 4,
    "num_crops": [1, 3, 2],
    "num_captions": 5,
    "latent_shape": (2, 8, 8),
    "timesteps": "uniform",
}


def _equal(a: Draws, b: Draws) -> bool:
    return all(
        torch.equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(a)
    )


def test_a_draw_depends_on_seed_and_step_only() -> None:
    first = draw(3, 7, **SHAPE)
    draw(4, 7, **SHAPE), draw(3, 8, **SHAPE), torch.manual_seed(0)
    assert _equal(first, draw(3, 7, **SHAPE))


def test_every_seed_and_every_step_draws_something_else() -> None:
    noises = {
        draw(seed, step, **SHAPE).noise.numpy().tobytes()
        for seed in range(20)
        for step in range(20)
    }
    assert len(noises) == 400


def test_neither_seed_nor_step_may_be_swapped_for_the_other() -> None:
    assert not _equal(draw(1, 2, **SHAPE), draw(2, 1, **SHAPE))


def test_the_largest_seed_is_allowed() -> None:
    assert torch.isfinite(draw(2**64 - 1, 0, **SHAPE).noise).all()


def test_pictures_are_drawn_alike_however_many_crops_they_have() -> None:
    draws = [draw(0, step, **SHAPE) for step in range(1500)]
    views = torch.cat([d.views for d in draws])
    share = torch.bincount(views, minlength=6) / len(views)
    expected = torch.tensor([1 / 3, 1 / 9, 1 / 9, 1 / 9, 1 / 6, 1 / 6])
    torch.testing.assert_close(share, expected, rtol=0, atol=0.02)  # 3 standard deviations


def test_captions_are_drawn_alike() -> None:
    captions = torch.cat([draw(0, step, **SHAPE).captions for step in range(1500)])
    share = torch.bincount(captions, minlength=5) / len(captions)
    torch.testing.assert_close(share, torch.full((5,), 0.2), rtol=0, atol=0.016)


@pytest.mark.parametrize("timesteps", ["uniform", "stratified"])
def test_times_fill_the_unit_interval_and_never_reach_one(timesteps: str) -> None:
    u = torch.cat([draw(0, step, **{**SHAPE, "timesteps": timesteps}).u for step in range(1500)])
    assert 0 <= u.min() < 0.001
    assert 0.999 < u.max() < 1
    torch.testing.assert_close(u.mean(), torch.tensor(0.5), rtol=0, atol=0.012)


def test_stratified_times_put_one_sample_in_each_part_of_the_interval() -> None:
    for step in range(100):
        u = draw(0, step, **{**SHAPE, "timesteps": "stratified"}).u
        assert (4 * u).floor().tolist() == [0, 1, 2, 3]


def test_the_two_noises_are_standard_normal_and_independent() -> None:
    draws = [draw(0, step, **SHAPE) for step in range(200)]
    posterior, noise = (
        torch.cat([getattr(d, name) for d in draws]) for name in ("posterior", "noise")
    )
    for sample in (posterior, noise):
        torch.testing.assert_close(sample.mean(), torch.tensor(0.0), rtol=0, atol=0.01)
        torch.testing.assert_close(sample.std(), torch.tensor(1.0), rtol=0, atol=0.01)
    torch.testing.assert_close((posterior * noise).mean(), torch.tensor(0.0), rtol=0, atol=0.01)

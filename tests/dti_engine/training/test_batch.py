"""Every draw is a pure function of (seed, step), and fair."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from dti_engine.training.batch import SampleDraws, draw_fixed_samples, draw_samples

SHAPE: dict[str, Any] = {
    "batch_size": 4,
    "num_crops": [1, 3, 2],
    "num_captions": 5,
    "latent_shape": (2, 8, 8),
    "timesteps": "uniform",
}
FIXED: dict[str, Any] = {
    "size": 8,
    "num_crops": [1, 3, 2],
    "num_captions": 5,
    "latent_shape": (2, 8, 8),
}


def _equal(a: SampleDraws, b: SampleDraws) -> bool:
    return all(
        torch.equal(getattr(a, field.name), getattr(b, field.name))
        for field in dataclasses.fields(a)
    )


def test_a_draw_depends_on_seed_and_step_only() -> None:
    first = draw_samples(3, 7, **SHAPE)
    draw_samples(4, 7, **SHAPE), draw_samples(3, 8, **SHAPE), torch.manual_seed(0)
    assert _equal(first, draw_samples(3, 7, **SHAPE))


def test_every_seed_and_every_step_draws_something_else() -> None:
    noises = {
        draw_samples(seed, step, **SHAPE).noise.numpy().tobytes()
        for seed in range(20)
        for step in range(20)
    }
    assert len(noises) == 400


def test_neither_seed_nor_step_may_be_swapped_for_the_other() -> None:
    assert not _equal(draw_samples(1, 2, **SHAPE), draw_samples(2, 1, **SHAPE))


def test_the_largest_seed_is_allowed() -> None:
    assert torch.isfinite(draw_samples(2**64 - 1, 0, **SHAPE).noise).all()
    assert torch.isfinite(draw_fixed_samples(2**64 - 1, **FIXED).noise).all()


def test_images_are_drawn_alike_however_many_crops_they_have() -> None:
    draws = [draw_samples(0, step, **SHAPE) for step in range(1500)]
    views = torch.cat([d.crops for d in draws])
    share = torch.bincount(views, minlength=6) / len(views)
    expected = torch.tensor([1 / 3, 1 / 9, 1 / 9, 1 / 9, 1 / 6, 1 / 6])
    torch.testing.assert_close(share, expected, rtol=0, atol=0.02)  # 3 standard deviations


def test_captions_are_drawn_alike() -> None:
    captions = torch.cat([draw_samples(0, step, **SHAPE).captions for step in range(1500)])
    share = torch.bincount(captions, minlength=5) / len(captions)
    torch.testing.assert_close(share, torch.full((5,), 0.2), rtol=0, atol=0.016)


@pytest.mark.parametrize("timesteps", ["uniform", "stratified"])
def test_times_fill_the_unit_interval_and_never_reach_one(timesteps: str) -> None:
    u = torch.cat(
        [draw_samples(0, step, **{**SHAPE, "timesteps": timesteps}).u for step in range(1500)]
    )
    assert 0 <= u.min() < 0.001
    assert 0.999 < u.max() < 1
    torch.testing.assert_close(u.mean(), torch.tensor(0.5), rtol=0, atol=0.012)


def test_shifted_times_lean_to_noise_as_those_of_diffusers_do() -> None:
    plain, shifted = (
        draw_samples(0, 7, **SHAPE | {"batch_size": 999}, shift=s) for s in (1.0, 3.0)
    )
    evenly, leaning = (FlowMatchEulerDiscreteScheduler(shift=s).timesteps / 1000 for s in (1, 3))
    expected = np.interp(plain.u, evenly.flip(0), leaning.flip(0))
    np.testing.assert_allclose(shifted.u[plain.u > 0.001], expected[plain.u > 0.001], rtol=1e-3)
    assert shifted.u.max() < 1
    assert _equal(plain, dataclasses.replace(shifted, u=plain.u))


def test_stratified_times_put_one_sample_in_each_part_of_the_interval() -> None:
    for step in range(100):
        u = draw_samples(0, step, **{**SHAPE, "timesteps": "stratified"}).u
        assert (4 * u).floor().tolist() == [0, 1, 2, 3]


def test_the_two_noises_are_standard_normal_and_independent() -> None:
    draws = [draw_samples(0, step, **SHAPE) for step in range(200)]
    posterior, noise = (
        torch.cat([getattr(d, name) for d in draws]) for name in ("posterior", "noise")
    )
    for sample in (posterior, noise):
        torch.testing.assert_close(sample.mean(), torch.tensor(0.0), rtol=0, atol=0.01)
        torch.testing.assert_close(sample.std(), torch.tensor(1.0), rtol=0, atol=0.01)
    torch.testing.assert_close((posterior * noise).mean(), torch.tensor(0.0), rtol=0, atol=0.01)


# The fixed batch


def test_the_fixed_batch_depends_on_the_seed_only() -> None:
    first = draw_fixed_samples(3, **FIXED)
    draw_samples(3, 7, **SHAPE), draw_fixed_samples(4, **FIXED), torch.manual_seed(0)
    assert _equal(first, draw_fixed_samples(3, **FIXED))
    assert not torch.equal(first.noise, draw_fixed_samples(4, **FIXED).noise)


def test_no_step_draws_the_noise_of_the_fixed_batch() -> None:
    fixed = draw_fixed_samples(3, **FIXED).noise[:4]
    assert not any(torch.equal(draw_samples(3, step, **SHAPE).noise, fixed) for step in range(1000))


@pytest.mark.parametrize("size", [1, 4, 8])
def test_times_of_the_fixed_batch_are_the_midpoints_of_equal_parts(size: int) -> None:
    u = draw_fixed_samples(0, **{**FIXED, "size": size}).u
    assert u.sort().values.tolist() == [(i + 0.5) / size for i in range(size)]


def test_the_fixed_batch_has_every_image_and_caption_alike_as_far_as_it_has_room() -> None:
    firsts = set[int]()
    for seed in range(100):
        fixed = draw_fixed_samples(seed, **FIXED)
        images = torch.tensor([0, 1, 1, 1, 2, 2])[fixed.crops]
        assert sorted(torch.bincount(images, minlength=3).tolist()) == [2, 3, 3]
        assert sorted(torch.bincount(fixed.captions, minlength=5).tolist()) == [1, 1, 2, 2, 2]
        firsts |= set(draw_fixed_samples(seed, **{**FIXED, "size": 1}).crops.tolist())
    assert firsts == set(range(6))  # no crop is always left out


def test_neither_images_nor_captions_go_with_certain_times_in_fixed_batches() -> None:
    draws = [draw_fixed_samples(seed, **FIXED) for seed in range(500)]
    u = torch.cat([each.u for each in draws])
    for name, count in (("crops", 6), ("captions", 5)):
        numbers = torch.cat([getattr(each, name) for each in draws])
        means = torch.stack([u[numbers == number].mean() for number in range(count)])
        torch.testing.assert_close(means, torch.full((count,), 0.5), rtol=0, atol=0.05)


def test_fixed_latents_are_means_and_their_noise_is_standard_normal() -> None:
    draws = [draw_fixed_samples(seed, **FIXED) for seed in range(100)]
    assert not any(each.posterior.any() for each in draws)
    noise = torch.cat([each.noise for each in draws])
    torch.testing.assert_close(noise.mean(), torch.tensor(0.0), rtol=0, atol=0.01)
    torch.testing.assert_close(noise.std(), torch.tensor(1.0), rtol=0, atol=0.01)

"""Samplers read as tables: against the schedulers themselves, and what is refused."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from dti_engine.errors import ConfigurationError
from dti_engine.generation.scheduler import LinearScheduler

# Of diffusers' schedulers, with newer versions of numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Flow(FlowMatchEulerDiscreteScheduler):
    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample


SCHEDULERS: dict[str, Any] = {
    "noise": lambda: DDIMScheduler(clip_sample=False),
    "velocity": lambda: DDIMScheduler(
        clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True
    ),
    "flow": lambda: Flow(shift=3.0),
    "scaled": lambda: EulerDiscreteScheduler(),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_a_table_moves_samples_as_its_scheduler_does(name: str, steps: int) -> None:
    scheduler = SCHEDULERS[name]()
    sampler = LinearScheduler.of(SCHEDULERS[name](), steps)
    scheduler.set_timesteps(steps, device="cpu")
    assert len(sampler) == steps
    assert torch.equal(sampler.times(list(sampler.steps)), scheduler.timesteps)
    actual = reference = sampler.initial_sigma * torch.randn(2, 4, 8, 8)
    for step, time in zip(sampler.steps, scheduler.timesteps, strict=True):
        output = torch.randn(2, 4, 8, 8)
        torch.testing.assert_close(
            step.scale * reference,
            scheduler.scale_model_input(reference, time),
            rtol=1e-6,
            atol=1e-6,
        )
        reference = scheduler.step(output, time, reference, return_dict=False)[0]
        actual = step.keep * actual + step.add * output
        torch.testing.assert_close(actual, reference, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(clip_sample=True),  # bends what is large
        DDPMScheduler(),  # draws noise
        DPMSolverMultistepScheduler(),  # looks back
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_scheduler_without_linear_steps_is_refused(scheduler: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=f"{type(scheduler).__name__} is not a linear one-step scheduler"
    ):
        LinearScheduler.of(scheduler, 10)

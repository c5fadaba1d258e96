"""A diffusers scheduler as a table of coefficients, so that each image can be at its own step.

A scheduler object keeps its current step, so it takes a whole batch through all steps together. But
the update of a one-step scheduler is linear in the sample and in the model's output, with
coefficients that depend on the step alone: they are read off the scheduler once.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dti_engine.backbones.interface import DiffusersScheduler
from dti_engine.errors import ConfigurationError

_TOLERANCE = 1e-4  # relative; far above float32 rounding, far below a nonlinear scheduler's error


class SchedulerStep(NamedTuple):
    """Coefficients of one step: output = model(scale x, time), then x <- keep x + add output."""

    time: float
    scale: float
    keep: float
    add: float


@dataclass(frozen=True, eq=False)
class LinearScheduler:
    """The coefficients of all steps from noise to an image, and the scale of the initial noise."""

    initial_sigma: float
    steps: tuple[SchedulerStep, ...]
    time_dtype: torch.dtype

    @classmethod
    def of(cls, scheduler: DiffusersScheduler, num_steps: int) -> "LinearScheduler":
        """Read the coefficients off a fresh scheduler, on the CPU.

        Raises:
            ConfigurationError: The scheduler is not a linear one-step one: it clips, draws noise,
                or uses earlier steps.
        """
        scheduler.set_timesteps(num_steps, device="cpu")
        # The pairs (x, output) = (1, 0) and (0, 1) give the coefficients, and a random pair checks
        # that the update is linear. The random pair differs from step to step, so a scheduler that
        # remembers earlier outputs fails the check too.
        rng = torch.Generator().manual_seed(0)
        table: list[SchedulerStep] = []
        for time in scheduler.timesteps:
            x, output = (3 * torch.randn(2, generator=rng)).tolist()
            samples, outputs = _images(1, 0, x), _images(0, 1, output)
            scale = float(scheduler.scale_model_input(samples, time)[0])
            updated = scheduler.step(outputs, time, samples, return_dict=False)[0]
            keep, add, actual = updated.flatten().tolist()
            table.append(SchedulerStep(time.item(), scale, keep, add))
            expected = keep * x + add * output
            size = abs(keep * x) + abs(add * output)
            # Relative to the parts of the sum, not to the sum, which may cancel.
            if abs(actual - expected) > _TOLERANCE * size:
                raise ConfigurationError(
                    f"{type(scheduler).__name__} is not a linear one-step scheduler: at "
                    f"time {time.item():g} it gives {actual:g} where {expected:g} was expected. "
                    "Use one that neither clips, draws noise nor uses earlier steps"
                )
        initial_sigma = float(torch.as_tensor(scheduler.init_noise_sigma))
        return cls(initial_sigma, tuple(table), scheduler.timesteps.dtype)

    def __len__(self) -> int:
        return len(self.steps)

    def times(self, steps: list[SchedulerStep]) -> Tensor:
        """Return the times of B steps, (B,), in the dtype of the scheduler's timesteps."""
        return torch.tensor([step.time for step in steps], dtype=self.time_dtype)


def _images(*values: float) -> Tensor:
    """Return a batch of images of one pixel each."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]

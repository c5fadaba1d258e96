"""The sampler of a model as a table, so that each image of a batch can be at a step of its own.

A scheduler keeps the step that it is at, so one of them takes a whole batch through all steps
together. But what a one-step sampler makes of a sample and a model's output is linear in both, with
numbers that depend on nothing but the step: they are read off the scheduler once.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dti_engine.backbones.interface import DiffusersScheduler
from dti_engine.errors import ConfigurationError

_TOLERANCE = 1e-4  # relative; far above the rounding of float32, far below a step that is not ours


class SchedulerStep(NamedTuple):
    """One step: the model is given `scale * x` at `time`, and x becomes `keep * x + add * output`.

    The model's output is compared with what its objective names, whatever that is.
    """

    time: float
    scale: float
    keep: float
    add: float


@dataclass(frozen=True, eq=False)
class LinearScheduler:
    """All moves from noise to an image, and the spread of the noise that it begins with."""

    spread: float
    moves: tuple[SchedulerStep, ...]
    time_dtype: torch.dtype

    @classmethod
    def of(cls, scheduler: DiffusersScheduler, steps: int) -> "LinearScheduler":
        """Read a fresh scheduler, on the CPU.

        Raises: ConfigurationError if what it does is not such a sampler, as of one that clips, that
            draws noise, or that looks at earlier steps.
        """
        scheduler.set_timesteps(steps, device="cpu")
        # What becomes of (x, output) = (1, 0) and (0, 1), and of a pair that tells whether it is
        # linear and looks at nothing else: what it would remember differs from step to step.
        draw = torch.Generator().manual_seed(0)
        moves: list[SchedulerStep] = []
        for time in scheduler.timesteps:
            x, output = (3 * torch.randn(2, generator=draw)).tolist()
            samples, outputs = _images(1, 0, x), _images(0, 1, output)
            scale = float(scheduler.scale_model_input(samples, time)[0])
            moved = scheduler.step(outputs, time, samples, return_dict=False)[0]
            keep, add, found = moved.flatten().tolist()
            moves.append(SchedulerStep(time.item(), scale, keep, add))
            expected = keep * x + add * output
            size = abs(keep * x) + abs(add * output)
            if abs(found - expected) > _TOLERANCE * size:
                raise ConfigurationError(
                    f"{type(scheduler).__name__} is no sampler of one linear step at a time: at "
                    f"time {time.item():g} it makes {found:g} where {expected:g} was expected. Use "
                    "one that neither clips, draws noise nor looks at earlier steps"
                )
        spread = float(torch.as_tensor(scheduler.init_noise_sigma))
        return cls(spread, tuple(moves), scheduler.timesteps.dtype)

    def __len__(self) -> int:
        return len(self.moves)

    def times(self, moves: list[SchedulerStep]) -> Tensor:
        """(B,) times of the next moves of B images, in the dtype that the model is used to."""
        return torch.tensor([move.time for move in moves], dtype=self.time_dtype)


def _images(*values: float) -> Tensor:
    """A batch of one pixel each."""
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]

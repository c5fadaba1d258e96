"""Steps of training that are taken to see what they cost: time, and memory.

The subjects are grey pictures, since what is in a picture changes nothing of the cost.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image

from dti_engine import memory
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.images import Picture
from dti_engine.packing import Trainer
from dti_engine.subjects import Subject

_NEVER = 10**9  # steps, which no rehearsal takes
_MIN_STEPS, _MIN_S, _MAX_S = 3, 0.25, 5.0  # of what is timed; a step is never cut short


class Rehearsal(NamedTuple):
    """What steps with so many slots cost, all of them taken."""

    slots: int
    bytes: int  # in use at most during a step, above what was in use before
    rate: float  # steps of a subject per second, of all subjects together

    @property
    def seconds(self) -> float:
        """Of one step of the batch."""
        return self.slots / self.rate


def grey_subject(number: int, side: int) -> Subject:
    """A subject of one picture, `side` pixels wide and high, with that seed."""
    picture = Picture("grey.png", Image.new("RGB", (side, side), "grey"), "0" * 64, (side, side))
    # "a" is in every vocabulary, and was in every caption.
    return Subject(f"grey-{number}", [picture], "<subject>", "a", seed=number)


def full_trainer(
    backbone: Backbone, config: TrainConfig, *, num_slots: int, max_vectors: int = 8
) -> Trainer:
    """A trainer whose slots are all taken, and stay so: nothing is read, and nobody ends.

    Raises: as `Trainer`.
    """
    config = config.changed(steps=_NEVER, patience=0)
    trainer = Trainer(
        backbone, config, num_slots=num_slots, max_vectors=max_vectors, report_every=_NEVER
    )
    for slot in range(num_slots):
        trainer.seat(grey_subject(slot, config.resolution))
    return trainer


def seconds(device: torch.device, call: Callable[[], object]) -> float:
    """Of one call, the device's work included."""
    _finish(device)
    began = time.perf_counter()
    call()
    _finish(device)
    return time.perf_counter() - began


def rehearse(
    backbone: Backbone, config: TrainConfig, *, num_slots: int, max_vectors: int, before: int
) -> Rehearsal | None:
    """Take a few steps with all slots taken; None if memory runs out. Nothing of it is kept.

    before: what `memory.in_use` was before any rehearsal.
    Raises: as `Trainer`.
    """
    try:
        return _rehearse(backbone, config, num_slots, max_vectors, before)
    except (RuntimeError, MemoryError) as error:
        if not memory.has_run_out(error):
            raise
        return None
    finally:
        memory.release(backbone.device)


def _rehearse(
    backbone: Backbone, config: TrainConfig, num_slots: int, max_vectors: int, before: int
) -> Rehearsal:
    device = backbone.device
    trainer = full_trainer(backbone, config, num_slots=num_slots, max_vectors=max_vectors)
    # What it takes to seat a subject is the same with any number of slots, and is free by now.
    memory.release(device)
    memory.reset_peak(device)
    trainer.step()  # the first of a size also chooses kernels
    times: list[float] = []
    while (len(times) < _MIN_STEPS or sum(times) < _MIN_S) and sum(times) < _MAX_S:
        times.append(seconds(device, trainer.step))
    # The fastest, as other work on the machine only ever makes a step slower.
    return Rehearsal(num_slots, memory.peak(device) - before, num_slots / min(times))


def _finish(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

"""How many subjects to train at a time: found by trying, as no table knows a machine.

More slots make a step of a subject cheaper, up to a point that depends on model and device, and
need more memory. An empty slot costs what a full one does, so the number of subjects counts too.

Steps of training that are taken to see what they cost: time, and memory.

The subjects are grey images, since what is in an image changes nothing of the cost.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from dti_engine import devices
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.images.decode import SubjectImage
from dti_engine.subject import Subject
from dti_engine.training.trainer import Trainer

_NEVER = 10**9  # steps, which no rehearsal takes
_MIN_STEPS, _MIN_S, _MAX_S = 3, 0.25, 5.0  # of what is timed; a step is never cut short


class StepProfile(NamedTuple):
    """What steps with so many slots cost, all of them taken."""

    slots: int
    bytes: int  # in use at most during a step, above what was in use before
    rate: float  # steps of a subject per second, of all subjects together

    @property
    def seconds(self) -> float:
        """Of one step of the batch."""
        return self.slots / self.rate


def grey_subject(number: int, side: int) -> Subject:
    """A subject of one image, `side` pixels wide and high, with that seed."""
    image = SubjectImage("grey.png", Image.new("RGB", (side, side), "grey"), "0" * 64, (side, side))
    # "a" is in every vocabulary, and was in every caption.
    return Subject(f"grey-{number}", [image], "<subject>", "a", seed=number)


def full_trainer(
    backbone: Backbone, config: TrainConfig, *, num_slots: int, max_vectors: int = 8
) -> Trainer:
    """A trainer whose slots are all taken, and stay so: nothing is read, and nobody ends.

    Raises: as `Trainer`.
    """
    config = config.changed(steps=_NEVER, patience=0)
    trainer = Trainer(
        backbone, config, num_slots=num_slots, max_vectors=max_vectors, flush_every=_NEVER
    )
    for slot in range(num_slots):
        trainer.add(grey_subject(slot, config.resolution))
    return trainer


def measure_s(device: torch.device, call: Callable[[], object]) -> float:
    """Of one call, the device's work included."""
    _finish(device)
    began = time.perf_counter()
    call()
    _finish(device)
    return time.perf_counter() - began


def profile_step(
    backbone: Backbone, config: TrainConfig, *, num_slots: int, max_vectors: int, before: int
) -> StepProfile | None:
    """Take a few steps with all slots taken; None if memory runs out. Nothing of it is kept.

    before: what `devices.used_memory` was before any rehearsal.
    Raises: as `Trainer`.
    """
    try:
        return _profile_step(backbone, config, num_slots, max_vectors, before)
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        return None
    finally:
        devices.release_memory(backbone.device)


def _profile_step(
    backbone: Backbone, config: TrainConfig, num_slots: int, max_vectors: int, before: int
) -> StepProfile:
    device = backbone.device
    trainer = full_trainer(backbone, config, num_slots=num_slots, max_vectors=max_vectors)
    # What it takes to seat a subject is the same with any number of slots, and is free by now.
    devices.release_memory(device)
    devices.reset_peak_memory(device)
    trainer.step()  # the first of a size also chooses kernels
    times: list[float] = []
    while (len(times) < _MIN_STEPS or sum(times) < _MIN_S) and sum(times) < _MAX_S:
        times.append(measure_s(device, trainer.step))
    # The fastest, as other work on the machine only ever makes a step slower.
    return StepProfile(num_slots, devices.peak_memory(device) - before, num_slots / min(times))


def _finish(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


MAX_SLOTS = 32  # each doubling costs as much as all before it, and so late hardly pays
_SHARE = 0.85  # of what is free; the rest is for other images, other programs, and fragments
_GAIN = 1.05  # what a larger batch has to be faster by


@dataclass(frozen=True)
class SlotPlan:
    """How many slots to take, and what was found about it."""

    slots: int
    why: str  # in words, for people
    bytes_available: int  # before anything was tried
    bytes_per_slot: int | None = None  # of a further one; None: nothing was measured
    measured: tuple[StepProfile, ...] = ()  # in order of slots


def autotune_slots(
    backbone: Backbone,
    config: TrainConfig,
    *,
    at_most: int,
    max_vectors: int = 8,
    available: int | None = None,
) -> SlotPlan:
    """Take real steps at 1, 2, 4, ... slots, and choose. Nothing of them is left in memory.

    at_most: how many subjects there are; with one, nothing is tried. max_vectors: as in `Trainer`.
    available: bytes that may be taken, of which 15 % are left; None: what is free. If not even one
    slot fits, the backbone is made to recompute, and all is tried again.

    The next size is tried only if it fits by what was measured, and if the last one was faster per
    subject by 5 %. Of all sizes up to the largest that was tried, the smallest is chosen with which
    all subjects end within 5 % of the shortest time; that counts the empty slots of the last round.

    Raises: ConfigurationError if memory runs out with one subject; and as `Trainer`.
    """
    if at_most < 1:
        raise ConfigurationError(f"at_most must be >= 1, got {at_most}")
    gc.collect()  # or what falls away in between would be taken off what steps need
    devices.release_memory(backbone.device)
    available = devices.free_memory(backbone.device) if available is None else available
    if at_most == 1:
        return SlotPlan(1, "there is one subject", available)
    before = devices.used_memory(backbone.device)

    def trial(slots: int) -> StepProfile | None:
        return profile_step(
            backbone, config, num_slots=slots, max_vectors=max_vectors, before=before
        )

    limits = {"at_most": min(at_most, MAX_SLOTS), "room": int(_SHARE * available)}
    measured, is_full = search(trial, **limits)
    if not measured and not backbone.recompute:
        backbone.recompute = True
        measured, is_full = search(trial, **limits)
    if not measured:
        raise _out_of_memory(config, num_slots=1, available=available)
    slots = soonest(measured, at_most)
    per_slot = _per_slot(measured)
    if slots == at_most:
        why = "all subjects at once"
    elif slots == MAX_SLOTS:
        why = "the most that auto takes"
    elif slots == measured[-1].slots and is_full:
        why = f"each takes {_size(per_slot)}, and {_size(available)} are free"
    else:
        why = "no other number would end sooner by 5 %"
    return SlotPlan(slots, why, available, per_slot, tuple(measured))


def ensure_slots_fit(
    backbone: Backbone, config: TrainConfig, *, num_slots: int, max_vectors: int = 8
) -> None:
    """Try on CUDA whether so many slots fit; make the backbone recompute if they only fit then.

    Elsewhere nothing is tried: a process that runs out of memory on a CPU is mostly killed.

    Raises: ConfigurationError if they do not fit in any case.
    """
    if backbone.device.type != "cuda":
        return
    before, available = devices.used_memory(backbone.device), devices.free_memory(backbone.device)
    sizes = {"num_slots": num_slots, "max_vectors": max_vectors}
    if profile_step(backbone, config, **sizes, before=before):
        return
    if not backbone.recompute:
        backbone.recompute = True
        if profile_step(backbone, config, **sizes, before=before):
            return
    raise _out_of_memory(config, num_slots=num_slots, available=available)


def search(
    trial: Callable[[int], StepProfile | None], *, at_most: int, room: int
) -> tuple[list[StepProfile], bool]:
    """Try larger and larger sizes; all that went well, and whether memory kept it from going on.

    trial: takes steps with so many slots; None if memory ran out. room: bytes.
    """
    measured: list[StepProfile] = []

    def gains(found: StepProfile) -> bool:
        return not measured or found.rate >= _GAIN * measured[-1].rate

    size = 1
    while (found := trial(size)) and (not measured or found.bytes <= room):
        if not gains(found) and (again := trial(size)):
            # Other work on the machine may have made it slow; the better one counts.
            found = max(found, again, key=lambda each: each.rate)
        is_enough = size == at_most or not gains(found)
        measured.append(found)
        if is_enough:
            return measured, False
        larger = range(size + 1, min(2 * size, at_most) + 1)
        fitting = [each for each in larger if _predicted(measured, each) <= room]
        if not fitting:
            break
        size = fitting[-1]
    return measured, True


def soonest(measured: Sequence[StepProfile], num_subjects: int) -> int:
    """The fewest slots with which so many subjects, of the same steps, end within 5 % of the best.

    A step of a size that was not measured takes a time between those of its neighbours.
    """
    sizes = range(1, measured[-1].slots + 1)
    steps = np.interp(sizes, [each.slots for each in measured], [each.seconds for each in measured])
    times = [math.ceil(num_subjects / size) * step for size, step in zip(sizes, steps, strict=True)]
    return next(size for size, each in zip(sizes, times, strict=True) if each <= _GAIN * min(times))


def _out_of_memory(config: TrainConfig, *, num_slots: int, available: int) -> ConfigurationError:
    subjects = "one subject" if num_slots == 1 else f"{num_slots} subjects"
    return ConfigurationError(
        f"memory runs out with {subjects} of batch size {config.batch_size} at "
        f"{config.resolution} px, with {_size(available)} free; make one of these smaller"
    )


def _predicted(measured: Sequence[StepProfile], size: int) -> float:
    """Bytes with so many slots. Memory grows by the same for each, from what is there at none."""
    last = measured[-1]
    rises = [(last.bytes - each.bytes) / (last.slots - each.slots) for each in measured[-2::-1]]
    # One size alone says only that a slot takes no more than all of it.
    rise = max(rises, default=0)
    if rise <= 0:
        rise = last.bytes / last.slots
    return last.bytes + rise * (size - last.slots)


def _per_slot(measured: Sequence[StepProfile]) -> int:
    first, last = measured[0], measured[-1]
    return max(0, last.bytes - first.bytes) // (last.slots - first.slots or 1) or last.bytes


def _size(count: int) -> str:
    """1.5 GB, 12 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(0, count) / 1e6:.0f} MB"

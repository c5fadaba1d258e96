"""Autotuning of the number of slots: measures real steps, since no table knows the machine.

More slots make a step cheaper per subject, up to a point that depends on model and device, and need
more memory. An empty slot costs as much as an occupied one, so the number of subjects matters too.

Measured steps train on grey images: the content of an image does not change the cost of a step.
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
from dti_engine.config import MAX_TRAINING_STEPS, TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.images.decode import SubjectImage
from dti_engine.subject import Subject
from dti_engine.training.trainer import Trainer

MAX_SLOTS = 32  # each doubling costs as much as all before it, and beyond this gains little
_NEVER = MAX_TRAINING_STEPS  # no measurement reaches so many
_MIN_STEPS, _MIN_S, _MAX_S = 3, 0.25, 5.0  # of one measurement; a step is never cut short
_MEMORY_SHARE = 0.85  # of free memory; the rest is for larger images, other programs, fragmentation
_MIN_GAIN = 1.05  # speed-up that makes a larger batch worth its memory


class StepProfile(NamedTuple):
    """The measured cost of a step with all of `slots` occupied."""

    slots: int
    peak_bytes: int  # in use during a step, beyond what was in use before
    steps_per_s: float  # subject steps, of all subjects together

    @property
    def step_s(self) -> float:
        """Return the seconds of one step of the whole batch."""
        return self.slots / self.steps_per_s


@dataclass(frozen=True)
class SlotPlan:
    """The chosen number of slots, and the measurements behind it."""

    slots: int
    reason: str  # for people
    available_bytes: int  # before any measurement
    bytes_per_slot: int | None = None  # of a further one; None: nothing was measured
    measured: tuple[StepProfile, ...] = ()  # in order of slots


def grey_subject(number: int, side_px: int) -> Subject:
    """Return a subject of one grey square image, with `number` as its seed."""
    size = (side_px, side_px)
    image = SubjectImage("grey.png", Image.new("RGB", size, "grey"), "0" * 64, size)
    # "a" is a word of every vocabulary, so no model refuses it as an initializer.
    return Subject(f"grey-{number}", [image], "<subject>", "a", seed=number)


def full_trainer(
    backbone: Backbone, config: TrainConfig, *, num_slots: int, max_vectors: int = 8
) -> Trainer:
    """Return a trainer whose slots stay occupied: it never flushes, and no subject ends.

    Raises:
        ConfigurationError: As `Trainer`.
    """
    config = config.changed(steps=_NEVER, patience=0)
    trainer = Trainer(
        backbone, config, num_slots=num_slots, max_vectors=max_vectors, flush_every=_NEVER
    )
    for number in range(num_slots):
        trainer.add(grey_subject(number, config.resolution))
    return trainer


def measure_s(device: torch.device, call: Callable[[], object]) -> float:
    """Return the seconds that one call takes, including the work it leaves on the device."""
    _synchronize(device)
    start = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - start


def profile_step(
    backbone: Backbone, config: TrainConfig, *, num_slots: int, max_vectors: int, bytes_before: int
) -> StepProfile | None:
    """Measure steps with all slots occupied; return None if memory runs out. Frees what it used.

    bytes_before: `devices.used_memory` before the first measurement.

    Raises:
        ConfigurationError: As `Trainer`.
    """
    try:
        # A function of its own: its frame holds the trainer, and must be gone before memory is
        # released below. For the same reason the error is not kept beyond its handler.
        return _profile_step(backbone, config, num_slots, max_vectors, bytes_before)
    except (RuntimeError, MemoryError) as error:
        if not devices.is_out_of_memory(error):
            raise
        return None
    finally:
        devices.release_memory(backbone.device)


def _profile_step(
    backbone: Backbone, config: TrainConfig, num_slots: int, max_vectors: int, bytes_before: int
) -> StepProfile:
    device = backbone.device
    trainer = full_trainer(backbone, config, num_slots=num_slots, max_vectors=max_vectors)
    # Adding subjects needs memory of its own, the same for any number of slots and free by now:
    # without a reset it would count as memory of a step.
    devices.release_memory(device)
    devices.reset_peak_memory(device)
    trainer.step()  # not timed: the first step of a shape also selects kernels
    times: list[float] = []
    while (len(times) < _MIN_STEPS or sum(times) < _MIN_S) and sum(times) < _MAX_S:
        times.append(measure_s(device, trainer.step))
    # The minimum, as other load on the machine can only make a step slower.
    return StepProfile(
        num_slots, devices.peak_memory(device) - bytes_before, num_slots / min(times)
    )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def autotune_slots(
    backbone: Backbone,
    config: TrainConfig,
    *,
    num_subjects: int,
    max_vectors: int = 8,
    available_bytes: int | None = None,
) -> SlotPlan:
    """Measure steps at 1, 2, 4, ... slots, and choose a number. Frees all memory it used.

    num_subjects: with one, nothing is measured. max_vectors: as in `Trainer`. available_bytes:
    memory that may be used, of which 15 % stay free; None: all that is free. If not even one slot
    fits, the backbone is switched to recomputing activations, and the search starts again.

    The next size is measured only if it is predicted to fit, and if the last one was faster per
    subject by 5 %. The choice is the smallest size, up to the largest measured, with which all
    subjects end within 5 % of the shortest total time, empty slots of the last round included.

    Raises:
        ConfigurationError: Memory runs out with one subject, or as `Trainer`.
    """
    if num_subjects < 1:
        raise ConfigurationError(f"num_subjects must be >= 1, got {num_subjects}")
    gc.collect()  # garbage freed between measurements would make a step look too small
    devices.release_memory(backbone.device)
    if available_bytes is None:
        available_bytes = devices.free_memory(backbone.device)
    if num_subjects == 1:
        return SlotPlan(1, "there is one subject", available_bytes)
    bytes_before = devices.used_memory(backbone.device)

    def profile(slots: int) -> StepProfile | None:
        return profile_step(
            backbone, config, num_slots=slots, max_vectors=max_vectors, bytes_before=bytes_before
        )

    max_slots, budget_bytes = min(num_subjects, MAX_SLOTS), int(_MEMORY_SHARE * available_bytes)
    measured, is_full = search_sizes(profile, max_slots=max_slots, budget_bytes=budget_bytes)
    if not measured and not backbone.recompute:
        backbone.recompute = True
        # The switch stays on after the search: what was measured with it can only be trained with
        # it.
        measured, is_full = search_sizes(profile, max_slots=max_slots, budget_bytes=budget_bytes)
    if not measured:
        raise _out_of_memory(config, num_slots=1, available_bytes=available_bytes)
    slots = fewest_fast_slots(measured, num_subjects)
    bytes_per_slot = _bytes_per_slot(measured)
    if slots == num_subjects:
        reason = "all subjects at once"
    elif slots == MAX_SLOTS:
        reason = "the largest number that auto takes"
    elif slots == measured[-1].slots and is_full:
        reason = f"each takes {_size(bytes_per_slot)}, and {_size(available_bytes)} are free"
    else:
        reason = "no other number would end sooner by 5 %"
    return SlotPlan(slots, reason, available_bytes, bytes_per_slot, tuple(measured))


def ensure_slots_fit(
    backbone: Backbone, config: TrainConfig, *, num_slots: int, max_vectors: int = 8
) -> None:
    """Check on CUDA that so many slots fit; make the backbone recompute activations if need be.

    Nothing is tried on a CPU, where a process that runs out of memory is mostly killed.

    Raises:
        ConfigurationError: They do not fit even with recomputing.
    """
    if backbone.device.type != "cuda":
        return
    # A real step tells, where a formula would have to know every model's activations.
    bytes_before = devices.used_memory(backbone.device)
    available_bytes = devices.free_memory(backbone.device)

    def fits() -> bool:
        profile = profile_step(
            backbone,
            config,
            num_slots=num_slots,
            max_vectors=max_vectors,
            bytes_before=bytes_before,
        )
        return profile is not None

    if fits():
        return
    if not backbone.recompute:
        backbone.recompute = True
        if fits():
            return
    raise _out_of_memory(config, num_slots=num_slots, available_bytes=available_bytes)


def search_sizes(
    profile: Callable[[int], StepProfile | None], *, max_slots: int, budget_bytes: int
) -> tuple[list[StepProfile], bool]:
    """Measure growing sizes; return the profiles that fit, and whether memory ended the search.

    profile: measures a size, or returns None if memory runs out.
    """
    measured: list[StepProfile] = []

    def is_faster(latest: StepProfile) -> bool:
        return not measured or latest.steps_per_s >= _MIN_GAIN * measured[-1].steps_per_s

    size = 1
    # A single slot counts even if it exceeds the budget: there is no smaller size to fall back on,
    # and the budget has a reserve.
    while (latest := profile(size)) and (not measured or latest.peak_bytes <= budget_bytes):
        if not is_faster(latest) and (again := profile(size)):
            # Other load on the machine may have slowed the first measurement, so the better counts.
            latest = max(latest, again, key=lambda each: each.steps_per_s)
        is_last = size == max_slots or not is_faster(latest)
        measured.append(latest)
        if is_last:
            return measured, False
        # At most twice the size, as a linear prediction from smaller sizes is a guess further away.
        larger = range(size + 1, min(2 * size, max_slots) + 1)
        fitting = [each for each in larger if _predicted_bytes(measured, each) <= budget_bytes]
        if not fitting:
            break
        # The largest that is predicted to fit, not the double alone: between 8 and 16 there may be
        # room for 13.
        size = fitting[-1]
    return measured, True


def fewest_fast_slots(measured: Sequence[StepProfile], num_subjects: int) -> int:
    """Return the fewest slots whose total time is within 5 % of the best.

    All subjects take equally many steps. The step time of a size that was not measured is
    interpolated linearly between its neighbours.
    """
    sizes = range(1, measured[-1].slots + 1)
    steps_s = np.interp(
        sizes, [each.slots for each in measured], [each.step_s for each in measured]
    )
    # Rounds are rounded up: an empty slot of the last round costs as much as a full one.
    times = [math.ceil(num_subjects / n) * step for n, step in zip(sizes, steps_s, strict=True)]
    return next(
        n for n, total_s in zip(sizes, times, strict=True) if total_s <= _MIN_GAIN * min(times)
    )


def _out_of_memory(
    config: TrainConfig, *, num_slots: int, available_bytes: int
) -> ConfigurationError:
    subjects = "one subject" if num_slots == 1 else f"{num_slots} subjects"
    return ConfigurationError(
        f"memory runs out with {subjects} of batch size {config.batch_size} at "
        f"{config.resolution} px, with {_size(available_bytes)} free; make one of these smaller"
    )


def _predicted_bytes(measured: Sequence[StepProfile], size: int) -> float:
    """Return the predicted peak memory of a size: linear in slots, by the steepest measured slope.

    A prediction that is too low would run out of memory, and one too high costs only speed.
    """
    last = measured[-1]
    slopes = [
        (last.peak_bytes - each.peak_bytes) / (last.slots - each.slots) for each in measured[-2::-1]
    ]
    slope = max(slopes, default=0)
    if slope <= 0:
        # A single size gives no slope, but a slot cannot need more than all slots together.
        slope = last.peak_bytes / last.slots
    return last.peak_bytes + slope * (size - last.slots)


def _bytes_per_slot(measured: Sequence[StepProfile]) -> int:
    first, last = measured[0], measured[-1]
    growth = max(0, last.peak_bytes - first.peak_bytes) // (last.slots - first.slots or 1)
    return growth or last.peak_bytes


def _size(num_bytes: int) -> str:
    """Return a size for people, such as 1.5 GB or 12 MB."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{max(0, num_bytes) / 1e6:.0f} MB"

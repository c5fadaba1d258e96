"""Steps that are taken to see what they cost: nothing stays, and memory that runs out is told."""

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from dti_engine import devices
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.training.autotune import StepProfile, full_trainer, profile_step

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
CONFIG = TrainConfig(steps=2, batch_size=2, resolution=16, lr=0.04)
MB = 10**6


class Fails:
    """A backbone that raises an error in batches above a size."""

    def __init__(self, backbone: Backbone, above: int, message: str) -> None:
        self._backbone, self._above, self._message = backbone, above, message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def denoise(self, noisy: Tensor, *rest: Any) -> Tensor:
        if len(noisy) > self._above:
            raise RuntimeError(self._message)
        return self._backbone.denoise(noisy, *rest)


def _profile_step(backbone: Any, num_slots: int, before: int = 0) -> StepProfile | None:
    return profile_step(backbone, CONFIG, num_slots=num_slots, max_vectors=8, bytes_before=before)


def _num_tensors() -> int:
    # `isinstance` would wake objects of torch that warn.
    return sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def test_all_slots_are_taken_and_stay_so_for_more_steps_than_a_subject_has(
    tiny_backbone: Backbone,
) -> None:
    trainer = full_trainer(tiny_backbone, CONFIG, num_slots=3)
    for _ in range(2 * CONFIG.steps):
        assert trainer.step() == []
    assert [each.step for each in trainer.slots if each] == [4, 4, 4]


def test_a_rehearsal_tells_the_rate_and_leaves_nothing(tiny_backbone: Backbone) -> None:
    _profile_step(tiny_backbone, 1)
    before = _num_tensors()
    found = _profile_step(tiny_backbone, 3)
    assert found
    assert found.slots == 3
    assert found.steps_per_s > 0
    assert found.step_s == pytest.approx(3 / found.steps_per_s)
    assert _num_tensors() == before


def test_memory_that_runs_out_is_survived_and_leaves_nothing(tiny_backbone: Backbone) -> None:
    backbone = Fails(tiny_backbone, 4, "DefaultCPUAllocator: can't allocate memory")
    assert _profile_step(backbone, 2)
    before = _num_tensors()
    assert _profile_step(backbone, 3) is None
    assert _num_tensors() == before


def test_any_other_error_goes_through(tiny_backbone: Backbone) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        _profile_step(Fails(tiny_backbone, 4, "shapes differ"), 3)
    with pytest.raises(ConfigurationError, match="max_vectors"):
        profile_step(tiny_backbone, CONFIG, num_slots=1, max_vectors=0, bytes_before=0)


@pytest.mark.skipif(not devices._status("VmHWM"), reason="a Mac has no peak that can be reset")
def test_the_memory_of_a_step_is_counted_above_what_was_used_before(
    tiny_backbone: Backbone,
) -> None:
    class Holds(Fails):
        """20 MB per sample, while it denoises; glibc would keep pieces below 32 MiB."""

        def denoise(self, noisy: Tensor, *rest: Any) -> Tensor:
            held = torch.ones(len(noisy), 5 * MB)
            return self._backbone.denoise(noisy + 0 * held[0, 0], *rest)

    _profile_step(tiny_backbone, 1)  # what is loaded at first is not to count
    gc.collect()
    devices.release_memory(CPU)
    before = devices.used_memory(CPU)
    for slots in (1, 3):
        backbone = Holds(tiny_backbone, 0, "")
        found = _profile_step(backbone, slots, before)
        assert found
        assert found.peak_bytes == pytest.approx(40 * MB * slots, abs=16 * MB)

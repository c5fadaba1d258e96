"""A training step on a GPU: it waits for nothing, and packing and recomputing change no result."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from dti_engine import devices
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.recipes import miniature, sana_release, sdxl_release
from dti_engine.training.autotune import full_trainer, grey_subject, profile_step
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
MODELS = ["miniature", "sdxl", "sana-1.6b"]


def config_for(name: str) -> TrainConfig:
    recipes = {"miniature": miniature, "sdxl": sdxl_release, "sana-1.6b": sana_release}
    return recipes[name]().changed(resolution=64)  # that of every model here


@contextmanager
def no_waiting() -> Iterator[None]:
    """Torch refuses every operation that makes the host wait for the device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_and_a_look_wait_for_nothing(
    name: str, dtype: torch.dtype, on_cuda: Callable[..., Backbone]
) -> None:
    config = config_for(name).changed(eval_every=2)
    trainer = full_trainer(on_cuda(name, dtype), config, num_slots=2)
    trainer.step()  # the first one chooses kernels and fills caches
    with no_waiting():
        for _ in range(3):
            trainer.step()


@pytest.mark.parametrize("name", MODELS)
def test_packed_subjects_learn_what_each_learns_alone_in_the_same_shape(
    name: str, on_cuda: Callable[..., Backbone]
) -> None:
    backbone, config = on_cuda(name, torch.float32), config_for(name).changed(lr=0.04)
    slots = 3
    packed = full_trainer(backbone, config, num_slots=slots)
    for _ in range(5):
        packed.step()
    for slot in range(slots):
        alone = full_trainer(backbone, config, num_slots=slots)
        rows = alone.slots[slot].rows  # pyright: ignore[reportOptionalMemberAccess]
        for other in set(range(slots)) - {slot}:
            alone.remove(other)
        for _ in range(5):
            alone.step()
        for encoder, span in rows.items():
            learned = (each.optimizers[encoder].learned()[span] for each in (packed, alone))
            torch.testing.assert_close(*learned, rtol=1e-3, atol=1e-4)


def test_recomputing_lowers_the_peak_and_changes_no_gradient(
    on_cuda: Callable[..., Backbone],
) -> None:
    backbone, config = on_cuda("miniature", torch.float32), miniature()
    device = backbone.device
    peaks, learned = list[int](), list[torch.Tensor]()
    for recompute in (False, True):
        backbone.recompute = recompute
        before = devices.used_memory(device)
        found = profile_step(backbone, config, num_slots=16, max_vectors=8, bytes_before=before)
        assert found is not None
        peaks.append(found.peak_bytes)
        trainer = full_trainer(backbone, config, num_slots=2)
        trainer.step()
        (optimizer,) = trainer.optimizers.values()
        learned.append(optimizer.learned())
    assert peaks[1] < 0.8 * peaks[0]
    torch.testing.assert_close(*learned, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_training_in_bfloat16_stays_finite(name: str, on_cuda: Callable[..., Backbone]) -> None:
    reports: list[StepMetrics] = []
    backbone, config = on_cuda(name, torch.bfloat16), config_for(name).changed(steps=20)
    trainer = Trainer(backbone, config, num_slots=2, on_step=reports.extend)
    trainer.add(grey_subject(0, config.resolution))
    trainer.add(grey_subject(1, config.resolution))
    ended = [result for _ in range(config.steps) for result in trainer.step()]
    assert [result.error for result in ended] == [None, None]
    assert len(reports) == 2 * config.steps
    assert not any(report.failure() for report in reports)

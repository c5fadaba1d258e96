"""Training steps, and runs that are cut."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from dti_engine.errors import ConfigurationError
from dti_engine.miniature.training.loop import LossOf, Schedule, StepLoss, fit, read_progress

SCHEDULE = Schedule(steps=8, lr=1e-2, warmup=2, save_every=3)


class CutError(Exception):
    """Stands for whatever ends a process."""


def ignore(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    pass


def new_model(width: int = 4) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, width), nn.Dropout(0.5), nn.Linear(width, 1))


def make_loss(model: nn.Module, *, cut_at: int | None = None) -> LossOf:
    def loss_of(step: int) -> StepLoss:
        if step == cut_at:
            raise CutError
        batch = torch.randn(6, 3, generator=torch.Generator().manual_seed(step))
        return StepLoss((model(batch) - batch.sum(1, keepdim=True)).square().mean(), {})

    return loss_of


def weights(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def test_a_run_that_was_cut_ends_as_one_that_was_not(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole, cut, resumed = new_model(), new_model(), new_model()

    fit("toy", whole, make_loss(whole), SCHEDULE, tmp_path / "whole", report=ignore)
    with pytest.raises(CutError):
        fit("toy", cut, make_loss(cut, cut_at=5), SCHEDULE, tmp_path / "cut", report=ignore)
    torch.rand(100)  # the resumed process has its own past
    reported: list[int] = []
    fit(
        "toy",
        resumed,
        make_loss(resumed),
        SCHEDULE,
        tmp_path / "cut",
        report=lambda stage, done, total, figures: reported.append(done),
    )

    assert reported == [4, 5, 6, 7, 8]
    assert torch.equal(weights(whole), weights(resumed))
    assert not resumed.training


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, second = new_model(), new_model()

    fit("toy", first, make_loss(first), SCHEDULE, tmp_path, report=ignore)
    fit("toy", second, make_loss(second, cut_at=0), SCHEDULE, tmp_path, report=ignore)

    assert torch.equal(weights(first), weights(second))
    progress = read_progress(tmp_path, "toy")
    assert progress is not None
    assert progress["step"] == 8
    assert progress["seconds"] >= 0


def test_the_average_is_left_not_the_last_step(tmp_path: Path) -> None:
    model, seen = new_model(), list[torch.Tensor]()

    def collect(stage: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        seen.append(weights(model).clone())

    first = weights(model).clone()
    fit("toy", model, make_loss(model), Schedule(steps=3, lr=1e-2), tmp_path, report=collect)

    average = first
    for step, each in enumerate(seen):
        average = torch.lerp(average, each, 1 - (step + 1) / (step + 10))
    torch.testing.assert_close(weights(model), average)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    small, large = new_model(), new_model(width=5)
    fit("toy", small, make_loss(small), SCHEDULE, tmp_path, report=ignore)

    with pytest.raises(ConfigurationError, match="work folder of its own"):
        fit("toy", large, make_loss(large), SCHEDULE, tmp_path, report=ignore)


def test_the_rate_rises_stays_and_falls() -> None:
    schedule = Schedule(steps=100, lr=2.0, warmup=10, decay_share=0.25)
    rates = [schedule.lr_at(step) for step in range(101)]

    assert rates[:10] == sorted(rates[:10])
    assert set(rates[9:76]) == {2.0}
    assert rates[75:] == sorted(rates[75:], reverse=True)
    assert rates[100] == 0.0

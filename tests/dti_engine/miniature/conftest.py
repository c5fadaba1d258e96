"""A toy run of the recipe from images to weights, and readings without a mistake."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dti_engine.miniature.scorer import NO_ANSWER, QUESTIONS, ScoredImage, labels
from dti_engine.miniature.training.loop import Schedule
from dti_engine.miniature.training.stages import Size, Stages, Training
from dti_engine.miniature.world.scenes import Scene

Steps = list[tuple[str, int, int]]


def _training(num_examples: int) -> Training:
    return Training(Schedule(steps=2, lr=1e-3, warmup=1), batch_size=4, num_examples=num_examples)


TOY = Size(
    channels=(16, 32),
    autoencoder=_training(24),
    reader=_training(48),
    scorer=_training(48),
    denoiser=_training(32),
)


@pytest.fixture(scope="session")
def toy_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the work folder of `toy_weights`."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="session")
def run_toy(toy_work: Path) -> Callable[[], tuple[Stages, Steps]]:
    """run_toy() -> the stages of a toy miniature in `toy_work`, and what they will report."""

    def run() -> tuple[Stages, Steps]:
        steps: Steps = []

        def report(stage: str, done: int, total: int, figures: object) -> None:
            steps.append((stage, done, total))

        return Stages(TOY, toy_work, torch.device("cpu"), report), steps

    return run


@pytest.fixture(scope="session")
def toy_weights(
    run_toy: Callable[[], tuple[Stages, Steps]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a folder of weights that two steps of each stage made."""
    folder = tmp_path_factory.mktemp("weights")
    stages, _ = run_toy()
    stages.export(folder, command="python -m recipe --size toy")
    return folder


@pytest.fixture
def read_perfectly() -> Callable[[Scene], ScoredImage]:
    """read_perfectly(scene) -> a reading that is sure of every answer, and right."""

    def reading(scene: Scene) -> ScoredImage:
        probabilities: dict[str, torch.Tensor] = {}
        for (question, values), answer in zip(QUESTIONS.items(), labels(scene), strict=True):
            if answer == NO_ANSWER:
                probabilities[question] = torch.full((len(values),), 1 / len(values))
            else:
                probabilities[question] = F.one_hot(torch.tensor(answer), len(values)).float()
        return ScoredImage(probabilities)

    return reading

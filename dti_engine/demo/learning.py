"""The demo's subjects, from drawn pictures to token files that are read back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dti_engine.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.images import load_pictures
from dti_engine.manifest import Trained
from dti_engine.miniature.world.subjects import HeldOutSubject, draw_subject
from dti_engine.reports import SlotReport
from dti_engine.subjects import Subject
from dti_engine.trainer import OnStep, train

NUM_PICTURES = 5  # of each subject


@dataclass(frozen=True, eq=False)
class LearnedSubject:
    """A subject that was learned, and its token as read back from its file."""

    subject: Subject
    artifact: Artifact
    file: str  # relative to the output folder
    reports: Sequence[SlotReport]

    @property
    def training(self) -> Trained:
        """What its file says of how it was learned."""
        training = self.artifact.manifest.training
        assert training
        return training

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.subject.id}-{self.training.config.method}"


def references(name: str, output: Path) -> Path:
    """Folder of a subject's pictures."""
    return output / "subjects" / name


def draw(look: HeldOutSubject, output: Path, *, seed: int) -> Subject:
    """The subject with its pictures, which were drawn to its folder and loaded from there."""
    folder = references(look.name, output)
    draw_subject(look, folder, count=NUM_PICTURES)
    return Subject(look.name, load_pictures(folder), look.placeholder, look.class_word, seed)


def learn(
    backbone: Backbone,
    subjects: Sequence[Subject],
    config: TrainConfig,
    output: Path,
    on_step: OnStep,
) -> list[LearnedSubject]:
    """All subjects in one packed run, in their order.

    Raises: TrainingFailedError or SubjectError of the first that could not be learned.
    """
    outcomes = train(backbone, subjects, config, num_slots=len(subjects), on_step=on_step)
    with_pictures = {each.id: each for each in subjects}
    learned: dict[str, LearnedSubject] = {}
    for each in outcomes:
        if each.artifact is None:
            assert each.error
            raise each.error
        name = each.subject.id
        file = f"tokens/{name}-{config.method}.safetensors"
        each.artifact.save(output / file)
        loaded = Artifact.load(output / file)
        learned[name] = LearnedSubject(with_pictures[name], loaded, file, each.reports)
    return [learned[subject.id] for subject in subjects]

"""How the training of a subject ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dti_engine.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import SubjectError, TrainingFailedError
from dti_engine.manifest import Trained
from dti_engine.provenance import SeenPicture, notes_sha256
from dti_engine.reports import SlotReport
from dti_engine.slots import Occupant, Subject
from dti_engine.tokens import LearnedToken


@dataclass(frozen=True, eq=False)
class Outcome:
    """A subject that ended: with an artifact, or with the error that says why it has none."""

    subject: Subject
    artifact: Artifact | None = None
    error: SubjectError | TrainingFailedError | None = None
    reports: Sequence[SlotReport] = ()  # one per step


def outcome(
    occupant: Occupant, rows: Mapping[str, Tensor], backbone: Backbone, config: TrainConfig
) -> Outcome | None:
    """The outcome of an occupant whose steps are all read; None if it is to go on.

    rows: encoder name -> (R, d), the tables in which its vectors lie, on any device in any dtype.
    """
    subject, reports = occupant.subject, occupant.reports
    if failure := reports[-1].failure():
        error = TrainingFailedError(
            f"subject {subject.id!r} failed at step {reports[-1].step} of {config.steps}: {failure}"
        )
        return Outcome(subject, error=error, reports=reports)
    if occupant.step < config.steps:
        return None
    embeddings = {name: rows[name][span].detach() for name, span in occupant.rows.items()}
    token = LearnedToken(
        subject.placeholder, {name: each.float().cpu().clone() for name, each in embeddings.items()}
    )
    artifact = Artifact.of(
        token,
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        origin=Trained(
            initializer=subject.initializer,
            config=config.changed(captions=subject.captions or config.captions),
            seed=subject.seed,
            steps_done=occupant.step,
            pictures={picture.name: picture.sha256 for picture in subject.pictures},
            notes_sha256=notes_sha256([SeenPicture.of(each) for each in subject.pictures]),
            figures=reports[-1].figures(),
        ),
    )
    return Outcome(subject, artifact=artifact, reports=reports)

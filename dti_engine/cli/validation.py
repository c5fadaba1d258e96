"""The end of `dti train`: validation images of every token, and outlier flags."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dti_engine.cli.console import say
from dti_engine.cli.progress import ProgressBar
from dti_engine.cli.subjects import SubjectPlan
from dti_engine.cli.summary import RunSummary
from dti_engine.errors import ArtifactError, DTIError, SubjectError

if TYPE_CHECKING:
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.backbones.interface import Backbone
    from dti_engine.images.decode import SubjectImage
    from dti_engine.quality.run_folder import RunFolder
    from dti_engine.quality.token_scorers import TokenScorer
    from dti_engine.quality.validation import TokenValidator, ValidationCandidate

_GROUP_SIZE = 8  # subjects whose images are in memory at once


@dataclass(frozen=True)
class SubjectTokens:
    """A subject with its tokens, snapshots first, and its images."""

    name: str
    artifacts: Sequence["Artifact"]
    images: Sequence["SubjectImage"]
    class_noun: str | None  # from the bundle

    def candidates(self) -> list["ValidationCandidate"]:
        """Return one candidate per token."""
        from dti_engine.quality.validation import ValidationCandidate

        references = [subject_image.image for subject_image in self.images]
        return [
            ValidationCandidate(artifact, references, self.class_noun)
            for artifact in self.artifacts
        ]


class _Stopped(Exception):
    """A stop was requested; the running validation is abandoned."""


def validate_tokens(
    model: "Backbone",
    scorer: "TokenScorer | None",
    plans: Sequence[SubjectPlan],
    summary: RunSummary,
    *,
    num_images: int,
    resolution: int,
) -> None:
    """Validate the tokens of the run that are not validated yet, and flag outliers among all.

    The best of a subject's snapshots becomes its token. A token that cannot be validated gets a
    warning and stays as it is. After a stop the rest is left to the next run.
    """
    from dti_engine.quality.run_folder import RunFolder
    from dti_engine.quality.validation import TokenValidator

    folder = RunFolder(summary.output)
    validator = TokenValidator(model, scorer, num_images=num_images)
    # By what is in the folder, not by what this run has trained: an earlier run may have been
    # stopped between training and validation.
    due = [plan for plan in plans if _is_due(plan.name, folder, summary)]
    summary.unvalidated = [plan.name for plan in due]
    if summary.checkpoints.stop_requested:  # during training; the user is waiting for the end
        return
    with suppress(_Stopped), ProgressBar("validating", len(due)) as progress:
        for start in range(0, len(due), _GROUP_SIZE):
            _check_stop(summary)
            group = due[start : start + _GROUP_SIZE]
            opened = [_open(plan, folder, summary, resolution) for plan in group]
            subjects = [subject for subject in opened if subject]
            _validate_group(subjects, validator, folder, summary)
            summary.unvalidated = summary.unvalidated[len(group) :]
            progress.update(start + len(group))
        _flag(model, folder, summary)


def _check_stop(summary: RunSummary) -> None:
    if summary.checkpoints.stop_requested:
        raise _Stopped


def _validate_group(
    subjects: Sequence[SubjectTokens],
    validator: "TokenValidator",
    folder: "RunFolder",
    summary: RunSummary,
) -> None:
    """Validate subjects in shared batches; if that fails, one by one, to find the culprit.

    One token with which the model overflows would otherwise fail its whole group.
    """
    try:
        _validate(subjects, validator, folder, summary)
    except DTIError:
        for subject in subjects:
            try:
                _validate([subject], validator, folder, summary)
            except DTIError as error:
                summary.warn(subject.name, f"cannot be validated: {error}")


def _validate(
    subjects: Sequence[SubjectTokens],
    validator: "TokenValidator",
    folder: "RunFolder",
    summary: RunSummary,
) -> None:
    candidates = [candidate for subject in subjects for candidate in subject.candidates()]
    validations = iter(validator.validate(candidates, on_step=lambda: _check_stop(summary)))
    for subject in subjects:
        folder.save_reference(subject.name, subject.images[0].image)
        folder.save_validation(
            subject.name, [(artifact, next(validations)) for artifact in subject.artifacts]
        )


def _flag(model: "Backbone", folder: "RunFolder", summary: RunSummary) -> None:
    """Flag the outliers among all tokens of the folder, whichever run has trained them."""
    flagged = folder.flag(folder.validated(model.fingerprint), model)
    for name in summary.names:
        if name in flagged and name not in summary.failed:
            summary.add_validation(name, flagged[name])
    num_flagged = sum(1 for flags in summary.flags.values() if flags)
    say(
        f"{len(summary.flags)} tokens are validated, {num_flagged} are flagged; "
        f"dti report {str(summary.output)!r} makes a page of it"
    )


def _is_due(name: str, folder: "RunFolder", summary: RunSummary) -> bool:
    """Return whether the subject has a token that was trained here and is not validated yet."""
    from dti_engine.artifacts.artifact import Artifact

    if name in summary.failed or not folder.token(name).exists():
        return False
    try:
        training = Artifact.load(folder.token(name)).manifest.training
    except ArtifactError as error:
        summary.warn(name, f"cannot be validated: {error}")
        return False
    return training is not None and training.quality is None


def _open(
    plan: SubjectPlan, folder: "RunFolder", summary: RunSummary, resolution: int
) -> SubjectTokens | None:
    """Load the subject's tokens and images; on failure warn and return None."""
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.images.bundles.bundle import load_bundle

    try:
        last = Artifact.load(folder.token(plan.name))
        snapshots = map(Artifact.load, folder.snapshots(plan.name))
        artifacts = [*(each for each in snapshots if _is_of_same_training(each, last)), last]
        bundle = load_bundle(plan.path, resolution=resolution)
        return SubjectTokens(plan.name, artifacts, bundle.images, bundle.description.class_noun)
    except (SubjectError, ArtifactError) as error:
        summary.warn(plan.name, f"cannot be validated: {error}")
        return None


def _is_of_same_training(snapshot: "Artifact", last: "Artifact") -> bool:
    """Return whether the snapshot belongs to this training; another run may have left its own."""
    ours, theirs = snapshot.manifest.training, last.manifest.training
    varying = {"steps_done", "stop_reason", "metrics", "quality"}
    return (
        ours is not None
        and theirs is not None
        and ours.steps_done < theirs.steps_done
        and ours.model_dump(exclude=varying) == theirs.model_dump(exclude=varying)
    )

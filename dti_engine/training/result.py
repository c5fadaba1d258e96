"""How the training of a subject ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import StopReason, TrainedOrigin
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import SubjectError, TrainingFailedError
from dti_engine.subject import Subject
from dti_engine.text.tokens import LearnedToken
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.provenance import notes_sha256
from dti_engine.training.schedules import has_converged
from dti_engine.training.slot import TrainingSlot


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A subject that ended: with an artifact, or with the error that says why it has none.

    The subject has no images: they are let go once it is seated, or cannot be.
    """

    subject: Subject
    artifact: Artifact | None = None
    error: SubjectError | TrainingFailedError | None = None
    metrics: Sequence[StepMetrics] = ()  # one per step


def outcome(
    occupant: TrainingSlot, learned: Mapping[str, Tensor], backbone: Backbone
) -> TrainingResult | None:
    """The outcome of an occupant whose steps are all read; None if it is to go on.

    learned: encoder name -> (R, d), `Learner.learned` of the tables in which its vectors lie.
    """
    subject, metrics, budget = occupant.subject, occupant.metrics, occupant.config.steps
    if failure := metrics[-1].failure():
        error = TrainingFailedError(
            f"subject {subject.id!r} failed at step {metrics[-1].step} of {budget}: {failure}"
        )
        return TrainingResult(subject, error=error, metrics=metrics)
    if occupant.step == budget:
        stop_reason = "budget"
    elif occupant.step % occupant.config.eval_every == 0 and has_converged(
        occupant.fixed_losses, occupant.config
    ):
        stop_reason = "converged"
    else:
        return None
    made = artifact(occupant, learned, backbone, stop_reason=stop_reason)
    return TrainingResult(subject, artifact=made, metrics=metrics)


def artifact(
    occupant: TrainingSlot,
    learned: Mapping[str, Tensor],
    backbone: Backbone,
    *,
    stop_reason: StopReason,
) -> Artifact:
    """What it has learned so far; its steps are all read. learned: as for `outcome`."""
    subject, images = occupant.subject, occupant.provenance.images
    embeddings = {name: learned[name][span].detach() for name, span in occupant.rows.items()}
    token = LearnedToken(
        subject.placeholder,
        {name: each.float().cpu().clone() for name, each in embeddings.items()},
        occupant.config.pooling if backbone.pools else "eos",
    )
    return Artifact.of(
        token,
        model=backbone.name,
        fingerprint=backbone.fingerprint,
        origin=TrainedOrigin(
            initializer=subject.initializer,
            config=occupant.config,
            seed=subject.seed,
            pooling=token.pooling if backbone.pools else None,
            steps_done=occupant.step,
            stop_reason=stop_reason,
            images={image.name: image.sha256 for image in images},
            notes_sha256=notes_sha256(images),
            metrics=occupant.metrics[-1].figures(),
            first_fixed_loss=occupant.first_fixed_loss,
        ),
    )

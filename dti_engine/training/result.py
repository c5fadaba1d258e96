"""The result of training one subject: its artifact, or the error that ended it."""

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
    """A subject whose training ended, with its artifact, or with the error that ended it.

    The subject has no images: they are released once it is added to a slot or refused.
    """

    subject: Subject
    artifact: Artifact | None = None
    error: SubjectError | TrainingFailedError | None = None
    metrics: Sequence[StepMetrics] = ()  # one per step


def result_if_ended(
    slot: TrainingSlot, learned: Mapping[str, Tensor], backbone: Backbone
) -> TrainingResult | None:
    """Return the result of a slot whose steps are all flushed, or None if it continues.

    A subject ends by failure, by its budget of steps, or by early stopping.

    learned: encoder name -> (R, d), `EmbeddingOptimizer.learned` of the whole table.
    """
    subject, metrics, config = slot.subject, slot.metrics, slot.config
    # First, because the last step of the budget may be the one that failed.
    if failure := metrics[-1].failure():
        error = TrainingFailedError(
            f"subject {subject.id!r} failed at step {metrics[-1].step} of {config.steps}: {failure}"
        )
        return TrainingResult(subject, error=error, metrics=metrics)
    if slot.step == config.steps:
        stop_reason = "budget"
    # Only at an evaluation of its own. A neighbour may cause a flush at any step, and must not
    # decide when this subject ends.
    elif slot.step % config.eval_every == 0 and has_converged(slot.fixed_losses, config):
        stop_reason = "converged"
    else:
        return None
    artifact = build_artifact(slot, learned, backbone, stop_reason=stop_reason)
    return TrainingResult(subject, artifact=artifact, metrics=metrics)


def build_artifact(
    slot: TrainingSlot,
    learned: Mapping[str, Tensor],
    backbone: Backbone,
    *,
    stop_reason: StopReason,
) -> Artifact:
    """Return what a slot has learned so far as an artifact; its steps are all flushed.

    learned: as in `result_if_ended`.
    """
    # From the provenance, because the subject itself has no images any more.
    subject, images = slot.subject, slot.provenance.images
    embeddings = {name: learned[name][span].detach() for name, span in slot.rows.items()}
    token = LearnedToken(
        subject.placeholder,
        # A copy: the slice may be a view of the table, whose rows the next subject overwrites.
        {name: each.float().cpu().clone() for name, each in embeddings.items()},
        slot.config.pooling if backbone.pools else "eos",
    )
    return Artifact.of(
        token,
        model=backbone.name,
        fingerprint=backbone.fingerprint,
        origin=TrainedOrigin(
            initializer=subject.initializer,
            config=slot.config,
            seed=subject.seed,
            pooling=token.pooling if backbone.pools else None,
            steps_done=slot.step,
            stop_reason=stop_reason,
            images={image.name: image.sha256 for image in images},
            notes_sha256=notes_sha256(images),
            metrics=slot.metrics[-1].values(),
            first_fixed_loss=slot.first_fixed_loss,
            forced=subject.forced,
        ),
    )

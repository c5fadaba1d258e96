"""After training: every token is tried out, and the odd ones of the run are flagged."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dti_engine.cli.console import say
from dti_engine.cli.progress import trial_progress
from dti_engine.cli.subjects import Plan
from dti_engine.cli.summary import Endings
from dti_engine.errors import ArtifactError, DTIError, SubjectError

if TYPE_CHECKING:
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.backbones.interface import Backbone
    from dti_engine.images.decode import SubjectImage
    from dti_engine.quality.run_folder import RunFolder
    from dti_engine.quality.token_scorers import TokenScorer
    from dti_engine.quality.validation import ValidationCandidate

_AT_ONCE = 8  # subjects whose images are in memory


@dataclass(frozen=True)
class Tried:
    """A subject with its tokens, those that were kept on the way first, and its images."""

    name: str
    artifacts: Sequence["Artifact"]
    images: Sequence["SubjectImage"]
    class_noun: str | None  # that the bundle says

    def candidates(self) -> list["ValidationCandidate"]:
        """One per token."""
        from dti_engine.quality.validation import ValidationCandidate

        references = [subject_image.image for subject_image in self.images]
        return [ValidationCandidate(each, references, self.class_noun) for each in self.artifacts]


class _Stopped(Exception):
    """A stop was asked for; what is on its way is left."""


def try_out(
    model: "Backbone",
    judge: "TokenScorer | None",
    plans: Sequence[Plan],
    endings: Endings,
    *,
    num_probes: int,
    resolution: int,
) -> None:
    """Try out the tokens of the run that were not tried before, and flag the odd ones of them all.

    Of a subject whose steps were kept, the best is its token from now on. A token that cannot be
    tried out is told, and stays as it is. After a stop (`Keeper.stop`) the rest waits.
    """
    from dti_engine.quality.run_folder import RunFolder
    from dti_engine.quality.validation import TokenValidator

    folder, examiner = (
        RunFolder(endings.output),
        TokenValidator(model, judge, num_probes=num_probes),
    )
    due = [plan for plan in plans if _is_due(plan.name, folder, endings)]
    endings.untried = [plan.name for plan in due]
    if endings.checkpoints.stop_requested:  # among the steps; whoever stopped it waits
        return

    def on_step() -> None:
        if endings.checkpoints.stop_requested:
            raise _Stopped

    def settle(subjects: Sequence[Tried]) -> None:
        candidates = [candidate for each in subjects for candidate in each.candidates()]
        trials = iter(examiner.examine(candidates, on_step=on_step))
        for each in subjects:
            folder.save_reference(each.name, each.images[0].image)
            folder.settle(each.name, [(artifact, next(trials)) for artifact in each.artifacts])

    with suppress(_Stopped), trial_progress(len(due)) as on_tried:
        for start in range(0, len(due), _AT_ONCE):
            on_step()
            group = due[start : start + _AT_ONCE]
            subjects = [
                each for plan in group if (each := _open(plan, folder, endings, resolution))
            ]
            try:
                settle(subjects)
            except DTIError:  # such as of a token with which the model overflows: whose is it?
                for each in subjects:
                    try:
                        settle([each])
                    except DTIError as error:
                        endings.warn(each.name, f"cannot be tried out: {error}")
            endings.untried = endings.untried[len(group) :]
            on_tried(start + len(group))
        _flag(model, folder, endings)


def _flag(model: "Backbone", folder: "RunFolder", endings: Endings) -> None:
    """Flag the odd ones among all that lie in the folder, whichever run has made them."""
    tried = folder.tried(model.fingerprint)
    flagged = folder.flag(tried, model)
    for name in endings.names:
        if name in flagged and name not in endings.failed:
            endings.note_trial(name, flagged[name])
    num_flagged = sum(1 for flags in endings.flags.values() if flags)
    say(
        f"{len(endings.flags)} tokens are tried out, {num_flagged} are flagged; "
        f"dti report {str(endings.output)!r} makes a page of it"
    )


def _is_due(name: str, folder: "RunFolder", endings: Endings) -> bool:
    """Whether it has a token that was trained here, and not tried out yet."""
    from dti_engine.artifacts.artifact import Artifact

    if name in endings.failed or not folder.token(name).exists():
        return False
    try:
        training = Artifact.load(folder.token(name)).manifest.training
    except ArtifactError as error:
        endings.warn(name, f"cannot be tried out: {error}")
        return False
    return training is not None and training.quality is None


def _open(plan: Plan, folder: "RunFolder", endings: Endings, resolution: int) -> Tried | None:
    from dti_engine.artifacts.artifact import Artifact
    from dti_engine.images.bundles.bundle import load_bundle

    try:
        last = Artifact.load(folder.token(plan.name))
        kept = map(Artifact.load, folder.all_kept(plan.name))
        artifacts = [*(each for each in kept if _is_on_the_way(each, last)), last]
        bundle = load_bundle(plan.path, resolution=resolution)
        return Tried(plan.name, artifacts, bundle.images, bundle.description.class_noun)
    except (SubjectError, ArtifactError) as error:
        endings.warn(plan.name, f"cannot be tried out: {error}")
        return None


def _is_on_the_way(kept: "Artifact", last: "Artifact") -> bool:
    """Whether both are of one training: another run may have left its own in the folder."""
    ours, theirs = kept.manifest.training, last.manifest.training
    its_own = {"steps_done", "stop_reason", "metrics", "quality"}
    return (
        ours is not None
        and theirs is not None
        and ours.steps_done < theirs.steps_done
        and ours.model_dump(exclude=its_own) == theirs.model_dump(exclude=its_own)
    )

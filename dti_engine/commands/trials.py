"""After training: every token is tried out, and the odd ones of the run are flagged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dti_engine.commands.endings import Endings
from dti_engine.commands.progress import trial_progress
from dti_engine.commands.subjects import Plan
from dti_engine.commands.terminal import say
from dti_engine.errors import ArtifactError, DTIError, SubjectError

if TYPE_CHECKING:
    from dti_engine.artifact import Artifact
    from dti_engine.backbones.interface import Backbone
    from dti_engine.images import Picture
    from dti_engine.quality.judges import Judge
    from dti_engine.quality.runs import RunFolder

_AT_ONCE = 8  # subjects whose pictures are in memory


@dataclass(frozen=True)
class Tried:
    """A subject with its tokens, those that were kept on the way first, and its pictures."""

    name: str
    artifacts: Sequence["Artifact"]
    pictures: Sequence["Picture"]


def try_out(
    model: "Backbone",
    judge: "Judge | None",
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
    from dti_engine.quality.runs import RunFolder
    from dti_engine.quality.trial import Candidate, Examiner

    folder, examiner = RunFolder(endings.output), Examiner(model, judge, num_probes=num_probes)
    found = {plan.name: each for plan in plans if (each := _load(plan.name, folder, endings))}
    due = [plan for plan in plans if plan.name in found and not _is_tried(found[plan.name])]
    endings.untried = [plan.name for plan in due]
    with trial_progress(len(due)) as on_tried:
        for start in range(0, len(due), _AT_ONCE):
            if endings.keeper.is_stopped:
                return
            group = due[start : start + _AT_ONCE]
            subjects = [
                each for plan in group if (each := _open(plan, folder, endings, resolution))
            ]
            candidates = [
                Candidate(artifact, [picture.image for picture in each.pictures])
                for each in subjects
                for artifact in each.artifacts
            ]
            try:
                trials = iter(examiner.examine(candidates))
                for each in subjects:
                    tried = [(artifact, next(trials)) for artifact in each.artifacts]
                    folder.save_reference(each.name, each.pictures[0].image)
                    found[each.name] = folder.settle(each.name, tried)
            except DTIError as error:  # such as a model that overflows, or a full disk
                for each in subjects:
                    if not _is_tried(found[each.name]):
                        endings.warn(each.name, f"cannot be tried out: {error}")
            endings.untried = endings.untried[len(group) :]
            on_tried(len(group))
    tried = {name: artifact for name, artifact in found.items() if _is_tried(artifact)}
    for name, artifact in folder.flag(tried, model).items():
        endings.try_out(name, artifact)
    num_flagged = sum(1 for each in endings.tried.values() if each)
    say(
        f"{len(endings.tried)} tokens tried out in {num_probes} pictures each, {num_flagged} "
        f"flagged; dti report {str(endings.output)!r} makes a page of it"
    )


def _load(name: str, folder: "RunFolder", endings: Endings) -> "Artifact | None":
    """Its token, if it has one and was trained here."""
    from dti_engine.artifact import Artifact

    if name in endings.failed or not folder.token(name).exists():
        return None
    try:
        artifact = Artifact.load(folder.token(name))
    except ArtifactError as error:
        endings.warn(name, f"cannot be tried out: {error}")
        return None
    return artifact if artifact.manifest.training else None


def _is_tried(artifact: "Artifact") -> bool:
    training = artifact.manifest.training
    return training is not None and training.quality is not None


def _open(plan: Plan, folder: "RunFolder", endings: Endings, resolution: int) -> Tried | None:
    from dti_engine.artifact import Artifact
    from dti_engine.bundles.loading import load_bundle

    try:
        last = Artifact.load(folder.token(plan.name))
        kept = map(Artifact.load, folder.all_kept(plan.name))
        artifacts = [*(each for each in kept if _is_on_the_way(each, last)), last]
        return Tried(plan.name, artifacts, load_bundle(plan.path, resolution=resolution).pictures)
    except (SubjectError, ArtifactError) as error:
        endings.warn(plan.name, f"cannot be tried out: {error}")
        return None


def _is_on_the_way(kept: "Artifact", last: "Artifact") -> bool:
    """Whether both are of one training: another run may have left its own in the folder."""
    ours, theirs = kept.manifest.training, last.manifest.training
    its_own = {"steps_done", "stop_reason", "figures", "quality"}
    return (
        ours is not None
        and theirs is not None
        and ours.steps_done < theirs.steps_done
        and ours.model_dump(exclude=its_own) == theirs.model_dump(exclude=its_own)
    )

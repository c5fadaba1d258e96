"""The folder of a run of `dti train`: where its tokens lie, and what is said of them there.

NAME.safetensors               the token of a subject
steps/NAME/N.safetensors       the same after N steps, if they were kept
validation/NAME/               what it was tried out in: 0.png, ... and reference.jpg
checkpoints/                   subjects in training, see `keepers`
earlier/                       tokens that a new run has taken the place of
run.jsonl                      what happened when, see `commands.events`
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ArtifactError
from dti_engine.files import atomic_write
from dti_engine.generation.pipeline import save_image
from dti_engine.quality.flags import flagged
from dti_engine.quality.validation import TokenValidation

_REFERENCE_SIDE = 192  # pixels: to be looked at beside others


@dataclass(frozen=True)
class RunFolder:
    """One such folder."""

    root: Path

    def token(self, name: str) -> Path:
        return self.root / f"{name}.safetensors"

    def kept(self, name: str, step: int) -> Path:
        """Its token after so many steps."""
        return self.root / "steps" / name / f"{step}.safetensors"

    def all_kept(self, name: str) -> list[Path]:
        """Its tokens on the way, by steps."""
        found = (self.root / "steps" / name).glob("*.safetensors")
        return sorted((each for each in found if each.stem.isdecimal()), key=_step_of)

    def tried(self, fingerprint: str) -> dict[str, Artifact]:
        """All tokens here that were tried out, of the model with this fingerprint, by subject."""
        found: dict[str, Artifact] = {}
        for path in sorted(self.root.glob("*.safetensors")):
            with suppress(ArtifactError):
                manifest = (artifact := Artifact.load(path)).manifest
                if manifest.model_fingerprint == fingerprint and _is_tried(artifact):
                    found[path.stem] = artifact
        return found

    def image(self, name: str, index: int) -> Path:
        return self.root / "validation" / name / f"{index}.png"

    def reference(self, name: str) -> Path:
        """A small copy of the first image that it was learned from."""
        return self.root / "validation" / name / "reference.jpg"

    def settle(self, name: str, tried: Sequence[tuple[Artifact, TokenValidation]]) -> Artifact:
        """Keep what came of its tokens; the best, or else the last, is its token from now on.

        tried: those that were kept on the way, then the one after all steps. Where it does not
        win, it is kept beside the others. Returns the winner, with its quality in its manifest.

        Raises: OutputError if something cannot be written.
        """
        # Of equals the last: it had the steps that were asked for.
        artifact, trial = max(reversed(tried), key=lambda each: each[1].quality.score or 0.0)
        last = tried[-1][0]
        changes: dict[str, object] = {"quality": trial.quality}
        if artifact is not last:
            changes["stop_reason"] = "chosen"
            last.save(self.kept(name, _steps(last)))
        for index, (image, shown) in enumerate(
            zip(trial.images, trial.quality.images, strict=True)
        ):
            asked = {"prompt": shown.prompt, "seed": shown.seed, "step": _steps(artifact)}
            save_image(image, self.image(name, index), asked)
        winner = replace(artifact, manifest=artifact.manifest.with_origin(**changes))
        winner.save(self.token(name))
        return winner

    def save_reference(self, name: str, image: Image.Image) -> None:
        """Raises: OutputError if it cannot be written."""
        small, data = image.copy(), BytesIO()
        small.thumbnail((_REFERENCE_SIDE, _REFERENCE_SIDE))
        small.convert("RGB").save(data, "JPEG", quality=88)
        atomic_write(self.reference(name), data.getvalue())

    def flag(self, artifacts: Mapping[str, Artifact], backbone: Backbone) -> dict[str, Artifact]:
        """These tokens, all of them tried out, with what is odd about each in its manifest.

        Scores are compared with those of the same probes, angles with those of the same config.

        Raises: OutputError if something cannot be written.
        """
        judged = flagged(artifacts, backbone)
        for name, artifact in judged.items():
            if artifact.manifest != artifacts[name].manifest:
                artifact.save(self.token(name))
        return judged


def _step_of(path: Path) -> int:
    return int(path.stem)


def _is_tried(artifact: Artifact) -> bool:
    training = artifact.manifest.training
    return training is not None and training.quality is not None


def _steps(artifact: Artifact) -> int:
    training = artifact.manifest.training
    assert training
    return training.steps_done

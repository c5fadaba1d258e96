"""The folder of a run of `dti train`: the paths in it, and its validated tokens.

NAME.safetensors               the token of a subject
steps/NAME/N.safetensors       its snapshot after N steps, if snapshots were asked for
validation/NAME/               its validation images: 0.png, ... and reference.jpg
checkpoints/                   unfinished trainings, see `training.checkpoint_manager`
earlier/                       tokens that a new run has replaced
run.jsonl                      the log of events, see `cli.run_log`
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
from dti_engine.images.png import save_image
from dti_engine.quality.flags import with_flags
from dti_engine.quality.validation import TokenValidation

_REFERENCE_SIDE_PX = 192  # of a thumbnail in reports


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    root: Path

    def token(self, name: str) -> Path:
        """Return the file of a subject's token."""
        return self.root / f"{name}.safetensors"

    def snapshot(self, name: str, step: int) -> Path:
        """Return the file of a subject's token after `step` steps."""
        return self.root / "steps" / name / f"{step}.safetensors"

    def snapshots(self, name: str) -> list[Path]:
        """Return the files of a subject's snapshots, by ascending steps."""
        files = (self.root / "steps" / name).glob("*.safetensors")
        return sorted((file for file in files if file.stem.isdecimal()), key=_step_of)

    def validated(self, fingerprint: str) -> dict[str, Artifact]:
        """Return subject -> validated token of the model with this fingerprint."""
        found: dict[str, Artifact] = {}
        for path in sorted(self.root.glob("*.safetensors")):
            # A foreign or damaged file is no token to compare with; `dti report` names it.
            with suppress(ArtifactError):
                manifest = (artifact := Artifact.load(path)).manifest
                if manifest.model_fingerprint == fingerprint and _is_validated(artifact):
                    found[path.stem] = artifact
        return found

    def image(self, name: str, index: int) -> Path:
        """Return the file of a subject's validation image."""
        return self.root / "validation" / name / f"{index}.png"

    def reference(self, name: str) -> Path:
        """Return the file of a small copy of the subject's first image."""
        return self.root / "validation" / name / "reference.jpg"

    def save_validation(
        self, name: str, validations: Sequence[tuple[Artifact, TokenValidation]]
    ) -> Artifact:
        """Save the validation of a subject's best token, which becomes the subject's token.

        `validations` are those of its snapshots, then that of its last token, which becomes a
        snapshot if it does not win. Return the winner, with its quality in its manifest.

        Raises:
            OutputError: A file cannot be written.
        """
        # The last of equals, because it had all the steps that were asked for.
        artifact, best = max(reversed(validations), key=lambda each: each[1].quality.score or 0.0)
        last = validations[-1][0]
        changes: dict[str, object] = {"quality": best.quality}
        if artifact is not last:
            changes["stop_reason"] = "chosen"
            # Before the winner takes its place, so that a crash between the two loses neither.
            last.save(self.snapshot(name, _steps(last)))
        for index, (pixels, image) in enumerate(zip(best.images, best.quality.images, strict=True)):
            settings = {"prompt": image.prompt, "seed": image.seed, "step": _steps(artifact)}
            save_image(pixels, self.image(name, index), settings)
        # The token comes last. A token with a quality counts as validated, so its images must be
        # there when it appears; after a crash before this line, it is validated again.
        winner = replace(artifact, manifest=artifact.manifest.with_origin(**changes))
        winner.save(self.token(name))
        return winner

    def save_reference(self, name: str, image: Image.Image) -> None:
        """Save a small copy of an image. Raises: OutputError if it cannot be written."""
        small, data = image.copy(), BytesIO()
        small.thumbnail((_REFERENCE_SIDE_PX, _REFERENCE_SIDE_PX))
        small.convert("RGB").save(data, "JPEG", quality=88)
        atomic_write(self.reference(name), data.getvalue())

    def flag(self, artifacts: Mapping[str, Artifact], backbone: Backbone) -> dict[str, Artifact]:
        """Flag the outliers among validated tokens, save them, and return all.

        Raises:
            OutputError: A file cannot be written.
        """
        flagged = with_flags(artifacts, backbone)
        for name, artifact in flagged.items():
            # Only what has changed: one more token in a run of thousands must not rewrite all
            # files.
            if artifact.manifest != artifacts[name].manifest:
                artifact.save(self.token(name))
        return flagged


def _step_of(path: Path) -> int:
    return int(path.stem)


def _is_validated(artifact: Artifact) -> bool:
    training = artifact.manifest.training
    return training is not None and training.quality is not None


def _steps(artifact: Artifact) -> int:
    training = artifact.manifest.training
    assert training
    return training.steps_done

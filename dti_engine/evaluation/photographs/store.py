"""The folder of an evaluation on photographs: what is done stays done.

evaluation.json     what is evaluated; another evaluation is refused
slots.json          how many tokens are trained at a time
checkpoints/        tokens on their way
tokens/             every learned token, an artifact
images/           every scored image, its settings inside
scores.jsonl        one line per image, appended when the image is scored
times.jsonl         one line per piece of work that was kept: its seconds
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dti_engine.artifacts.artifact import Artifact
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.photographs.subjects import EvaluationImage, PhotographedSubject
from dti_engine.evaluation.store import Records
from dti_engine.files import atomic_write
from dti_engine.training.checkpoint_manager import CheckpointManager


class Score(BaseModel):
    """How one image scored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image: str  # key of its shot
    row: str
    subject: str
    prompt: int
    training_seed: int
    image_seed: int
    masked_subject_score: float | None  # cosine with the photos, background black; None: no masks
    subject_score: float  # the same with the photos as they are
    prompt_score: float  # probability, 0 .. 1
    prompt_cosine: float


class _Slots(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    slots: int = Field(ge=1)


class Store(Records[Score]):
    """One evaluation's folder. One process at a time writes to it."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Begin or go on with the evaluation that `identity` describes. Raises: as `Records`."""
        super().__init__(folder, identity, Score)

    def slots(self) -> int | None:
        """How many tokens the last start trained at a time; None if none has trained any.

        Raises: ConfigurationError if the file that says so is damaged.
        """
        try:
            return _Slots.model_validate_json(self._slots_file.read_bytes()).slots
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise ConfigurationError(
                f"{str(self._slots_file)!r} cannot be read; remove it, and the number of slots is "
                "chosen again"
            ) from error

    def keep_slots(self, slots: int) -> None:
        """A start that goes on takes the same number, which decides how results round.

        Raises: OutputError if it cannot be written.
        """
        atomic_write(self._slots_file, _Slots(slots=slots).model_dump_json().encode())

    @property
    def _slots_file(self) -> Path:
        return self.folder / "slots.json"

    def image(self, shot: EvaluationImage) -> Path:
        return self.folder / "images" / f"{shot.key}.png"

    def token(self, name: str, subject: PhotographedSubject, training_seed: int) -> Path:
        """File of this token of the subject."""
        learned = f"{subject.name}-training{training_seed}"
        return self.folder / "tokens" / name / f"{learned}.safetensors"

    def checkpoints(self, name: str, *, every: int) -> CheckpointManager:
        """Of the tokens of this name that are on their way."""
        return CheckpointManager(self.folder / "checkpoints" / name, every=every)

    def load_token(self, name: str, subject: PhotographedSubject, training_seed: int) -> Artifact:
        """Raises: ArtifactError if it is damaged or was removed."""
        return Artifact.load(self.token(name, subject, training_seed))

"""The folder of an evaluation, which lets a stopped evaluation continue.

evaluation.json     the identity of the evaluation; a different one is refused
slots.json          how many tokens are trained at once, if that was chosen by measurement
subjects/           drawn reference photos
checkpoints/        unfinished trainings
tokens/             every trained token, an artifact
images/             every scored image, a PNG that contains its settings
scores.jsonl        one line per image, appended when the image is scored
times.jsonl         one line per completed piece of work: its duration in seconds
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dti_engine.artifacts.artifact import Artifact
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.rows import EvaluationImage, TokenKey
from dti_engine.files import atomic_write
from dti_engine.training.checkpoint_manager import CheckpointManager


class ImageScore(BaseModel):
    """The scores of one image."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    image: str  # EvaluationImage.key
    row: str
    subject: str
    prompt: int
    training_seed: int
    image_seed: int
    subject_score: float  # likeness to the photos: 0 .. 1 on the miniature, else a cosine
    prompt_score: float  # 0 .. 1: share of what the prompt asks for, or SigLIP's probability
    masked_subject_score: float | None = None  # cosine with the photos on black; None: no masks
    prompt_cosine: float | None = None  # what SigLIP's probability is computed from

    @classmethod
    def of(cls, image: EvaluationImage, **scores: float | None) -> Self:
        """Return the scores of `image`, named as the fields of this class."""
        return cls.model_validate(
            {
                "image": image.key,
                "row": image.row.name,
                "subject": image.subject,
                "prompt": image.prompt,
                "training_seed": image.training_seed,
                "image_seed": image.image_seed,
            }
            | scores
        )


class _Slots(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    slots: int = Field(ge=1)


class EvaluationStore:
    """The folder of one evaluation. Only one process at a time may write to it."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Open the folder of the evaluation that `identity` describes, or create it.

        Raises:
            ConfigurationError: The folder holds another evaluation, or is damaged.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder / "evaluation.json", json.dumps(identity, indent=2, sort_keys=True))
        self._scores_file, self._times_file = folder / "scores.jsonl", folder / "times.jsonl"
        self.scores = {score.image: score for score in _read_scores(self._scores_file)}
        """Key of an image -> its scores."""
        self._elapsed_s = sum(json.loads(line)["seconds"] for line in _lines(self._times_file))
        self._noted_at = time.monotonic()

    # Scores and times

    def add(self, scores: Sequence[ImageScore]) -> None:
        """Append scores to the folder."""
        _append(self._scores_file, [score.model_dump_json() for score in scores])
        self.scores |= {score.image: score for score in scores}
        self.note_time()

    def note_time(self) -> float:
        """Store the time since the last call; return the seconds that all starts took together.

        It is stored with every piece of work, because a start may end at any time. Work that was
        interrupted, and is done again, does not count.
        """
        now = time.monotonic()
        passed_s, self._noted_at = now - self._noted_at, now
        self._elapsed_s += passed_s
        _append(self._times_file, [json.dumps({"seconds": passed_s})])
        return self._elapsed_s

    # Files

    def references(self, subject: str) -> Path:
        """Return the folder of a drawn subject's photos."""
        return self.folder / "subjects" / subject

    def image(self, image: EvaluationImage) -> Path:
        """Return the file of an image."""
        return self.folder / "images" / f"{image.key}.png"

    def token(self, key: TokenKey, subject: str, training_seed: int) -> Path:
        """Return the file of a subject's token."""
        snapshot = "" if key.steps is None else f"-step{key.steps}"
        file = f"{subject}-training{training_seed}{snapshot}.safetensors"
        return self.folder / "tokens" / key.name / file

    def count_tokens(self, steps: int) -> int:
        """Return the number of tokens that were trained for `steps` steps."""
        return sum(1 for _ in self.folder.glob(f"tokens/**/*-step{steps}.safetensors"))

    def save_token(
        self, artifact: Artifact, key: TokenKey, subject: str, training_seed: int
    ) -> None:
        """Save a subject's token. Raises: OutputError if it cannot be written."""
        artifact.save(self.token(key, subject, training_seed))
        self.note_time()

    def load_token(self, key: TokenKey, subject: str, training_seed: int) -> Artifact:
        """Load a subject's token. Raises: ArtifactError if it is damaged or was removed."""
        return Artifact.load(self.token(key, subject, training_seed))

    def checkpoints(self, token_name: str, *, every: int) -> CheckpointManager:
        """Return the manager of the checkpoints of unfinished tokens of this name."""
        return CheckpointManager(self.folder / "checkpoints" / token_name, every=every)

    # Slots

    def slots(self) -> int | None:
        """Return how many tokens were trained at once so far, or None before the first training.

        Raises:
            ConfigurationError: The file is damaged.
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

    def save_slots(self, slots: int) -> None:
        """Store the number of slots: a later start reuses it, since it decides how results round.

        Raises:
            OutputError: It cannot be written.
        """
        atomic_write(self._slots_file, _Slots(slots=slots).model_dump_json().encode())

    @property
    def _slots_file(self) -> Path:
        return self.folder / "slots.json"


def _claim(path: Path, identity: str) -> None:
    if not path.exists():
        atomic_write(path, identity.encode())
    # As text: a field that this version has and the folder lacks is a difference too.
    elif path.read_text(encoding="utf-8") != identity:
        raise ConfigurationError(
            f"{str(path.parent)!r} holds an evaluation with other options or weights, or of "
            f"another version of the engine (see {path.name} there); repeat its options to "
            "continue it, or give another folder"
        )


def _append(path: Path, lines: Sequence[str]) -> None:
    # Not synced: if the machine fails, the last lines are lost, and their images scored again.
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _lines(path: Path) -> list[bytes]:
    """Return the lines of the file, after removing a last one that a crash cut short."""
    if not path.exists():
        return []
    data = path.read_bytes()
    complete = data[: data.rfind(b"\n") + 1]
    # Otherwise the next line would be appended to the torn one, and both would be lost.
    os.truncate(path, len(complete))
    return complete.splitlines()


def _read_scores(path: Path) -> Iterator[ImageScore]:
    for number, line in enumerate(_lines(path), start=1):
        try:
            yield ImageScore.model_validate_json(line)
        except ValidationError as error:
            raise ConfigurationError(
                f"line {number} of {str(path)!r} is not a score; remove that line to score its "
                "image again"
            ) from error

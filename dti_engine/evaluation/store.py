"""What every evaluation's folder has: what is evaluated, scores by image, and time spent.

evaluation.json     what is evaluated; another evaluation is refused
scores.jsonl        one line per image, appended when the image is scored
times.jsonl         one line per piece of work that was kept: its seconds

The folder of an evaluation: what is done stays done, and a second start goes on from there.

evaluation.json     what is evaluated; another evaluation is refused
subjects/           the reference photos
tokens/             every learned token, an artifact
images/           every scored image
scores.jsonl        one line per image, appended when the image is scored
times.jsonl         one line per piece of work that was kept: its seconds
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dti_engine.artifacts.artifact import Artifact
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.rows import EvaluationImage, TokenKey
from dti_engine.files import atomic_write
from dti_engine.miniature.world.subjects import HeldOutSubject


class ImageScore(Protocol):
    """A pydantic model with the key of its image."""

    @property
    def image(self) -> str: ...

    def model_dump_json(self) -> str: ...

    @classmethod
    def model_validate_json(cls, json_data: bytes) -> Self: ...


ScoreT = TypeVar("ScoreT", bound=ImageScore)


class Records(Generic[ScoreT]):
    """One evaluation's folder. One process at a time writes to it."""

    def __init__(self, folder: Path, identity: dict[str, Any], score: type[ScoreT]) -> None:
        """Begin or go on with the evaluation that `identity` describes.

        Raises: ConfigurationError if the folder holds another evaluation, or is damaged.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder / "evaluation.json", json.dumps(identity, indent=2, sort_keys=True))
        self._scores_file, self._times_file = folder / "scores.jsonl", folder / "times.jsonl"
        self.scores = {each.image: each for each in _read_scores(self._scores_file, score)}
        self._seconds = sum(json.loads(line)["seconds"] for line in _lines(self._times_file))
        self._noted_at = time.monotonic()

    def add(self, scores: Sequence[ScoreT]) -> None:
        """Keep scores for good."""
        _append(self._scores_file, [score.model_dump_json() for score in scores])
        self.scores |= {score.image: score for score in scores}
        self.note_time()

    def note_time(self) -> float:
        """Keep the time since the last note; gives the seconds that all starts together took.

        It is kept with every piece of work, since no start knows how it will end. What a piece took
        that was cut short, and is done again, does not count.
        """
        now = time.monotonic()
        passed, self._noted_at = now - self._noted_at, now
        self._seconds += passed
        _append(self._times_file, [json.dumps({"seconds": passed})])
        return self._seconds


def _claim(path: Path, identity: str) -> None:
    if not path.exists():
        atomic_write(path, identity.encode())
    elif path.read_text(encoding="utf-8") != identity:
        raise ConfigurationError(
            f"{str(path.parent)!r} holds an evaluation with other options or weights, or one by "
            f"another version of the engine, see {path.name} there; give the same ones to go on "
            "with it, or another folder"
        )


def _append(path: Path, lines: Sequence[str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def _lines(path: Path) -> list[bytes]:
    """The lines of the file; a last one that was cut short by a crash is taken off."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    os.truncate(path, len(whole))
    return whole.splitlines()


def _read_scores(path: Path, score: type[ScoreT]) -> Iterator[ScoreT]:
    for number, line in enumerate(_lines(path), start=1):
        try:
            yield score.model_validate_json(line)
        except ValidationError as error:
            raise ConfigurationError(
                f"line {number} of {str(path)!r} is no score; remove that line to score its "
                "image again"
            ) from error


class Score(BaseModel):
    """How one image scored. Both scores lie in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: str  # key of its shot
    row: str
    subject: str
    prompt: int
    training_seed: int
    image_seed: int
    subject_score: float  # likeness to the reference photos
    prompt_score: float  # share of what the prompt asked for
    norm: float | None  # mean length of the vectors that name the subject, if a word does

    @classmethod
    def of(
        cls, shot: EvaluationImage, *, subject_score: float, prompt_score: float, norm: float | None
    ) -> Self:
        return cls(
            image=shot.key,
            row=shot.row.name,
            subject=shot.subject.name,
            prompt=shot.prompt,
            training_seed=shot.training_seed,
            image_seed=shot.image_seed,
            subject_score=subject_score,
            prompt_score=prompt_score,
            norm=norm,
        )


class Store(Records[Score]):
    """One evaluation's folder. One process at a time writes to it."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Begin or go on with the evaluation that `identity` describes. Raises: as `Records`."""
        super().__init__(folder, identity, Score)

    def references(self, subject: HeldOutSubject) -> Path:
        """Folder of its photos."""
        return self.folder / "subjects" / subject.name

    def image(self, shot: EvaluationImage) -> Path:
        return self.folder / "images" / f"{shot.key}.png"

    def token(self, key: TokenKey, subject: HeldOutSubject, training_seed: int) -> Path:
        """File of this token of the subject."""
        learned = f"{key.method}-{key.setting}/{subject.name}-training{training_seed}"
        return self.folder / "tokens" / f"{learned}-step{key.steps}.safetensors"

    def num_tokens(self, steps: int) -> int:
        """Tokens that had so many steps."""
        return sum(1 for _ in self.folder.glob(f"tokens/**/*-step{steps}.safetensors"))

    def save_token(
        self, artifact: Artifact, key: TokenKey, subject: HeldOutSubject, training_seed: int
    ) -> None:
        """Raises: OutputError if it cannot be written."""
        artifact.save(self.token(key, subject, training_seed))
        self.note_time()

    def load_token(self, key: TokenKey, subject: HeldOutSubject, training_seed: int) -> Artifact:
        """Raises: ArtifactError if it is damaged or was removed."""
        return Artifact.load(self.token(key, subject, training_seed))

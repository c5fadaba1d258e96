"""The folder of an evaluation: what is done stays done, and a second start goes on from there.

evaluation.json     what is evaluated; another evaluation is refused
subjects/           the reference photos
tokens/             every learned token, an artifact
pictures/           every scored picture
scores.jsonl        one line per picture, appended when the picture is scored
sessions.jsonl      one line per start: how long it worked
"""

import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dti_engine.artifact import Artifact
from dti_engine.errors import ConfigurationError
from dti_engine.evaluation.rows import Row, Shot
from dti_engine.miniature.world.subjects import HeldOutSubject


class Score(BaseModel):
    """How one picture scored. Both scores lie in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str  # key of its shot
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
        cls, shot: Shot, *, subject_score: float, prompt_score: float, norm: float | None
    ) -> Self:
        return cls(
            picture=shot.key,
            row=shot.row.name,
            subject=shot.subject.name,
            prompt=shot.prompt,
            training_seed=shot.training_seed,
            image_seed=shot.image_seed,
            subject_score=subject_score,
            prompt_score=prompt_score,
            norm=norm,
        )


class Store:
    """One evaluation's folder. One process at a time writes to it."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Begin or go on with the evaluation that `identity` describes.

        Raises: ConfigurationError if the folder holds another evaluation, or is damaged.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder / "evaluation.json", json.dumps(identity, indent=2, sort_keys=True))
        self._scores_file = folder / "scores.jsonl"
        self.scores = {score.picture: score for score in _read_scores(self._scores_file)}

    def add(self, scores: Sequence[Score]) -> None:
        """Keep scores for good."""
        with self._scores_file.open("a", encoding="utf-8") as file:
            file.writelines(score.model_dump_json() + "\n" for score in scores)
        self.scores |= {score.picture: score for score in scores}

    def references(self, subject: HeldOutSubject) -> Path:
        """Folder of its photos."""
        return self.folder / "subjects" / subject.name

    def picture(self, shot: Shot) -> Path:
        return self.folder / "pictures" / f"{shot.key}.png"

    def token(self, row: Row, subject: HeldOutSubject, training_seed: int) -> Path:
        """File of the token that stands in the row's prompts."""
        learned = f"{row.method}-{row.setting}/{subject.name}-training{training_seed}"
        return self.folder / "tokens" / f"{learned}-step{row.steps}.safetensors"

    def num_tokens(self, steps: int) -> int:
        """Tokens that had so many steps."""
        return sum(1 for _ in self.folder.glob(f"tokens/**/*-step{steps}.safetensors"))

    def load_token(self, row: Row, subject: HeldOutSubject, training_seed: int) -> Artifact:
        """Raises: ArtifactError if it is damaged or was removed."""
        return Artifact.load(self.token(row, subject, training_seed))

    @contextmanager
    def session(self) -> Generator[Callable[[], float]]:
        """Counts the time of this start; gives the seconds worked so far, of all starts."""
        path = self.folder / "sessions.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        before, began = sum(json.loads(line)["seconds"] for line in lines), time.monotonic()
        try:
            yield lambda: before + time.monotonic() - began
        finally:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"seconds": time.monotonic() - began}) + "\n")


def _claim(path: Path, identity: str) -> None:
    if not path.exists():
        path.write_text(identity, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != identity:
        raise ConfigurationError(
            f"{str(path.parent)!r} holds an evaluation with other options or weights, see "
            f"{path.name} there; give the same ones to go on with it, or another folder"
        )


def _read_scores(path: Path) -> Iterator[Score]:
    """The scores in the file; a last line that was cut short by a crash is taken off."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            yield Score.model_validate_json(line)
        except ValidationError as error:
            raise ConfigurationError(
                f"line {number} of {str(path)!r} is no score; remove that line to score its "
                "picture again"
            ) from error

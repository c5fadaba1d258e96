"""The folder of an evaluation: what is done stays done, and a second start goes on from there.

evaluation.json     what is evaluated; another evaluation is refused
subjects/           the reference photos
tokens/             every learned token, an artifact
pictures/           every scored picture
scores.jsonl        one line per picture, appended when the picture is scored
times.jsonl         one line per piece of work that was kept: its seconds
"""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from dti_engine.artifact import Artifact
from dti_engine.evaluation.records import Records
from dti_engine.evaluation.rows import Shot, TokenKey
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


class Store(Records[Score]):
    """One evaluation's folder. One process at a time writes to it."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        """Begin or go on with the evaluation that `identity` describes. Raises: as `Records`."""
        super().__init__(folder, identity, Score)

    def references(self, subject: HeldOutSubject) -> Path:
        """Folder of its photos."""
        return self.folder / "subjects" / subject.name

    def picture(self, shot: Shot) -> Path:
        return self.folder / "pictures" / f"{shot.key}.png"

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

"""What every evaluation's folder has: what is evaluated, scores by picture, and time spent.

evaluation.json     what is evaluated; another evaluation is refused
scores.jsonl        one line per picture, appended when the picture is scored
times.jsonl         one line per piece of work that was kept: its seconds
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from pydantic import ValidationError

from dti_engine.errors import ConfigurationError
from dti_engine.files import write_whole


class PictureScore(Protocol):
    """A pydantic model with the key of its picture."""

    @property
    def picture(self) -> str: ...

    def model_dump_json(self) -> str: ...

    @classmethod
    def model_validate_json(cls, json_data: bytes) -> Self: ...


ScoreT = TypeVar("ScoreT", bound=PictureScore)


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
        self.scores = {each.picture: each for each in _read_scores(self._scores_file, score)}
        self._seconds = sum(json.loads(line)["seconds"] for line in _lines(self._times_file))
        self._noted_at = time.monotonic()

    def add(self, scores: Sequence[ScoreT]) -> None:
        """Keep scores for good."""
        _append(self._scores_file, [score.model_dump_json() for score in scores])
        self.scores |= {score.picture: score for score in scores}
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
        write_whole(path, identity.encode())
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
                "picture again"
            ) from error

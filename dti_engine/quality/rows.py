"""A subject as a row of a report: what its token, its pictures and the log say of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import degrees
from pathlib import Path
from statistics import fmean
from typing import Literal, TypeAlias

from dti_engine.errors import ArtifactError
from dti_engine.manifest import Manifest, Quality, Trained
from dti_engine.quality.history import Past
from dti_engine.quality.runs import RunFolder

State: TypeAlias = Literal["failed", "unreadable", "flagged", "passed", "untried", "unfinished"]
"""Failed in training; without a token that can be read; tried out, and odd or not; not tried out;
on its way or waiting.
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture that a token was tried out in; scores lie in 0 .. 1, None without a judge."""

    prompt: str
    subject_score: float | None
    prompt_score: float | None
    file: str | None  # in the folder of the run; None: it is not there


@dataclass(frozen=True, slots=True)
class Row:
    """All that is known of a subject; what is not known is None."""

    name: str
    state: State
    problem: str | None = None  # why it has no token of this run, or none that can be read
    problem_kind: str | None = None  # the class of the error
    flags: tuple[str, ...] = ()  # what is odd about it, in words
    remarks: tuple[str, ...] = ()  # what else a person should know
    placeholder: str | None = None
    initializer: str | None = None
    judge: str | None = None
    score: float | None = None  # the mean of subject score and prompt score
    subject_score: float | None = None
    prompt_score: float | None = None
    word_subject_score: float | None = None  # of the initializer in its place
    prior_angle_deg: float | None = None
    length: float | None = None  # mean over its vectors
    length_share: float | None = None  # the same, in mean lengths of words
    first_fixed_loss: float | None = None
    fixed_loss: float | None = None
    steps_done: int | None = None  # of the token
    steps: int | None = None  # that it was to have
    stop_reason: str | None = None
    seconds: float | None = None  # of training
    is_alone: bool = False  # tried out, but not held beside the others yet, so never flagged
    reference: str | None = None  # file of a picture that it was learned from
    pictures: tuple[Shown, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()  # (steps, fixed loss)

    @property
    def loss_share(self) -> float | None:
        """What is left of its first fixed loss."""
        if self.fixed_loss is None or not self.first_fixed_loss:
            return None
        return self.fixed_loss / self.first_fixed_loss


def row(
    name: str,
    token: Manifest | ArtifactError | None,
    past: Past | None,
    folder: RunFolder,
    words: Mapping[str, float],
) -> Row:
    """The row of a subject that has a token, or a past, or both.

    token: what its file says, why it cannot be read, or None without a file. words: encoder ->
    mean length of its words, as far as known.
    """
    known = past or Past()
    found = Row(
        name,
        "unfinished",
        remarks=tuple(known.warnings),
        placeholder=known.placeholder,
        steps=known.steps,
        seconds=known.seconds,
        curve=tuple(sorted(known.losses.items())),
    )
    if isinstance(token, Manifest) and token.training:
        found = _with_token(found, token, token.training, words)
        if token.training.quality:
            found = _with_trial(found, token.training.quality, folder)
            found = replace(found, is_alone=past is not None and not past.is_compared)
    return _with_problem(found, token, known)


def _with_token(found: Row, token: Manifest, training: Trained, words: Mapping[str, float]) -> Row:
    angle, loss = training.figures.get("prior_angle_rad"), training.figures.get("fixed_loss")
    lengths = [(encoder, x) for encoder, all_of_it in token.magnitudes.items() for x in all_of_it]
    shares = [length / words[encoder] for encoder, length in lengths if encoder in words]
    ends = {0: training.first_fixed_loss} | ({} if loss is None else {training.steps_done: loss})
    return replace(
        found,
        state="untried",
        placeholder=token.placeholder,
        initializer=training.initializer,
        prior_angle_deg=None if angle is None else degrees(angle),
        length=fmean(length for _, length in lengths) if lengths else None,
        length_share=fmean(shares) if shares else None,
        first_fixed_loss=training.first_fixed_loss,
        fixed_loss=loss,
        steps_done=training.steps_done,
        steps=training.config.steps,
        stop_reason=training.stop_reason,
        seconds=training.figures.get("seconds") if found.seconds is None else found.seconds,
        curve=tuple(sorted((dict(found.curve) | ends).items())),
    )


def _with_trial(found: Row, quality: Quality, folder: RunFolder) -> Row:
    pictures = tuple(
        Shown(
            each.prompt,
            each.subject_score,
            each.prompt_score,
            _file(folder.picture(found.name, index), folder),
        )
        for index, each in enumerate(quality.pictures)
    )
    reference = _file(folder.reference(found.name), folder)
    if num_missing := sum(1 for each in pictures if each.file is None):
        found = _remarked(found, f"{num_missing} of its {len(pictures)} pictures are missing")
    if reference is None:
        found = _remarked(found, "the picture that it was learned from is missing")
    return replace(
        found,
        state="flagged" if quality.flags else "passed",
        flags=quality.flags,
        judge=quality.judge,
        score=quality.score,
        subject_score=quality.subject_score,
        prompt_score=quality.prompt_score,
        word_subject_score=quality.word_subject_score,
        reference=reference,
        pictures=pictures,
    )


def _with_problem(found: Row, token: Manifest | ArtifactError | None, past: Past) -> Row:
    if past.failure is not None:
        if token is not None:
            found = _remarked(found, "a token from before lies in the folder")
        return replace(found, state="failed", problem=past.failure, problem_kind=past.failure_kind)
    if isinstance(token, ArtifactError):
        return replace(
            found, state="unreadable", problem=str(token), problem_kind=type(token).__name__
        )
    if token is None and past.is_finished:
        problem = "its token was written, and is not in the folder any more"
        return replace(found, state="unreadable", problem=problem, problem_kind="missing")
    return found


def _remarked(found: Row, remark: str) -> Row:
    return replace(found, remarks=(*found.remarks, remark))


def _file(path: Path, folder: RunFolder) -> str | None:
    return path.relative_to(folder.root).as_posix() if path.is_file() else None

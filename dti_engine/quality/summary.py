"""The report of a run of `dti train` as data: each subject's token, images and log, worst first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import degrees
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal, TypeAlias, get_args

from dti_engine.artifacts.artifact import Artifact
from dti_engine.artifacts.manifest import Manifest, Quality, TrainedOrigin
from dti_engine.errors import ArtifactError, ConfigurationError
from dti_engine.quality.run_folder import RunFolder
from dti_engine.quality.run_log import RunFacts, RunHistory, SubjectHistory

State: TypeAlias = Literal["failed", "unreadable", "flagged", "passed", "unvalidated", "unfinished"]
"""Training failed; the token cannot be read; validated with or without flags; not validated; in
training or waiting.
"""


@dataclass(frozen=True, slots=True)
class ReportImage:
    """A validation image; scores lie in 0 .. 1, and are None without a scorer."""

    prompt: str
    subject_score: float | None
    prompt_score: float | None
    file: str | None  # in the folder of the run; None: it is missing


@dataclass(frozen=True, slots=True)
class SubjectReport:
    """Everything known about a subject; unknown fields are None."""

    name: str
    state: State
    problem: str | None = None  # why it has no readable token of this run
    problem_kind: str | None = None  # the class of the error
    flags: tuple[str, ...] = ()  # reasons to check it, in words
    remarks: tuple[str, ...] = ()  # further notes for a reader
    placeholder: str | None = None
    initializer: str | None = None
    scorer: str | None = None
    score: float | None = None  # the mean of subject score and prompt score
    subject_score: float | None = None
    prompt_score: float | None = None
    word_subject_score: float | None = None  # of the bare initializer
    prior_angle_deg: float | None = None
    length: float | None = None  # mean over its vectors
    length_share: float | None = None  # relative to the mean length of words
    first_fixed_loss: float | None = None
    fixed_loss: float | None = None
    steps_done: int | None = None  # of the token
    steps: int | None = None  # the planned number
    stop_reason: str | None = None
    seconds: float | None = None  # of training
    is_uncompared: bool = False  # validated, but not compared with the others yet, so never flagged
    reference: str | None = None  # file of one of the images that it was learned from
    images: tuple[ReportImage, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()  # (steps, fixed loss)

    @property
    def loss_share(self) -> float | None:
        """The last fixed loss relative to the first."""
        if self.fixed_loss is None or not self.first_fixed_loss:
            return None
        return self.fixed_loss / self.first_fixed_loss


def subject_report(
    name: str,
    token: Manifest | ArtifactError | None,
    history: SubjectHistory | None,
    folder: RunFolder,
    words: Mapping[str, float],
) -> SubjectReport:
    """Return the report of a subject that has a token, or a history, or both.

    `token` is the manifest, the error of reading it, or None without a file. `words` maps a text
    encoder to the mean length of its words, as far as known.
    """
    known = history or SubjectHistory()
    report = SubjectReport(
        name,
        "unfinished",
        remarks=tuple(known.warnings),
        placeholder=known.placeholder,
        steps=known.steps,
        seconds=known.seconds,
        curve=tuple(sorted(known.losses.items())),
    )
    if isinstance(token, Manifest) and token.training:
        report = _with_token(report, token, token.training, words)
        if token.training.quality:
            report = _with_validation(report, token.training.quality, folder)
            report = replace(report, is_uncompared=history is not None and not history.is_compared)
    return _with_problem(report, token, known)


def _with_token(
    report: SubjectReport, token: Manifest, training: TrainedOrigin, words: Mapping[str, float]
) -> SubjectReport:
    angle, loss = training.metrics.get("prior_angle_rad"), training.metrics.get("fixed_loss")
    lengths = [(encoder, x) for encoder, values in token.magnitudes.items() for x in values]
    shares = [length / words[encoder] for encoder, length in lengths if encoder in words]
    # From the token itself, since the log may be damaged, and has evaluations only.
    ends = {0: training.first_fixed_loss} | ({} if loss is None else {training.steps_done: loss})
    return replace(
        report,
        state="unvalidated",
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
        remarks=(*report.remarks, *(f"trained by --force: {each}" for each in training.forced)),
        seconds=training.metrics.get("elapsed_s") if report.seconds is None else report.seconds,
        curve=tuple(sorted((dict(report.curve) | ends).items())),
    )


def _with_validation(report: SubjectReport, quality: Quality, folder: RunFolder) -> SubjectReport:
    images = tuple(
        ReportImage(
            each.prompt,
            each.subject_score,
            each.prompt_score,
            _file(folder.image(report.name, index), folder),
        )
        for index, each in enumerate(quality.images)
    )
    reference = _file(folder.reference(report.name), folder)
    if num_missing := sum(1 for each in images if each.file is None):
        report = _with_remark(report, f"{num_missing} of its {len(images)} images are missing")
    if reference is None:
        report = _with_remark(report, "the copy of its first image is missing")
    return replace(
        report,
        state="flagged" if quality.flags else "passed",
        flags=quality.flags,
        scorer=quality.scorer,
        score=quality.score,
        subject_score=quality.subject_score,
        prompt_score=quality.prompt_score,
        word_subject_score=quality.word_subject_score,
        reference=reference,
        images=images,
    )


def _with_problem(
    report: SubjectReport, token: Manifest | ArtifactError | None, history: SubjectHistory
) -> SubjectReport:
    # Before anything else: a log that ends in a failure is newer than the token in the folder.
    if history.failure is not None:
        if token is not None:
            report = _with_remark(report, "the folder holds a token of an earlier run")
        return replace(
            report, state="failed", problem=history.failure, problem_kind=history.failure_kind
        )
    if isinstance(token, ArtifactError):
        return replace(
            report, state="unreadable", problem=str(token), problem_kind=type(token).__name__
        )
    if token is None and history.is_finished:
        problem = "its token was written but is no longer in the folder"
        return replace(report, state="unreadable", problem=problem, problem_kind="missing")
    return report


def _with_remark(report: SubjectReport, remark: str) -> SubjectReport:
    return replace(report, remarks=(*report.remarks, remark))


def _file(path: Path, folder: RunFolder) -> str | None:
    return path.relative_to(folder.root).as_posix() if path.is_file() else None


_MAX_WORST, _MAX_BEST = 12, 4
_LEARNED: frozenset[State] = frozenset({"flagged", "passed", "unvalidated"})
_RANK: Mapping[State, int] = {"failed": 0, "unreadable": 0, "flagged": 1, "unfinished": 3}


@dataclass(frozen=True)
class RunReport:
    """A whole run; subjects are known by their names."""

    folder: str
    run: RunFacts
    rows: tuple[SubjectReport, ...]  # worst first
    left_out: tuple[str, ...]  # token files that do not come from training

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of subjects, of those with a token of this run, and of each state."""
        of = Counter[str](each.state for each in self.rows)
        totals = {"subjects": len(self.rows), "learned": len(self.learned)}
        return totals | {state: of[state] for state in get_args(State)}

    @property
    def learned(self) -> tuple[SubjectReport, ...]:
        """The subjects with a token of this run."""
        return tuple(each for each in self.rows if each.state in _LEARNED)

    @property
    def scorers(self) -> tuple[str, ...]:
        """The scorers of the tokens; empty if none is validated or the model has no scorer."""
        return tuple(sorted({each.scorer for each in self.rows if each.scorer}))

    @property
    def means(self) -> dict[str, float | None]:
        """Mean scores over the subjects that have them."""
        scores = ("subject_score", "prompt_score", "word_subject_score")
        return {name: _mean(self.known(name)) for name in scores}

    @property
    def median_angle_deg(self) -> float | None:
        """The median angle of all tokens."""
        return median(known) if (known := self.known("prior_angle_deg")) else None

    @property
    def best(self) -> tuple[SubjectReport, ...]:
        """The highest scores, best first: at most four, and a quarter of those that passed."""
        passed = [each for each in self.rows if each.state == "passed" and each.score is not None]
        return tuple(reversed(passed[len(passed) - min(_MAX_BEST, len(passed) // 4) :]))

    @property
    def worst(self) -> tuple[SubjectReport, ...]:
        """The dozen validated subjects with the worst results, without those among the best."""
        validated = [each for each in self.rows if each.state in ("flagged", "passed")]
        best = {each.name for each in self.best}
        return tuple(each for each in validated if each.name not in best)[:_MAX_WORST]

    def known(self, field: str) -> list[float]:
        """Return the known values of a field over all subjects with a token."""
        return [x for each in self.learned if (x := getattr(each, field)) is not None]

    def document(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "folder": self.folder,
            "counts": self.counts,
            "means": self.means,
            "median_angle_deg": self.median_angle_deg,
            "scorers": list(self.scorers),
            "run": asdict(self.run),
            "worst": [each.name for each in self.worst],
            "best": [each.name for each in self.best],
            "subjects": [asdict(each) for each in self.rows],
            "left_out": list(self.left_out),
        }


def collect_report(root: Path, history: RunHistory) -> RunReport:
    """Collect the report from the folder of a run and its log.

    Raises:
        ConfigurationError: There is neither a trained token nor a log.
    """
    folder = RunFolder(root)
    files = {path.stem: _read(path) for path in sorted(root.glob("*.safetensors"))}
    other = {
        name for name, each in files.items() if isinstance(each, Manifest) and not each.training
    }
    tokens = {name: each for name, each in files.items() if name not in other}
    names = tokens.keys() | history.subjects.keys()
    if not names and not history.num_runs:
        raise ConfigurationError(
            f"{str(root)!r} holds no tokens and no log of a run; give the folder that dti train "
            "wrote to, its --output"
        )
    manifests = [each for each in tokens.values() if isinstance(each, Manifest)]
    words = _words(manifests)
    rows = [
        subject_report(
            name,
            token := tokens.get(name),
            history.subjects.get(name),
            folder,
            words.get(token.model_fingerprint, {}) if isinstance(token, Manifest) else {},
        )
        for name in names
    ]
    return RunReport(
        folder=str(root),
        run=RunFacts.of(history, manifests),
        rows=_ordered(rows),
        left_out=tuple(sorted(other)),
    )


def _read(path: Path) -> Manifest | ArtifactError:
    try:
        # An error is returned: a damaged file is a row of the report, not the end of it.
        return Artifact.load(path).manifest
    except ArtifactError as error:
        return error


def _words(tokens: Sequence[Manifest]) -> dict[str, dict[str, float]]:
    """Return model fingerprint -> text encoder -> mean length of its words.

    DTI's tokens have exactly that length by default, so no model needs to be loaded.
    """
    found: dict[str, dict[str, float]] = {}
    for each in tokens:
        training = each.training
        if (
            training
            and training.config.method == "dti"
            and training.config.magnitude == "vocabulary"
        ):
            lengths = {name: values[0] for name, values in each.magnitudes.items() if values}
            found.setdefault(each.model_fingerprint, {}).update(lengths)
    return found


def _ordered(rows: Sequence[SubjectReport]) -> tuple[SubjectReport, ...]:
    """Sort: failures, then the most flags, then the lowest scores; without scores by angle."""
    angles = [each.prior_angle_deg for each in rows if each.prior_angle_deg is not None]
    middle = median(angles) if angles else 0.0

    def key(each: SubjectReport) -> tuple[int, int, bool, float, float, str]:
        angle = middle if each.prior_angle_deg is None else each.prior_angle_deg
        return (
            _RANK.get(each.state, 2),
            -len(each.flags),
            each.score is None,
            each.score or 0.0,
            -abs(angle - middle),
            each.name,
        )

    return tuple(sorted(rows, key=key))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None

"""What came of a whole run of `dti train`: everything that its report shows, worst first."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, get_args

from dti_engine.artifact import Artifact
from dti_engine.errors import ArtifactError, ConfigurationError
from dti_engine.manifest import Manifest
from dti_engine.quality.history import History, Run
from dti_engine.quality.rows import Row, State, row
from dti_engine.quality.runs import RunFolder

_MAX_WORST, _MAX_BEST = 12, 4
_LEARNED: frozenset[State] = frozenset({"flagged", "passed", "untried"})
_RANK: Mapping[State, int] = {"failed": 0, "unreadable": 0, "flagged": 1, "unfinished": 3}


@dataclass(frozen=True)
class Summary:
    """A whole run; names are those of rows."""

    folder: str
    run: Run
    rows: tuple[Row, ...]  # worst first
    left_out: tuple[str, ...]  # token files that were not made by training

    @property
    def counts(self) -> dict[str, int]:
        """Of all subjects, of those that have a token of this run, and by state."""
        of = Counter[str](each.state for each in self.rows)
        totals = {"subjects": len(self.rows), "learned": len(self.learned)}
        return totals | {state: of[state] for state in get_args(State)}

    @property
    def learned(self) -> tuple[Row, ...]:
        """Those that have a token of this run."""
        return tuple(each for each in self.rows if each.state in _LEARNED)

    @property
    def judges(self) -> tuple[str, ...]:
        """Who scored tokens; nobody: either none was tried out, or nobody can."""
        return tuple(sorted({each.judge for each in self.rows if each.judge}))

    @property
    def means(self) -> dict[str, float | None]:
        """Over subjects with scores."""
        scores = ("subject_score", "prompt_score", "word_subject_score")
        return {name: _mean(self.known(name)) for name in scores}

    @property
    def median_angle_deg(self) -> float | None:
        """Of all tokens."""
        return median(known) if (known := self.known("prior_angle_deg")) else None

    @property
    def best(self) -> tuple[Row, ...]:
        """A few of the highest scores, best first; a quarter of what passed at most."""
        passed = [each for each in self.rows if each.state == "passed" and each.score is not None]
        return tuple(reversed(passed[len(passed) - min(_MAX_BEST, len(passed) // 4) :]))

    @property
    def worst(self) -> tuple[Row, ...]:
        """A dozen that were tried out and did worst, without what is among the best."""
        tried = [each for each in self.rows if each.state in ("flagged", "passed")]
        best = {each.name for each in self.best}
        return tuple(each for each in tried if each.name not in best)[:_MAX_WORST]

    def known(self, field: str) -> list[float]:
        """This number of all that were learned, as far as it is known."""
        return [x for each in self.learned if (x := getattr(each, field)) is not None]

    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "folder": self.folder,
            "counts": self.counts,
            "means": self.means,
            "median_angle_deg": self.median_angle_deg,
            "judges": list(self.judges),
            "run": asdict(self.run),
            "worst": [each.name for each in self.worst],
            "best": [each.name for each in self.best],
            "subjects": [asdict(each) for each in self.rows],
            "left_out": list(self.left_out),
        }


def collect(root: Path, history: History) -> Summary:
    """Everything that the folder of a run and its log tell.

    Raises: ConfigurationError if there is neither a token that was trained nor a log.
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
        row(
            name,
            token := tokens.get(name),
            history.subjects.get(name),
            folder,
            words.get(token.backbone_fingerprint, {}) if isinstance(token, Manifest) else {},
        )
        for name in names
    ]
    return Summary(
        folder=str(root),
        run=Run.of(history, manifests),
        rows=_ordered(rows),
        left_out=tuple(sorted(other)),
    )


def _read(path: Path) -> Manifest | ArtifactError:
    try:
        return Artifact.load(path).manifest
    except ArtifactError as error:
        return error


def _words(tokens: Sequence[Manifest]) -> dict[str, dict[str, float]]:
    """Fingerprint -> encoder -> mean length of its words: some tokens were given just that."""
    found: dict[str, dict[str, float]] = {}
    for each in tokens:
        training = each.training
        if (
            training
            and training.config.method == "dti"
            and training.config.magnitude == "vocabulary"
        ):
            lengths = {name: values[0] for name, values in each.magnitudes.items() if values}
            found.setdefault(each.backbone_fingerprint, {}).update(lengths)
    return found


def _ordered(rows: Sequence[Row]) -> tuple[Row, ...]:
    """What failed; the flagged, most flags first; the rest by score; those without by angle."""
    angles = [each.prior_angle_deg for each in rows if each.prior_angle_deg is not None]
    middle = median(angles) if angles else 0.0

    def key(each: Row) -> tuple[int, int, bool, float, float, str]:
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

"""Outlier flags: tokens that break a rule, or that differ from the others of their run.

Differences are measured by modified z-scores, which use the median and the median absolute
deviation (MAD), so that outliers do not hide themselves by widening the scale.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import degrees
from statistics import median

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.text.encoder import vocabulary_norm_range

_MIN_ANGLE_DEG = 5  # learned directions lie 50 to 75 degrees from their words
_MIN_TOKENS = 6  # with fewer tokens, a median says too little to call one an outlier
_MAX_MODIFIED_Z = 3.5  # as Iglewicz and Hoaglin recommend
_MAD_FLOOR = 0.02  # among near-equal tokens a tiny difference must not become an outlier
_Z_FACTOR = 0.6745  # makes the MAD of a normal distribution its standard deviation


@dataclass(frozen=True, slots=True)
class TokenStatistics:
    """The statistics of one token; scores lie in 0 .. 1, and are None without a scorer."""

    prior_angle_deg: float
    norms: Sequence[float]  # of each vector
    norm_ranges: Sequence[tuple[float, float]]  # of 99 % of the words of each vector's encoder
    first_fixed_loss: float
    fixed_loss: float
    initializer: str
    family: str = ""  # of captions, hence of prompts: scores are comparable within one
    training: str = ""  # the training config: angles are comparable within one
    subject_score: float | None = None
    prompt_score: float | None = None
    word_subject_score: float | None = None  # of images with the bare initializer


def outlier_flags(tokens: Mapping[str, TokenStatistics]) -> dict[str, list[str]]:
    """Return the reasons to check each token of a run, in words; none if it passed."""
    flags = {name: _broken_rules(token) for name, token in tokens.items()}
    for group in _grouped(tokens, lambda token: token.family):
        for name, reason in [
            *_low("subject score", {name: token.subject_score for name, token in group.items()}),
            *_low("prompt score", {name: token.prompt_score for name, token in group.items()}),
        ]:
            flags[name].append(reason)
    for group in _grouped(tokens, lambda token: token.training):
        angles = {name: token.prior_angle_deg for name, token in group.items()}
        # 90 degrees take the place of a score's range of 0 .. 1.
        for name, z in modified_z_scores(angles, mad_floor=90 * _MAD_FLOOR).items():
            # On both sides: a token that turned far more than the others has left its prior behind,
            # and one that turned far less has learned little.
            if abs(z) > _MAX_MODIFIED_Z:
                flags[name].append(
                    f"turned by {angles[name]:.0f}°, the others by {median(angles.values()):.0f}°"
                )
    return flags


def _grouped(
    tokens: Mapping[str, TokenStatistics], key: Callable[[TokenStatistics], str]
) -> Iterable[Mapping[str, TokenStatistics]]:
    groups: dict[str, dict[str, TokenStatistics]] = {}
    for name, token in tokens.items():
        groups.setdefault(key(token), {})[name] = token
    return groups.values()


def _broken_rules(token: TokenStatistics) -> list[str]:
    """Return what is wrong with a token regardless of the others."""
    found: list[str] = []
    if token.fixed_loss >= token.first_fixed_loss:
        found.append(
            f"learned nothing: its loss was {token.first_fixed_loss:.4f} at first and is "
            f"{token.fixed_loss:.4f}"
        )
    if token.prior_angle_deg < _MIN_ANGLE_DEG:
        found.append(
            f"has hardly turned from {token.initializer!r}: by {token.prior_angle_deg:.1f}°"
        )
    for norm, (low, high) in zip(token.norms, token.norm_ranges, strict=True):
        if not low <= norm <= high:
            found.append(f"its length is {norm:.3f}, 99 % of words lie in {low:.3f} .. {high:.3f}")
    score, word = token.subject_score, token.word_subject_score
    if score is not None and word is not None and score <= word:
        found.append(
            f"its images are no more like it ({score:.2f}) than those of "
            f"{token.initializer!r} ({word:.2f})"
        )
    return found


def _low(what: str, scores: Mapping[str, float | None]) -> list[tuple[str, str]]:
    known = {name: score for name, score in scores.items() if score is not None}
    return [
        (name, f"{what} {known[name]:.2f}, the others {median(known.values()):.2f}")
        for name, z in modified_z_scores(known, mad_floor=_MAD_FLOOR).items()
        # On one side: a score far above the others is no reason to look at a token.
        if z < -_MAX_MODIFIED_Z
    ]


def modified_z_scores(values: Mapping[str, float], *, mad_floor: float) -> dict[str, float]:
    """Return 0.6745 (x - median) / MAD of each value, or nothing if there are too few.

    The MAD is at least `mad_floor`.

    Source: Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers".
    """
    if len(values) < _MIN_TOKENS:
        return {}
    middle = median(values.values())
    mad = max(median(abs(value - middle) for value in values.values()), mad_floor)
    return {name: _Z_FACTOR * (value - middle) / mad for name, value in values.items()}


def with_flags(artifacts: Mapping[str, Artifact], backbone: Backbone) -> dict[str, Artifact]:
    """Return validated tokens with their flags in their manifests.

    Scores are compared between tokens of the same prompts, angles between equal configs.
    """
    ranges = {name: vocabulary_norm_range(each) for name, each in backbone.text_encoders.items()}
    statistics = {name: _statistics(each, ranges) for name, each in artifacts.items()}
    flags = outlier_flags(statistics)
    return {name: _with_flags(each, flags[name]) for name, each in artifacts.items()}


def _with_flags(artifact: Artifact, flags: list[str]) -> Artifact:
    training = artifact.manifest.training
    assert training
    assert training.quality
    quality = training.quality.model_copy(update={"flags": tuple(flags)})
    return replace(artifact, manifest=artifact.manifest.with_origin(quality=quality))


def _statistics(artifact: Artifact, ranges: Mapping[str, tuple[float, float]]) -> TokenStatistics:
    training, magnitudes = artifact.manifest.training, artifact.manifest.magnitudes
    assert training
    assert training.quality
    return TokenStatistics(
        prior_angle_deg=degrees(training.metrics["prior_angle_rad"]),
        norms=[norm for lengths in magnitudes.values() for norm in lengths],
        norm_ranges=[ranges[name] for name, lengths in magnitudes.items() for _ in lengths],
        first_fixed_loss=training.first_fixed_loss,
        fixed_loss=training.metrics["fixed_loss"],
        initializer=training.initializer,
        family=training.config.captions,
        training=training.config.model_dump_json(),
        subject_score=training.quality.subject_score,
        prompt_score=training.quality.prompt_score,
        word_subject_score=training.quality.word_subject_score,
    )

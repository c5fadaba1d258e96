"""Which tokens of a run are odd, and why: by what must hold of each, and beside the others.

Knows no images and no models, only figures.

Tokens that were tried out, with what is odd about each in its manifest.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import degrees
from statistics import median

from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.text.encoder import vocabulary_norm_range

_TURNED = 5  # degrees; learned directions lie 50 to 75 from their words
_MIN_OTHERS = 6  # tokens, with fewer of which none stands out
_FAR = 3.5  # modified z-scores
_FLOOR = 0.02  # of the median deviation: in a run of equals, a hair's breadth is not far


@dataclass(frozen=True, slots=True)
class Figures:
    """What is known of a token; scores in 0 .. 1, None without a judge."""

    prior_angle_deg: float
    norms: Sequence[float]  # of its vectors, as parts of ...
    norm_bands: Sequence[tuple[float, float]]  # ... where 99 % of the encoder's words lie
    first_fixed_loss: float
    fixed_loss: float
    initializer: str
    family: str = ""  # of captions, and so of probes: scores of one can be compared
    training: str = ""  # how it was trained: angles of equals can be compared
    subject_score: float | None = None
    prompt_score: float | None = None
    word_subject_score: float | None = None  # of images with the initializer in its place


def flags(tokens: Mapping[str, Figures]) -> dict[str, list[str]]:
    """What is wrong with each token of a run, in words; an empty list: it passed."""
    found = {name: _own(each) for name, each in tokens.items()}
    for alike in _grouped(tokens, lambda each: each.family):
        for name, reason in [
            *_low("subject score", {name: each.subject_score for name, each in alike.items()}),
            *_low("prompt score", {name: each.prompt_score for name, each in alike.items()}),
        ]:
            found[name].append(reason)
    for alike in _grouped(tokens, lambda each: each.training):
        angles = {name: each.prior_angle_deg for name, each in alike.items()}
        for name, z in _modified_z(angles, floor=90 * _FLOOR).items():
            if abs(z) > _FAR:
                found[name].append(
                    f"turned by {angles[name]:.0f}°, the others by {median(angles.values()):.0f}°"
                )
    return found


def _grouped(
    tokens: Mapping[str, Figures], key: Callable[[Figures], str]
) -> Iterable[Mapping[str, Figures]]:
    groups: dict[str, dict[str, Figures]] = {}
    for name, each in tokens.items():
        groups.setdefault(key(each), {})[name] = each
    return groups.values()


def _own(token: Figures) -> list[str]:
    found: list[str] = []
    if token.fixed_loss >= token.first_fixed_loss:
        found.append(
            f"learned nothing: its loss was {token.first_fixed_loss:.4f} at first and is "
            f"{token.fixed_loss:.4f}"
        )
    if token.prior_angle_deg < _TURNED:
        found.append(
            f"has hardly turned from {token.initializer!r}: by {token.prior_angle_deg:.1f}°"
        )
    for norm, (low, high) in zip(token.norms, token.norm_bands, strict=True):
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
        for name, z in _modified_z(known, floor=_FLOOR).items()
        if z < -_FAR
    ]


def _modified_z(values: Mapping[str, float], *, floor: float) -> dict[str, float]:
    """How far each value stands from the median, in units that outliers do not stretch.

    Source: Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers", with 3.5 as the bound.
    """
    if len(values) < _MIN_OTHERS:
        return {}
    middle = median(values.values())
    deviation = max(median(abs(each - middle) for each in values.values()), floor)
    return {name: 0.6745 * (each - middle) / deviation for name, each in values.items()}


def flagged(artifacts: Mapping[str, Artifact], backbone: Backbone) -> dict[str, Artifact]:
    """These tokens, flagged by what must hold of each, and beside the others.

    Scores are compared with those of the same probes, angles with those of the same config.
    """
    bands = {name: vocabulary_norm_range(each) for name, each in backbone.text_encoders.items()}
    found = flags({name: _figures(each, bands) for name, each in artifacts.items()})
    return {name: _noted(each, found[name]) for name, each in artifacts.items()}


def _noted(artifact: Artifact, flags: list[str]) -> Artifact:
    training = artifact.manifest.training
    assert training
    assert training.quality
    quality = training.quality.model_copy(update={"flags": tuple(flags)})
    return replace(artifact, manifest=artifact.manifest.with_origin(quality=quality))


def _figures(artifact: Artifact, bands: Mapping[str, tuple[float, float]]) -> Figures:
    training, magnitudes = artifact.manifest.training, artifact.manifest.magnitudes
    assert training
    assert training.quality
    return Figures(
        prior_angle_deg=degrees(training.metrics["prior_angle_rad"]),
        norms=[norm for lengths in magnitudes.values() for norm in lengths],
        norm_bands=[bands[name] for name, lengths in magnitudes.items() for _ in lengths],
        first_fixed_loss=training.first_fixed_loss,
        fixed_loss=training.metrics["fixed_loss"],
        initializer=training.initializer,
        family=training.config.captions,
        training=training.config.model_dump_json(),
        subject_score=training.quality.subject_score,
        prompt_score=training.quality.prompt_score,
        word_subject_score=training.quality.word_subject_score,
    )

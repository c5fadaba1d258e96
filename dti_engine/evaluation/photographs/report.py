"""The report of an evaluation on photographs, in markdown.

What an evaluation on photographs found: what the report shows and results.json keeps.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dti_engine.evaluation.photographs.protocol import prompt_set
from dti_engine.evaluation.photographs.store import Score
from dti_engine.evaluation.photographs.subjects import Row
from dti_engine.evaluation.statistics import (
    FEW_SAMPLES,
    Array,
    Estimate,
    bootstrap,
    interval,
    table,
)


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row of the table: means over images, intervals by resampling subjects."""

    name: str
    title: str
    num_images: int
    masked_subject_score: Estimate | None  # None unless all photographs have masks
    subject_score: Estimate
    prompt_score: Estimate
    prompt_cosine: Estimate
    lengths: Mapping[str, float]  # encoder -> mean |e| / m* of the vectors that name the subject

    @property
    def image(self) -> Estimate:
        """The main subject score."""
        return self.masked_subject_score or self.subject_score


@dataclass(frozen=True, slots=True)
class Difference:
    """One row minus another, paired by subject."""

    row: str  # titles
    other: str
    image: Estimate
    prompt_score: Estimate


@dataclass(frozen=True, slots=True)
class SubjectFacts:
    """Who was evaluated."""

    name: str
    class_noun: str
    num_photos: int
    num_masks: int
    prompts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Results:
    """A whole evaluation."""

    backbone: str
    protocol: Mapping[str, Any]
    judges: Mapping[str, str]  # which, and the sha256 of the weights
    subjects: Sequence[SubjectFacts]
    is_masked: bool  # whether the main subject score is that of masked photographs
    configs: Mapping[str, Mapping[str, Any]]  # name of a learned token -> how it was trained
    rows: Sequence[RowResult]
    differences: Sequence[Difference]
    seconds: float
    environment: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def per_subject(scores: Sequence[Score], row: Row, subjects: Sequence[str]) -> Array:
    """(subjects, 4): masked and plain subject score, prompt score and cosine, each the mean over
    all images of the subject. Masked ones are nan where there are none.
    """
    means: list[list[float]] = []
    for name in subjects:
        of_subject = [
            (
                np.nan if each.masked_subject_score is None else each.masked_subject_score,
                each.subject_score,
                each.prompt_score,
                each.prompt_cosine,
            )
            for each in scores
            if each.row == row.name and each.subject == name
        ]
        means.append(np.mean(of_subject, axis=0).tolist())
    return np.array(means)


def row_result(
    row: Row, samples: Array, *, num_images: int, is_masked: bool, lengths: Mapping[str, float]
) -> RowResult:
    """samples: `per_subject`. Raises: ConfigurationError if there are fewer than 2 subjects."""
    on_black, plain, probability, cosine = samples.T
    return RowResult(
        name=row.name,
        title=row.title,
        num_images=num_images,
        masked_subject_score=bootstrap(on_black) if is_masked else None,
        subject_score=bootstrap(plain),
        prompt_score=bootstrap(probability),
        prompt_cosine=bootstrap(cosine),
        lengths=lengths,
    )


def differences(samples: Mapping[Row, Array], *, is_masked: bool) -> list[Difference]:
    """Every DTI row minus every other row that is none."""
    main = 0 if is_masked else 1
    found: list[Difference] = []
    for ours in samples:
        for other in samples:
            if ours.is_dti and not other.is_dti:
                gap = samples[ours] - samples[other]
                image, prompt = bootstrap(gap[:, main]), bootstrap(gap[:, 2])
                found.append(Difference(ours.title, other.title, image, prompt))
    return found


_PUBLISHED: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "SDXL": {
        "TI": (0.561, 0.292),
        "TI-rescaled": (0.243, 0.466),
        "CrossInit": (0.545, 0.464),
        "DTI": (0.450, 0.522),
    },
    "SANA 1.5-1.6B": {
        "TI": (0.480, 0.621),
        "TI-rescaled": (0.253, 0.655),
        "CrossInit": (0.344, 0.614),
        "DTI": (0.479, 0.744),
    },
    "SANA 1.5-4.8B": {
        "TI": (0.446, 0.646),
        "TI-rescaled": (0.287, 0.548),
        "CrossInit": (0.299, 0.622),
        "DTI": (0.452, 0.757),
    },
}
"""(Image, Text) of the paper, Table 2."""

_FEW_TRAINING_SEEDS = 3


def report(results: Results, *, command: str) -> str:
    """All that was found, what it is worth, and how to repeat it."""
    lines = [f"# DTI on {results.backbone}", "", *_introduction(results)]
    lines += ["", "## Scores", "", *_scores(results)]
    if results.differences:
        lines += ["", "## DTI minus the others", "", *_differences(results)]
    if results.configs:
        lines += ["", "## Settings", "", *_settings(results)]
    lines += ["", "## How images are scored", "", *_scoring(results)]
    lines += ["", "## The paper's own figures, for orientation", "", *_published()]
    lines += ["", "## How to repeat it", "", "```", command, "```", ""]
    lines += table(("on", ""), results.environment.items())
    return "\n".join(lines) + "\n"


def _introduction(results: Results) -> Iterator[str]:
    protocol, config = results.protocol, results.protocol["config"]
    counts = sorted({len(each.prompts) for each in results.subjects})
    prompts = " or ".join(map(str, counts))
    yield (
        f"{len(results.subjects)} subjects, each in {prompts} prompts from "
        f"{protocol['num_image_seeds']} seeds of noise, which all methods share. Training seeds: "
        f"{protocol['num_training_seeds']}, from {protocol['first_training_seed']} on. A token had "
        f"{config['steps']} steps of {config['batch_size']} samples, an image "
        f"{protocol['image_steps']} denoising steps with guidance {protocol['guidance']:g}. All "
        f"methods have the same photos, initializers, captions, draws, steps and batches. "
        f"{results.seconds / 3600:.1f} hours in all."
    )
    yield _origin(results)
    yield ""
    yield "Brackets are 95 % intervals, by resampling subjects, paired."
    if len(results.subjects) < FEW_SAMPLES:
        yield f"With less than {FEW_SAMPLES} subjects they are too short: see what works, not more."
    if protocol["num_training_seeds"] < _FEW_TRAINING_SEEDS:
        yield (
            "They do not tell how far another training seed would lead elsewhere: for that, take "
            f"--seeds {_FEW_TRAINING_SEEDS} or more."
        )
    yield ""
    yield "![Some subjects in some prompts](sheet.png)"


def _origin(results: Results) -> str:
    """Of the prompts; the DreamBooth dataset's licence wants it said."""
    ours = prompt_set("object"), prompt_set("live")
    if all(set(each.prompts) <= set(ours[0] + ours[1]) for each in results.subjects):
        return (
            "Prompts are those of the DreamBooth dataset (github.com/google/dreambooth, CC-BY-4.0, "
            "without the class noun) and complex ones of this package, not the paper's."
        )
    return "Prompts are of a file."


def _scores(results: Results) -> Iterator[str]:
    plain = ("Image", "unmasked")
    image = ["Image, masked", "Image, unmasked"] if results.is_masked else [", ".join(plain)]
    header = ["Method", *image, "Text", "Text, cosine", "length / m*", "images"]
    yield from table(header, (_row(row) for row in results.rows))
    yield ""
    yield (
        "Lengths are means over the vectors that name the subject, per "
        "text encoder, in m*, the mean length of its vocabulary."
    )
    if not results.is_masked:
        without = [each.name for each in results.subjects if each.num_masks < each.num_photos]
        yield (
            "Image scores are **not masked**, so that they see backgrounds too, since these "
            f"subjects have photos without masks: {', '.join(without)}. The paper's are masked."
        )


def _row(row: RowResult) -> list[str]:
    masked = [interval(row.masked_subject_score)] if row.masked_subject_score else []
    lengths = ", ".join(f"{length:.2f}" for length in row.lengths.values())
    return [
        row.title,
        *masked,
        interval(row.subject_score),
        interval(row.prompt_score),
        interval(row.prompt_cosine),
        lengths,
        str(row.num_images),
    ]


def _differences(results: Results) -> Iterator[str]:
    kind = "masked" if results.is_masked else "unmasked"
    yield from table(
        ("", "minus", f"Image, {kind}", "Text"),
        (
            (
                each.row,
                each.other,
                interval(each.image, signed=True),
                interval(each.prompt_score, signed=True),
            )
            for each in results.differences
        ),
    )


def _settings(results: Results) -> Iterator[str]:
    names = ("lr", "schedule", "kappa", "weight_decay", "magnitude", "ema_decay")
    yield from table(
        ["token", *names],
        (
            [token, *(str(config[name]) for name in names)]
            for token, config in results.configs.items()
        ),
    )
    yield ""
    shared = ("steps", "batch_size", "resolution", "timesteps")
    config = results.protocol["config"]
    told = ", ".join(f"{name} {config[name]}" for name in shared)
    yield f"The same for all: {told}."


def _scoring(results: Results) -> Iterator[str]:
    yield (
        "Image: cosine of DINOv2's class tokens, mean over the photos. Masked: the photos' "
        "background is black; the generated image is as it is. Text: SigLIP's probability that the "
        "image goes with the prompt in plain words, the class noun in the token's place. "
        "Cosine: what that probability is computed from. All are means over images; the paper's "
        "code averages means of batches for Image, so that a last, smaller batch counts for more."
    )
    yield ""
    yield from table(("judge", "sha256 of its weights"), results.judges.items())


def _published() -> Iterator[str]:
    yield (
        "Quoted as published (arXiv 2512.13672, Table 2), **not measured here**: 30 subjects of "
        "the DreamBooth dataset in prompts of their own, masked photos, one training seed. Two "
        "official versions of the SANA figures differ by up to 0.07."
    )
    yield ""
    models = list(_PUBLISHED)
    methods = _PUBLISHED[models[0]]
    yield from table(
        ["theirs: Image / Text", *models],
        (
            [name, *("{:.3f} / {:.3f}".format(*_PUBLISHED[model][name]) for model in models)]
            for name in methods
        ),
    )

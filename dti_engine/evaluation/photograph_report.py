"""The report of an evaluation on photographs."""

from collections.abc import Iterator, Mapping

from dti_engine.evaluation.protocol import prompt_set
from dti_engine.evaluation.report import assemble, differences, interval, interval_notes, table
from dti_engine.evaluation.results import PhotographResults, RowResult

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


def report(results: PhotographResults, *, command: str) -> str:
    """Return all results, what they are worth, and how to repeat the evaluation."""
    sections = {"": _introduction(results), "Scores": _scores(results)}
    if results.differences:
        kind = "masked" if results.is_masked else "unmasked"
        sections["DTI minus the others"] = differences(
            results, subject_title=f"Image, {kind}", prompt_title="Text"
        )
    if results.configs:
        sections["Settings"] = _settings(results)
    sections["How images are scored"] = _scoring(results)
    sections["The paper's own figures, for orientation"] = _published()
    return assemble(f"DTI on {results.model}", sections, results, command=command)


def _introduction(results: PhotographResults) -> Iterator[str]:
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
    yield from interval_notes(len(results.subjects))
    if protocol["num_training_seeds"] < _FEW_TRAINING_SEEDS:
        yield (
            "They do not cover the variation between training seeds, for which "
            f"--num-training-seeds should be {_FEW_TRAINING_SEEDS} or more."
        )
    yield ""
    yield "![Some subjects in some prompts](sheet.png)"


def _origin(results: PhotographResults) -> str:
    """Return where the prompts are from, as the DreamBooth dataset's licence demands."""
    ours = prompt_set("object"), prompt_set("live")
    if all(set(each.prompts) <= set(ours[0] + ours[1]) for each in results.subjects):
        return (
            "Prompts are those of the DreamBooth dataset (github.com/google/dreambooth, CC-BY-4.0, "
            "without the class noun) and complex ones of this package, not the paper's."
        )
    return "Prompts are read from a file."


def _scores(results: PhotographResults) -> Iterator[str]:
    image = ["Image, masked", "Image, unmasked"] if results.is_masked else ["Image, unmasked"]
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
            "Image scores are **not masked**, so they depend on backgrounds too, because these "
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
        interval(row.prompt_cosine) if row.prompt_cosine else "",
        lengths,
        str(row.num_images),
    ]


def _settings(results: PhotographResults) -> Iterator[str]:
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
    values = ", ".join(f"{name} {config[name]}" for name in shared)
    yield f"The same for all: {values}."


def _scoring(results: PhotographResults) -> Iterator[str]:
    yield (
        "Image: cosine of DINOv2's class tokens, mean over the photos. Masked: the photos' "
        "background is black; the generated image is as it is. Text: SigLIP's probability that the "
        "image goes with the prompt in plain words, the class noun in the token's place. "
        "Cosine: what that probability is computed from. All are means over images; the paper's "
        "code averages means of batches for Image, so that a last, smaller batch counts for more."
    )
    yield ""
    yield from table(("scorer", "sha256 of its weights"), results.scorers.items())


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

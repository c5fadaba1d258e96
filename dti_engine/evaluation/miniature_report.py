"""The report of an evaluation of the miniature."""

from collections.abc import Iterator, Mapping
from statistics import fmean

from dti_engine.evaluation.miniature import NUM_REFERENCES
from dti_engine.evaluation.report import (
    assemble,
    columns,
    differences,
    interval,
    interval_notes,
    table,
)
from dti_engine.evaluation.results import MiniatureResults
from dti_engine.evaluation.rows import MINIATURE_TITLES
from dti_engine.evaluation.shortfalls import shortfalls

_SIDE_BY_SIDE = ("class_word", "ti", "dti")


def report(results: MiniatureResults, *, command: str) -> str:
    """Return all results, the shortfalls, and how to repeat the evaluation."""
    sections = {
        "": _introduction(results),
        "Aims": _aims(results),
        "Scores": _scores(results),
        "DTI minus the others": differences(
            results, subject_title="subject score", prompt_title="prompt score"
        ),
        "At equal subject score": _frontier(results),
        "Prompt by prompt": _prompts(results),
        "Settings": _settings(results),
        "Does length harm? The same directions, longer and shorter": _lengths(results),
        "Why length harms: the text encoder": _effects(results),
        "What did not come out as hoped": _shortfalls(results),
    }
    return assemble("DTI on the miniature", sections, results, command=command)


def _introduction(results: MiniatureResults) -> Iterator[str]:
    protocol = results.protocol
    config = protocol["settings"]["dti"][0]
    yield (
        f"{len(results.subjects)} subjects that the model has never seen, each in "
        f"{len(results.prompts)} prompts; training seeds: {protocol['num_training_seeds']}, image "
        f"seeds: {protocol['num_image_seeds']}. A token had {config['steps']} steps of "
        f"{config['batch_size']} samples from {NUM_REFERENCES} photos, an image "
        f"{protocol['image_steps']} denoising steps with guidance {protocol['guidance']:g}. With "
        f"settings and frontier, {results.num_tokens} tokens and {results.num_images} images "
        f"in {results.seconds / 60:.0f} minutes."
    )
    yield ""
    yield (
        "The subject score is the likeness of what stands at the subject's place to its photos, "
        "the prompt score the share of what the prompt asks for, both in 0 .. 1 and read by the "
        "miniature's scorer."
    )
    yield from interval_notes(len(results.subjects))
    yield ""
    yield "![Every row in every prompt](sheet.png)"


def _aims(results: MiniatureResults) -> Iterator[str]:
    yield from columns(
        results.aims,
        {
            "aim": lambda aim: aim.text,
            "reached": lambda aim: f"{aim.reached:.3f}",
            "needed": lambda aim: f"{aim.needed:.3f}",
            "margin": lambda aim: interval(aim.margin, signed=True),
            "verdict": lambda aim: f"**{aim.verdict}**",
        },
    )
    yield ""
    yield "Uncertain: the interval of the margin contains both signs."


def _scores(results: MiniatureResults) -> Iterator[str]:
    yield from columns(
        results.rows,
        {
            "": lambda row: row.title,
            "subject score": lambda row: interval(row.subject_score),
            "prompt score": lambda row: interval(row.prompt_score),
            "length of the embedding": lambda row: _length(row.lengths, results),
            "images": lambda row: row.num_images,
        },
    )


def _frontier(results: MiniatureResults) -> Iterator[str]:
    frontier = results.frontier
    yield (
        "The chosen setting of each method after increasing numbers of steps, on the first image "
        "seed. Only the steps vary; another setting might trade the scores along another line."
    )
    yield ""
    yield from columns(
        frontier.points,
        {
            "": lambda point: MINIATURE_TITLES[point.method],
            "steps": lambda point: point.steps,
            "subject score": lambda point: f"{point.subject_score:.3f}",
            "prompt score": lambda point: f"{point.prompt_score:.3f}",
            "length": lambda point: _length(point.lengths, results),
        },
    )
    yield ""
    yield (
        "The methods are compared at every subject score of the one that reaches less; the last is "
        "the highest that both reach, which the aim is about. Prompt scores are interpolated "
        "linearly between the points above; the best one that reaches the subject score counts."
    )
    yield ""
    yield from columns(
        frontier.comparisons,
        {
            "subject score": lambda each: f"{each.level:.3f}",
            "DTI's prompt score": lambda each: f"{each.dti_prompt_score:.3f}",
            "TI's prompt score": lambda each: f"{each.ti_prompt_score:.3f}",
            "difference": lambda each: interval(each.gap, signed=True),
        },
    )


def _prompts(results: MiniatureResults) -> Iterator[str]:
    rows = [row for row in results.rows if row.kind in _SIDE_BY_SIDE]
    yield "Prompt score / subject score."
    yield ""
    yield from table(
        ("prompt", *(row.title for row in rows)),
        (
            (
                f"`{template}`",
                *(
                    f"{row.prompt_by_prompt[i]:.2f} / {row.subject_by_prompt[i]:.2f}"
                    for row in rows
                ),
            )
            for i, template in enumerate(results.prompts)
        ),
    )


def _settings(results: MiniatureResults) -> Iterator[str]:
    yield (
        f"Chosen on {results.protocol['num_settings_subjects']} other subjects, one seed, by the "
        "mean of both scores."
    )
    yield ""
    yield from columns(
        results.settings,
        {
            "": lambda each: MINIATURE_TITLES[each.method],
            "lr": lambda each: f"{each.lr:g}",
            "kappa": lambda each: f"{each.kappa:g}",
            "weight decay": lambda each: f"{each.weight_decay:g}",
            "subject": lambda each: f"{each.subject_score:.3f}",
            "prompt": lambda each: f"{each.prompt_score:.3f}",
            "mean": lambda each: f"{each.criterion:.3f}",
            "length": lambda each: _length(each.lengths, results),
            "choice": lambda each: "chosen" if each.is_chosen else "",
        },
    )


def _shortfalls(results: MiniatureResults) -> Iterator[str]:
    found = shortfalls(results)
    yield from (f"- {each}" for each in found) if found else ("Nothing.",)


def _lengths(results: MiniatureResults) -> Iterator[str]:
    yield (
        "The paper attributes ignored prompts to the length of embeddings. Here the length alone "
        "varies: DTI's tokens are made longer and shorter, and keep their directions. First "
        "training seed and first image seed."
    )
    yield ""
    yield from columns(
        results.lengths,
        {
            "length / m*": lambda each: f"{each.length:g}",
            "subject score": lambda each: interval(each.subject_score),
            "prompt score": lambda each: interval(each.prompt_score),
            "prompt score against m*": lambda each: interval(each.drop, signed=True),
        },
    )


def _effects(results: MiniatureResults) -> Iterator[str]:
    measured = results.effects
    yield (
        f"Words of the vocabulary, made longer or shorter, in `{measured.encoder}`; m* is "
        f"{measured.magnitude:.3f}. Effect I: the accuracy with which the nearest mean identifies "
        f"{measured.num_positions} positions after the first layer norm (chance: "
        f"{1 / measured.num_positions:.3f}), and how far a position moves the normalized state, "
        "relative to its length, which the paper's Lemma 1 bounds. Effect II: the angle between "
        "the hidden states before and after all layers, mean and largest, and the paper's bound "
        "of it. The bound's B are the largest updates of any sample, since a supremum cannot be "
        "sampled."
    )
    yield ""
    yield from columns(
        measured.at_scale,
        {
            "length / m*": lambda each: f"{each.scale:g}",
            "position accuracy": lambda each: f"{each.position_accuracy:.3f}",
            "position shift": lambda each: f"{each.position_shift:.3f}",
            "angle": lambda each: f"{each.angle_deg:.1f}°",
            "largest": lambda each: f"{each.largest_angle_deg:.1f}°",
            "bound": lambda each: "none" if each.bound_deg is None else f"{each.bound_deg:.0f}°",
        },
    )


def _length(lengths: Mapping[str, float], results: MiniatureResults) -> str:
    """Return `0.412 (1.3 m*)`, or nothing for a row without vectors."""
    if not lengths:
        return ""
    mean = fmean(lengths.values())
    return f"{mean * results.effects.magnitude:.3f} ({mean:.1f} m*)"

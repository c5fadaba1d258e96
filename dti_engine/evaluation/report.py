"""The sections of the report: each turns results into lines of markdown.

The sections of the report that say why: what length does to prompts, and to the encoder.

The report of an evaluation, in markdown.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

from dti_engine.evaluation.protocol import METHODS
from dti_engine.evaluation.results import Results
from dti_engine.evaluation.rows import TITLES
from dti_engine.evaluation.scoring import NUM_REFERENCES
from dti_engine.evaluation.shortfalls import shortfalls as find_shortfalls
from dti_engine.evaluation.statistics import FEW_SAMPLES, interval, length, table

_SIDE_BY_SIDE = ("class_word", "ti", "dti")


def aims(results: Results) -> Iterator[str]:
    yield from table(
        ("aim", "reached", "needed", "margin", "verdict"),
        (
            (
                aim.text,
                f"{aim.reached:.3f}",
                f"{aim.needed:.3f}",
                interval(aim.margin, signed=True),
                f"**{aim.verdict}**",
            )
            for aim in results.aims
        ),
    )
    yield ""
    yield "Uncertain: the interval of the margin holds both signs."


def scores(results: Results) -> Iterator[str]:
    yield from table(
        ("", "subject score", "prompt score", "length of the embedding", "images"),
        (
            (
                row.title,
                interval(row.subject_score),
                interval(row.prompt_score),
                length(row.norm, results.effects.magnitude),
                row.num_images,
            )
            for row in results.rows
        ),
    )


def differences(results: Results) -> Iterator[str]:
    yield from table(
        ("DTI minus", "subject score", "prompt score"),
        (
            (
                each.other,
                interval(each.subject_score, signed=True),
                interval(each.prompt_score, signed=True),
            )
            for each in results.differences
        ),
    )


def frontier(results: Results) -> Iterator[str]:
    frontier = results.frontier
    yield (
        "The chosen setting of each method after more and more steps, on the first image seed. "
        "Steps alone vary: another setting might trade one score for the other on another line."
    )
    yield ""
    yield from table(
        ("", "steps", "subject score", "prompt score", "length"),
        (
            (
                TITLES[point.method],
                point.steps,
                f"{point.subject_score:.3f}",
                f"{point.prompt_score:.3f}",
                length(point.norm, results.effects.magnitude),
            )
            for point in frontier.points
        ),
    )
    yield ""
    yield (
        "Compared at every subject score of the method that reaches less; the last is the highest "
        "that both reach, and what the aim is about. Prompt scores there are read off straight "
        "lines between the points above; of all that reach the subject score, the best counts."
    )
    yield ""
    yield from table(
        ("subject score", "DTI's prompt score", "TI's prompt score", "difference"),
        (
            (
                f"{each.level:.3f}",
                f"{each.dti_prompt_score:.3f}",
                f"{each.ti_prompt_score:.3f}",
                interval(each.gap, signed=True),
            )
            for each in frontier.comparisons
        ),
    )


def prompts(results: Results) -> Iterator[str]:
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


def settings(results: Results) -> Iterator[str]:
    yield (
        f"Chosen on {results.protocol['num_settings_subjects']} other subjects, one seed, by the "
        "mean of both scores."
    )
    yield ""
    yield from table(
        ("", "lr", "kappa", "weight decay", "subject", "prompt", "mean", "length", ""),
        (
            (
                TITLES[each.method],
                f"{each.lr:g}",
                f"{each.kappa:g}",
                f"{each.weight_decay:g}",
                f"{each.subject_score:.3f}",
                f"{each.prompt_score:.3f}",
                f"{each.merit:.3f}",
                length(each.norm, results.effects.magnitude),
                "chosen" if each.is_chosen else "",
            )
            for method in METHODS
            for each in results.settings
            if each.method == method
        ),
    )


def shortfalls(results: Results) -> Iterator[str]:
    found = find_shortfalls(results)
    yield from (f"- {each}" for each in found) if found else ("Nothing.",)


def lengths(results: Results) -> Iterator[str]:
    yield (
        "The paper holds length to blame for prompts that are not obeyed. Here it alone varies: "
        "what DTI has learned is made longer and shorter, its direction kept. First training seed "
        "and first image seed."
    )
    yield ""
    yield from table(
        ("length / m*", "subject score", "prompt score", "prompt score against m*"),
        (
            (
                f"{each.length:g}",
                interval(each.subject_score),
                interval(each.prompt_score),
                interval(each.drop, signed=True),
            )
            for each in results.lengths
        ),
    )


def effects(results: Results) -> Iterator[str]:
    measured = results.effects
    yield (
        f"Words of the vocabulary, made longer or shorter, in `{measured.encoder}`; m* is "
        f"{measured.magnitude:.3f}. Effect I: how often the nearest mean tells "
        f"{measured.num_positions} positions apart behind the first layer norm (chance: "
        f"{1 / measured.num_positions:.3f}), and how far a position moves what is read there, as a "
        "share of its length: what the paper's Lemma 1 bounds. Effect II: the "
        "angle between a hidden state before and behind all layers, mean and largest, and the "
        "paper's bound of it. The bound's B are the largest updates of any sample, since a "
        "supremum cannot be sampled."
    )
    yield ""
    yield from table(
        ("length / m*", "positions told", "position moves", "angle", "largest", "bound"),
        (
            (
                f"{each.scale:g}",
                f"{each.position_accuracy:.3f}",
                f"{each.position_shift:.3f}",
                f"{each.angle_deg:.1f}°",
                f"{each.largest_angle_deg:.1f}°",
                "none" if each.bound_deg is None else f"{each.bound_deg:.0f}°",
            )
            for each in measured.at_scale
        ),
    )


_SECTIONS: Mapping[str, Callable[[Results], Iterable[str]]] = {
    "Aims": aims,
    "Scores": scores,
    "DTI minus the others": differences,
    "At equal subject score": frontier,
    "Prompt by prompt": prompts,
    "Settings": settings,
    "Does length harm? The same directions, longer and shorter": lengths,
    "Why length harms: the text encoder": effects,
    "What did not come out as hoped": shortfalls,
}


def report(results: Results, *, command: str) -> str:
    """All that was found, what was hoped and not found, and how to repeat it."""
    lines = ["# DTI on the miniature", "", *_introduction(results)]
    for title, section in _SECTIONS.items():
        lines += ["", f"## {title}", "", *section(results)]
    lines += ["", "## How to repeat it", "", "```", command, "```", "", *_environment(results)]
    return "\n".join(lines) + "\n"


def _introduction(results: Results) -> Iterator[str]:
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
        "miniature's scorer. Brackets are 95 % intervals, by resampling subjects, paired."
    )
    if len(results.subjects) < FEW_SAMPLES:
        yield f"With less than {FEW_SAMPLES} subjects they are too short: see what works, not more."
    yield ""
    yield "![Every row in every prompt](sheet.png)"


def _environment(results: Results) -> Iterator[str]:
    yield from table(("on", ""), results.environment.items())

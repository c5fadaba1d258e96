"""The report of an evaluation, in markdown."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from dti_engine.evaluation import explanation, sections
from dti_engine.evaluation.results import Results
from dti_engine.evaluation.scoring import NUM_REFERENCES
from dti_engine.evaluation.statistics import FEW_SAMPLES
from dti_engine.evaluation.tables import table

_SECTIONS: Mapping[str, Callable[[Results], Iterable[str]]] = {
    "Aims": sections.aims,
    "Scores": sections.scores,
    "DTI minus the others": sections.differences,
    "At equal subject score": sections.frontier,
    "Prompt by prompt": sections.prompts,
    "Settings": sections.settings,
    "Does length harm? The same directions, longer and shorter": explanation.lengths,
    "Why length harms: the text encoder": explanation.effects,
    "What did not come out as hoped": sections.shortfalls,
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
        f"{config['batch_size']} samples from {NUM_REFERENCES} photos, a picture "
        f"{protocol['image_steps']} denoising steps with guidance {protocol['guidance']:g}. With "
        f"settings and frontier, {results.num_tokens} tokens and {results.num_pictures} pictures "
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

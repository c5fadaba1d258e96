"""The sections of the report that say why: what length does to prompts, and to the encoder."""

from collections.abc import Iterator

from dti_engine.evaluation.results import Results
from dti_engine.evaluation.tables import interval, table


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

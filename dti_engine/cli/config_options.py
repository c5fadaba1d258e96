"""Settings of training, as options: each changes one value of a recipe."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, get_args

import typer

from dti_engine.config import CaptionFamily, Method, Pooling, Schedule, TrainConfig
from dti_engine.recipes import RECIPES, default_recipe, recipe, standard_ti

PANEL = "Training"


def _of_recipe(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=PANEL, show_default="recipe")


RecipeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help=f"Complete settings: {', '.join(RECIPES)}. Options below change single ones.",
        rich_help_panel=PANEL,
        show_default="the backbone's: miniature, sd, sd-768, sdxl-release or sana-release",
    ),
]
MethodOption: TypeAlias = Annotated[
    Method,
    typer.Option(
        help="[cyan]dti[/] learns directions, [cyan]ti[/] free vectors (the baseline).",
        rich_help_panel=PANEL,
    ),
]
StepsOption: TypeAlias = Annotated[
    int | None, _of_recipe("--steps", "Optimizer steps per subject.")
]
BatchSizeOption: TypeAlias = Annotated[int | None, _of_recipe("--batch-size", "Samples per step.")]
ResolutionOption: TypeAlias = Annotated[
    int | None, _of_recipe("--resolution", "Side of the crops in px.")
]
RateOption: TypeAlias = Annotated[float | None, _of_recipe("--lr", "Learning rate.")]
KappaOption: TypeAlias = Annotated[float | None, _of_recipe("--kappa", "Strength of the prior.")]
MagnitudeOption: TypeAlias = Annotated[
    str | None, _of_recipe("--magnitude", "vocabulary, initializer, or a length.")
]
CaptionsOption: TypeAlias = Annotated[
    CaptionFamily | None,
    typer.Option(
        metavar="FAMILY",
        help=f"What the images show: {', '.join(get_args(CaptionFamily))}.",
        rich_help_panel=PANEL,
        show_default="the bundle's kind, or recipe",
    ),
]
ScheduleOption: TypeAlias = Annotated[
    Schedule | None, _of_recipe("--schedule", "Of the rate; [cyan]cosine[/] falls to 0.")
]
AveragingOption: TypeAlias = Annotated[
    float | None, _of_recipe("--averaging", "Decay of the mean of directions; 0: the last one.")
]
PatienceOption: TypeAlias = Annotated[
    int | None,
    _of_recipe("--patience", "Looks at the fixed loss without gain that end it; 0: none do."),
]
PoolingOption: TypeAlias = Annotated[
    Pooling | None,
    _of_recipe(
        "--pooling", "SDXL: the prompt is summed up at its end ([cyan]eos[/]) or at the token."
    ),
]
ShiftOption: TypeAlias = Annotated[
    float | None, _of_recipe("--shift", "Above 1, noisier times are learned from more often.")
]
InstructionOption: TypeAlias = Annotated[
    bool | None,
    _of_recipe(
        "--instruction/--no-instruction", "SANA: its own instruction stands before captions."
    ),
]
VectorsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--vectors",
        min=1,
        metavar="N",
        help="Of each token; the initializer's are repeated to make so many.",
        rich_help_panel=PANEL,
        show_default="one per piece of the initializer",
    ),
]


def given(*, magnitude: str | None, **values: object) -> dict[str, object]:
    """Those of the values that are not None, by name."""
    values["magnitude"] = _parsed(magnitude)
    return {name: value for name, value in values.items() if value is not None}


def settings(
    recipe_name: str | None, weights: str, method: Method, given: Mapping[str, object]
) -> TrainConfig:
    """The recipe, or the weights' own, with what was given in place of its values.

    Raises: ConfigurationError; ModelLoadError if there are no such weights.
    """
    config = recipe(recipe_name or own_recipe(weights))
    if method == "ti":
        config = standard_ti(config)
    return config.changed(**given)


def own_recipe(weights: str) -> str:
    """Name of the recipe for these weights. Raises: ModelLoadError if there are none."""
    if weights == "miniature":
        return "miniature"
    from dti_engine.backbones.checkpoint import open_checkpoint  # loads torch

    checkpoint = open_checkpoint(weights)
    denoiser = "transformer" if "transformer" in checkpoint.index else "unet"
    return default_recipe(checkpoint.pipeline, checkpoint.config(denoiser)["sample_size"])


def _parsed(magnitude: str | None) -> str | float | None:
    try:
        return float(magnitude) if magnitude else None
    except ValueError:
        return magnitude

"""Settings of training, as options: each changes one value of a recipe."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, get_args

import typer

from dti_engine.config import CaptionFamily, Method, Schedule, TrainConfig
from dti_engine.recipes import RECIPES, recipe, standard_ti

PANEL = "Training"


def _of_recipe(name: str, text: str) -> Any:
    return typer.Option(name, help=text, rich_help_panel=PANEL, show_default="recipe")


RecipeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help=f"Complete settings: {', '.join(RECIPES)}. Options below change single ones.",
        rich_help_panel=PANEL,
        show_default="miniature for the miniature, else sd",
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
        help=f"What the pictures show: {', '.join(get_args(CaptionFamily))}.",
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


def settings(recipe_name: str, method: Method, given: Mapping[str, object]) -> TrainConfig:
    """The recipe with what was given in place of its own. Raises: ConfigurationError."""
    config = recipe(recipe_name)
    if method == "ti":
        config = standard_ti(config)
    return config.changed(**given)


def _parsed(magnitude: str | None) -> str | float | None:
    try:
        return float(magnitude) if magnitude else None
    except ValueError:
        return magnitude

"""Training settings as options, shared by every command that trains.

`--recipe` names complete settings, `--set NAME=VALUE` changes one field of them; the three fields
that are changed most have options of their own. `TrainConfig` checks names and values.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import typer

from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.recipes import RECIPES, default_recipe, recipe, standard_ti

PANEL = "Training"

RecipeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help=f"Complete settings to start from: {', '.join(RECIPES)}.",
        rich_help_panel=PANEL,
        show_default="the model's: miniature, sd, sd-768, sdxl-release or sana-release",
    ),
]
StepsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--steps",
        help="Optimizer steps of each subject.",
        rich_help_panel=PANEL,
        show_default="recipe",
    ),
]
LearningRateOption: TypeAlias = Annotated[
    float | None,
    typer.Option("--lr", help="Learning rate.", rich_help_panel=PANEL, show_default="recipe"),
]
KappaOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--kappa",
        help="Strength of the prior on directions.",
        rich_help_panel=PANEL,
        show_default="recipe",
    ),
]
SetOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change any other field of the recipe; may be repeated. Fields: "
        f"{', '.join(TrainConfig.model_fields)}.",
        rich_help_panel=PANEL,
    ),
]
VectorsOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--vectors",
        min=1,
        metavar="N",
        help="Vectors of each token; those of the initializer are repeated to make N.",
        rich_help_panel=PANEL,
        show_default="one per piece of the initializer",
    ),
]
SeedOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        help="Seed of every subject's training.",
        rich_help_panel=PANEL,
        show_default="the bundle's, or 0",
    ),
]


def changed_fields(
    pairs: Sequence[str], *, steps: int | None, lr: float | None, kappa: float | None
) -> dict[str, Any]:
    """Return the fields that the options change, by name.

    Raises: ConfigurationError if `--set` is malformed, names an unknown field, or names one that
        another option sets too.
    """
    shorthands = {"steps": steps, "lr": lr, "kappa": kappa}
    changes = {name: value for name, value in shorthands.items() if value is not None}
    for name, text in parse_pairs("--set", pairs, example="batch_size=2").items():
        if name not in TrainConfig.model_fields:
            known = ", ".join(TrainConfig.model_fields)
            raise ConfigurationError(f"--set knows no field {name!r:.80}; the fields are {known}")
        if name in changes:
            raise ConfigurationError(f"--{name} and --set {name} say the same; drop one")
        changes[name] = _parse_value(text)
    return changes


def training_config(
    recipe_name: str | None, model: str, changes: Mapping[str, object]
) -> TrainConfig:
    """Return the recipe of this name, or the model's own, with the changed fields.

    Raises: ConfigurationError if a value is refused; ModelLoadError if there is no such model.
    """
    config = recipe(recipe_name or own_recipe(model))
    if changes.get("method") == "ti":
        # The recipe's other fields are meant for DTI: the baseline replaces most of them.
        config = standard_ti(config)
    return config.changed(**changes)


def own_recipe(model: str) -> str:
    """Return the name of the model's own recipe. Raises: ModelLoadError for an unknown model."""
    if model == "miniature":
        return "miniature"
    from dti_engine.backbones.checkpoint import open_checkpoint  # loads torch

    checkpoint = open_checkpoint(model)
    denoiser = "transformer" if "transformer" in checkpoint.index else "unet"
    return default_recipe(checkpoint.pipeline, checkpoint.config(denoiser)["sample_size"])


def parse_pairs(option: str, pairs: Sequence[str], *, example: str) -> dict[str, str]:
    """Return the values of a repeated NAME=VALUE option by name.

    Raises: ConfigurationError if one is malformed or given twice.
    """
    values = dict[str, str]()
    for pair in pairs:
        name, is_pair, value = pair.partition("=")
        if not is_pair or not name:
            raise ConfigurationError(
                f"{option} takes NAME=VALUE, such as {example}, got {pair!r:.80}"
            )
        if name in values:
            raise ConfigurationError(f"{option} {name} is given twice; give it once")
        values[name] = value
    return values


def _parse_value(text: str) -> Any:
    """Return a number, boolean or null if the text is one in JSON, else the text itself."""
    try:
        # 1e-4, true and null are JSON; a word such as cosine is not, and stays a text.
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python's parser accepts and JSON does not have."""
    raise ValueError(name)

"""Complete training configs by name, and where each of their numbers comes from. Loads no torch.

A recipe is a function, so that a variant is a call and a change: `sd().changed(steps=200)`.
"""

from collections.abc import Callable, Mapping

from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError


def miniature_constant() -> TrainConfig:
    """For the miniature, in the paper's manner: constant rate, the last direction, all steps."""
    return TrainConfig(
        steps=400,
        batch_size=4,
        resolution=64,  # the miniature's only size
        lr=0.03,  # the better of two, see docs/results/miniature.md
        kappa=1e-4,  # paper, section 3.2; hardly felt on this model, and more of it does not pay
        captions="miniature",  # the words it was trained on
    )


def miniature() -> TrainConfig:
    """For the small model that ships with the package; our own numbers, found on it.

    A falling rate is as good as twice as many steps at a constant one: docs/results/steps.md.
    """
    return miniature_constant().changed(steps=200, lr=0.15, schedule="cosine")


def miniature_fast() -> TrainConfig:
    """The same in half the steps: in docs/results/steps.md its tokens are 0.01 less like."""
    return miniature().changed(steps=100)


def sd() -> TrainConfig:
    """For Stable Diffusion 1.5 and 2.1-base, at 512 px.

    Ours: neither the paper nor the official code has a recipe for these models. This is the
    official one for SDXL at their smaller size; it was not yet compared with others.
    """
    return TrainConfig(
        steps=400,  # official code, SDXL; the paper takes 500
        batch_size=4,  # paper, appendix D.1
        resolution=512,  # the size that Stable Diffusion 1.5 and 2.1-base were trained at
        lr=0.04,  # official code, SDXL: 0.01, which its launcher multiplies by the batch size
        kappa=1e-4,  # paper, section 3.2
    )


def standard_ti(config: TrainConfig) -> TrainConfig:
    """The baseline on the same budget: standard Textual Inversion, all else as in `config`."""
    return config.changed(
        method="ti",
        lr=5e-3,  # paper, appendix D.1: "commonly-used"; its official code takes 4 times as much
        weight_decay=1e-2,  # diffusers' example and official code, SDXL: torch's default
        magnitude="initializer",  # diffusers' example: starts as a copy of the initializer
        kappa=0.0,
        beta2=0.0,
        averaging=0.0,
        schedule="constant",  # diffusers' example and official code
        patience=0,
    )


RECIPES: Mapping[str, Callable[[], TrainConfig]] = {
    "miniature": miniature,
    "miniature-constant": miniature_constant,
    "miniature-fast": miniature_fast,
    "sd": sd,
}


def recipe(name: str) -> TrainConfig:
    """The recipe of that name. Raises: ConfigurationError that lists the known names."""
    if name not in RECIPES:
        raise ConfigurationError(f"no recipe {name!r}; known are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()

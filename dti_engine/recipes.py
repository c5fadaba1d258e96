"""Recipes: complete training configs by name, each number with its source. Loads no torch.

A recipe is a function, so that a variant is a call and a change: `sd().changed(steps=200)`.
"""

from collections.abc import Callable, Mapping

from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError


def miniature_constant() -> TrainConfig:
    """Return the miniature's recipe in the paper's form: constant rate, no averaging, all steps."""
    return TrainConfig(
        steps=400,
        batch_size=4,
        resolution=64,  # the miniature's only size
        lr=0.03,  # the better of two, see docs/results/miniature.md
        kappa=1e-4,  # paper, section 3.2; hardly matters on this model, and more does not help
        captions="miniature",  # the words it was trained on
    )


def miniature() -> TrainConfig:
    """Return the recipe of the miniature that ships with the package, tuned on it.

    A falling rate is as good as twice as many steps at a constant one: docs/results/steps.md.
    """
    return miniature_constant().changed(steps=200, lr=0.15, schedule="cosine")


def miniature_fast() -> TrainConfig:
    """Return `miniature` in half the steps; it costs 0.01 of likeness: docs/results/steps.md."""
    return miniature().changed(steps=100)


def sdxl_release() -> TrainConfig:
    """Return the recipe of the official code's launcher for SDXL."""
    return TrainConfig(
        steps=400,  # official code, launcher and README
        batch_size=4,  # official code; paper, appendix D.1
        resolution=768,  # official code
        lr=0.04,  # official code: 0.01, which the launcher multiplies by the batch size
        kappa=1e-4,  # official code; paper, section 3.2
        pooling="legacy",  # official code: transformers pools at the highest id
        eval_every=50,  # ours; changes no token, an evaluation costs two thirds of a step
    )


def sdxl_paper() -> TrainConfig:
    """Return the paper's recipe for SDXL."""
    return sdxl_release().changed(
        steps=500,  # paper, appendix D.1
        lr=0.02,  # appendix D.1: 5e-3, times the batch size as in diffusers' example, its model
    )


def sana_release() -> TrainConfig:
    """Return the recipe of the official code's launcher for SANA 1.5, both sizes.

    One thing differs: the launcher puts a random number of zero vectors before each caption. It
    also starts from a short phrase per subject (`Subject.initializer`), not from a class word.
    """
    return TrainConfig(
        steps=500,  # official code; its README finds it better than what the paper reports
        batch_size=4,  # official code: twice 2
        resolution=1024,  # official code; the only size of these models
        lr=0.04,  # official code: 0.01, which the launcher multiplies by the batch size
        kappa=5e-5,  # official code
        shift=1.0,  # official code: its scheduler does not find the checkpoint's shift of 3
        instruction=False,  # official code trains without
        eval_every=50,  # as for SDXL
    )


def sana_paper() -> TrainConfig:
    """Return the paper's recipe for SANA 1.5, both sizes."""
    return sana_release().changed(
        steps=1000,  # official README, on the paper
        lr=0.02,  # official README, on the paper
        kappa=1e-4,  # paper, appendix D.1: the same for every model
    )


def sd() -> TrainConfig:
    """Return the recipe for Stable Diffusion 1.5 and 2.1-base, at 512 px.

    Neither the paper nor the official code has a recipe for these models. This is the official one
    for SDXL at their smaller size; it is not yet compared with others.
    """
    return sdxl_release().changed(
        resolution=512,  # the size that Stable Diffusion 1.5 and 2.1-base were trained at
        pooling="eos",  # without effect: they have no pooled embedding
        eval_every=20,  # an evaluation costs less than on the larger models
    )


def sd_768() -> TrainConfig:
    """Return the recipe for Stable Diffusion 2.1 at 768 px, which predicts velocity; see `sd`."""
    return sd().changed(resolution=768)


def falling(config: TrainConfig) -> TrainConfig:
    """Return `config` with half of the steps, at a higher rate that falls to 0.

    On the miniature it is as good as all steps at a constant rate: docs/results/steps.md. For
    larger models that is not yet known, so it is not their default.
    """
    return config.changed(steps=config.steps // 2, lr=0.15, schedule="cosine")


def standard_ti(config: TrainConfig) -> TrainConfig:
    """Return the baseline on the budget of `config`: standard Textual Inversion."""
    return config.changed(
        method="ti",
        lr=5e-3,  # paper, appendix D.1: "commonly-used"; its official code takes 4 times as much
        weight_decay=1e-2,  # diffusers' example and official code, SDXL: torch's default
        magnitude="initializer",  # diffusers' example: starts as a copy of the initializer
        init="words",
        anchor_weight=0.0,
        kappa=0.0,
        beta2=0.0,
        ema_decay=0.0,
        schedule="constant",  # diffusers' example and official code
        patience=0,
    )


def cross_init(config: TrainConfig) -> TrainConfig:
    """Return a stronger baseline on the budget of `config`: CrossInit.

    It starts from the text encoder's last hidden states of the initializer, and is anchored there.

    Source: Pang et al. 2024; its official code; paper, appendix D.1, for rate and anchor weight.
    """
    return standard_ti(config).changed(
        init="states",
        anchor_weight=1e-5,  # paper, appendix D.1, and CrossInit's official code
    )


RECIPES: Mapping[str, Callable[[], TrainConfig]] = {
    "miniature": miniature,
    "miniature-constant": miniature_constant,
    "miniature-fast": miniature_fast,
    "sd": sd,
    "sd-768": sd_768,
    "sd-falling": lambda: falling(sd()),
    "sdxl-release": sdxl_release,
    "sdxl-paper": sdxl_paper,
    "sdxl-falling": lambda: falling(sdxl_release()),
    "sana-release": sana_release,
    "sana-paper": sana_paper,
    "sana-falling": lambda: falling(sana_release()),
}

_LATENT_SIZE_OF_768_PX = 96  # side of the latents of Stable Diffusion 2.1 for 768 px


def default_recipe(pipeline: str, latent_size: int) -> str:
    """Return the recipe's name for a model, by its pipeline's class and the side of its latents."""
    if pipeline == "StableDiffusionXLPipeline":
        return "sdxl-release"
    if pipeline == "SanaPipeline":
        return "sana-release"
    return "sd-768" if latent_size >= _LATENT_SIZE_OF_768_PX else "sd"


def recipe(name: str) -> TrainConfig:
    """Return the recipe of that name.

    Raises: ConfigurationError that lists the known names.
    """
    if name not in RECIPES:
        raise ConfigurationError(f"no recipe {name!r}; known are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()

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


def sdxl_release() -> TrainConfig:
    """For SDXL, as the official code's launcher has it."""
    return TrainConfig(
        steps=400,  # official code, launcher and README
        batch_size=4,  # official code; paper, appendix D.1
        resolution=768,  # official code
        lr=0.04,  # official code: 0.01, which the launcher multiplies by the batch size
        kappa=1e-4,  # official code; paper, section 3.2
        pooling="legacy",  # official code: transformers pools at the highest id
        eval_every=50,  # ours, changes no token: a look costs two thirds of a step
    )


def sdxl_paper() -> TrainConfig:
    """For SDXL, as the paper has it."""
    return sdxl_release().changed(
        steps=500,  # paper, appendix D.1
        lr=0.02,  # appendix D.1: 5e-3, times the batch size as in diffusers' example, its model
    )


def sana_release() -> TrainConfig:
    """For SANA 1.5, both sizes, as the official code's launcher has it, but for one thing.

    That puts a random number of zero vectors before each caption, which is not done here. It also
    starts from a short phrase for each subject (`Subject.initializer`), not from a class word.
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
    """For SANA 1.5, both sizes, as the paper has it."""
    return sana_release().changed(
        steps=1000,  # official README, on the paper
        lr=0.02,  # official README, on the paper
        kappa=1e-4,  # paper, appendix D.1: the same for every model
    )


def sd() -> TrainConfig:
    """For Stable Diffusion 1.5 and 2.1-base, at 512 px.

    Ours: neither the paper nor the official code has a recipe for these models. This is the
    official one for SDXL at their smaller size; it was not yet compared with others.
    """
    return sdxl_release().changed(
        resolution=512,  # the size that Stable Diffusion 1.5 and 2.1-base were trained at
        pooling="eos",  # of no effect: they take no summary
        eval_every=20,  # a look costs less than on the larger models
    )


def sd_768() -> TrainConfig:
    """For Stable Diffusion 2.1 at 768 px, which predicts velocity. Ours, like `sd`."""
    return sd().changed(resolution=768)


def falling(config: TrainConfig) -> TrainConfig:
    """Half of the steps, at a rate that falls from a higher one to 0, all else as in `config`.

    On the miniature it is as good as all of them at a constant rate, see docs/results/steps.md. On
    larger models that is not yet known, so it is no default there.
    """
    return config.changed(steps=config.steps // 2, lr=0.15, schedule="cosine")


def standard_ti(config: TrainConfig) -> TrainConfig:
    """The baseline on the same budget: standard Textual Inversion, all else as in `config`."""
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
    """A stronger baseline on the same budget: CrossInit, all else as in `config`.

    Starts from the text encoder's own states of the initializer, and is pulled back to them.
    Source: Pang et al. 2024; its official code; paper, appendix D.1 on rate and weight of the pull.
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

_LARGE = 96  # latents a side: the version of Stable Diffusion 2.1 for 768 px


def default_recipe(pipeline: str, latent_size: int) -> str:
    """Name of the recipe for a model, by the class of its pipeline and the side of its latents."""
    if pipeline == "StableDiffusionXLPipeline":
        return "sdxl-release"
    if pipeline == "SanaPipeline":
        return "sana-release"
    return "sd-768" if latent_size >= _LARGE else "sd"


def recipe(name: str) -> TrainConfig:
    """The recipe of that name. Raises: ConfigurationError that lists the known names."""
    if name not in RECIPES:
        raise ConfigurationError(f"no recipe {name!r}; known are {', '.join(sorted(RECIPES))}")
    return RECIPES[name]()

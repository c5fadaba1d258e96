"""What is compared with what: on how many subjects, with which settings and seeds. Loads no torch.

Both methods get the same photos, initializers, captions, draws, steps and batches, and as many
settings to choose from. Settings are chosen on other subjects than those that results are told of.

Seeds of training and generating: each subject has its own, and all methods and rows the same.

Were they shared by subjects, luck with them would not average out over subjects, and an interval
found by resampling subjects would be too short. Shared by rows, they make the rows pairs.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dti_engine.config import Method, TrainConfig, explain
from dti_engine.errors import ConfigurationError
from dti_engine.recipes import miniature_constant, standard_ti

METHODS: tuple[Method, ...] = ("dti", "ti")

# The recipe's angle per step and a third of it, with two strengths of the prior. The prior counts
# beside the gradient, whose length is 0.08 here (median): the paper's kappa of 1e-4, which is felt
# where gradients are smaller, ends where none would; 3e-2 turns the result by some degrees. Rates
# come first, as they turn it further: few settings differ, too.
_DTI_SETTINGS = tuple({"lr": lr, "kappa": kappa} for kappa in (1e-4, 3e-2) for lr in (0.03, 0.01))
# The paper's rate, as written and as its code multiplies it; diffusers' example; and one below.
# Weight decay stays at 1e-2: over 200 steps at these rates it takes at most 4 % off.
_TI_SETTINGS = tuple({"lr": lr} for lr in (5e-3, 2e-2, 2e-3, 1e-3))
# What has to be equal in all settings of both methods.
_BUDGET = {"steps", "batch_size", "resolution", "captions", "timesteps"}


class Protocol(BaseModel):
    """One evaluation, whole: equal protocols and weights give equal scores, to rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_subjects: int = Field(default=12, ge=2, le=12)
    num_settings_subjects: int = Field(default=6, ge=1, le=6)
    num_training_seeds: int = Field(default=2, ge=1)
    num_image_seeds: int = Field(default=2, ge=1)
    seed: int = Field(
        default=0, ge=0, description="what all draws of training and generating depend on"
    )
    settings: Mapping[Method, tuple[TrainConfig, ...]]
    num_slots: int = Field(default=6, ge=1, description="tokens trained at once")
    # Denoising steps of an image. With 20 the miniature's scores are the same.
    image_steps: int = Field(default=12, ge=1)
    guidance: float = Field(default=5.0, ge=1)
    batch_size: int = Field(default=16, ge=1, description="images generated at once")

    @model_validator(mode="after")
    def _refuse_unfair(self) -> Self:
        counts = {method: len(self.settings.get(method, ())) for method in METHODS}
        if len(set(counts.values())) > 1 or not all(counts.values()):
            raise ValueError(f"each method needs the same number of settings, got {counts}")
        everything = [each for method in METHODS for each in self.settings[method]]
        if any(each.schedule != "constant" or each.patience for each in everything):
            raise ValueError(
                "settings need a constant rate and no patience: only then is a token on its way "
                "that of a shorter run"
            )
        budgets = {each.model_dump_json(include=_BUDGET) for each in everything}
        if len(budgets) > 1:
            raise ValueError(f"all settings need the same budget, got {sorted(budgets)}")
        return self

    @classmethod
    def standard(
        cls, *, steps: int = 200, resolution: int = 64, num_settings: int = 4, **changes: object
    ) -> Self:
        """The full comparison, changed as told.

        Its tokens get half of the steps of `miniature_constant`, as 96 of them are trained.

        Raises: ConfigurationError if a change is not allowed.
        """
        base = miniature_constant().changed(steps=steps, resolution=resolution)
        settings: dict[Method, tuple[TrainConfig, ...]] = {
            "dti": tuple(base.changed(**each) for each in _DTI_SETTINGS[:num_settings]),
            "ti": tuple(standard_ti(base).changed(**each) for each in _TI_SETTINGS[:num_settings]),
        }
        try:
            return cls.model_validate({"settings": settings} | changes)
        except ValidationError as error:
            raise ConfigurationError(f"evaluation refused: {explain(error, cls)}") from error

    @classmethod
    def quick(cls, **changes: Any) -> Self:
        """Minutes, to see that all of it works: its intervals are wide. Raises as `standard`."""
        less = {
            "steps": 100,
            "num_settings": 2,
            "num_subjects": 4,
            "num_settings_subjects": 3,
            "num_training_seeds": 1,
            "num_image_seeds": 1,
        }
        return cls.standard(**(less | changes))

    @property
    def steps(self) -> int:
        """Training steps of every token."""
        return self.settings["dti"][0].steps

    @property
    def snapshots(self) -> tuple[int, ...]:
        """Steps after which a token is looked at; the last is `steps`."""
        return tuple(sorted({max(1, self.steps // share) for share in (8, 4, 2, 1)}))


def training_seed(first: int, subject: str, number: int) -> int:
    """Of the subject's training `number`, counted from 0; `first` is the evaluation's own seed."""
    return _seed("training", first, subject, number)


def image_seed(first: int, subject: str, prompt: int, number: int) -> int:
    """Of the subject's image `number` in a prompt, whatever names the subject there."""
    return _seed("image", first, subject, prompt, number)


def _seed(*names: str | int) -> int:
    """32 bits that depend on nothing else, neither the process nor the machine."""
    digest = hashlib.sha256(" ".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:4])

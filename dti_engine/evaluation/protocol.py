"""Protocols: numbers of subjects and seeds, training settings, generation, and prompts. No torch.

All methods share photos, initializers, captions, draws, steps, batches and the noise that images
start from, so rows are paired samples.

Photographed subjects are evaluated in 40 prompts for objects or 40 for living subjects: the 25 of
the DreamBooth dataset, without the class noun behind the subject, and 15 complex ones. The complex
ones are ours: the paper's are published only in code.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dti_engine.config import Method, TrainConfig, explain
from dti_engine.errors import ConfigurationError
from dti_engine.recipes import miniature_constant, standard_ti

METHODS: tuple[Method, ...] = ("dti", "ti")

# DTI: the recipe's angle per step and a third of it, with two strengths of the prior. The prior
# adds to a gradient whose median length is 0.08 here, so the paper's kappa of 1e-4, tuned where
# gradients are smaller, has no visible effect; 3e-2 turns the result by a few degrees. Rates come
# first because they turn it further, which matters when only the first settings are used.
_DTI_SETTINGS = tuple({"lr": lr, "kappa": kappa} for kappa in (1e-4, 3e-2) for lr in (0.03, 0.01))
# TI: the paper's rate as written and as its code multiplies it, diffusers' example, and one below.
# Weight decay stays at 1e-2: over 200 steps at these rates it removes at most 4 %.
_TI_SETTINGS = tuple({"lr": lr} for lr in (5e-3, 2e-2, 2e-3, 1e-3))
# The fields that must be equal in all settings of both methods.
_BUDGET = {"steps", "batch_size", "resolution", "captions", "timesteps"}


class EvaluationProtocol(BaseModel):
    """The part that both domains share."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_training_seeds: int = Field(ge=1)
    num_image_seeds: int = Field(ge=1)
    image_steps: int = Field(ge=1, description="denoising steps of an image")
    guidance: float = Field(ge=1)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """Return the protocol with these values.

        Raises:
            ConfigurationError: A value is not allowed.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigurationError(
                f"invalid evaluation protocol: {explain(error, cls)}"
            ) from error


class MiniatureProtocol(EvaluationProtocol):
    """A whole evaluation of the miniature: equal protocols and weights give equal scores.

    Each method chooses from the same number of settings, on subjects other than those reported.
    """

    num_subjects: int = Field(default=12, ge=2, le=12)
    num_settings_subjects: int = Field(default=6, ge=1, le=6)
    num_training_seeds: int = Field(default=2, ge=1)
    num_image_seeds: int = Field(default=2, ge=1)
    seed: int = Field(
        default=0, ge=0, description="base of all random draws in training and generation"
    )
    settings: Mapping[Method, tuple[TrainConfig, ...]]
    num_slots: int = Field(default=6, ge=1, description="tokens trained at once")
    # Denoising steps of an image. With 20 the miniature's scores are the same.
    image_steps: int = Field(default=12, ge=1)
    guidance: float = Field(default=5.0, ge=1)
    batch_size: int = Field(default=16, ge=1, description="images generated at once")

    @model_validator(mode="after")
    def _reject_unfair(self) -> Self:
        counts = {method: len(self.settings.get(method, ())) for method in METHODS}
        if len(set(counts.values())) > 1 or not all(counts.values()):
            raise ValueError(f"each method needs the same number of settings, got {counts}")
        configs = [config for method in METHODS for config in self.settings[method]]
        if any(config.schedule != "constant" or config.patience for config in configs):
            raise ValueError(
                "settings need a constant rate and no patience: otherwise a snapshot differs from "
                "the token of a shorter run"
            )
        budgets = {config.model_dump_json(include=_BUDGET) for config in configs}
        if len(budgets) > 1:
            raise ValueError(f"all settings need the same budget, got {sorted(budgets)}")
        return self

    @classmethod
    def standard(
        cls, *, steps: int = 200, resolution: int = 64, num_settings: int = 4, **changes: object
    ) -> Self:
        """Return the full comparison with some fields changed.

        Tokens get half of the steps of `miniature_constant`, since 96 of them are trained.

        Raises:
            ConfigurationError: A change is not allowed.
        """
        base = miniature_constant().changed(steps=steps, resolution=resolution)
        ti = standard_ti(base)
        settings: dict[Method, tuple[TrainConfig, ...]] = {
            "dti": tuple(base.changed(**setting) for setting in _DTI_SETTINGS[:num_settings]),
            "ti": tuple(ti.changed(**setting) for setting in _TI_SETTINGS[:num_settings]),
        }
        return cls.checked({"settings": settings} | changes)

    @classmethod
    def quick(cls, **changes: Any) -> Self:
        """Return a comparison of minutes that only shows that everything works.

        Raises:
            ConfigurationError: A change is not allowed.
        """
        small = {
            "steps": 100,
            "num_settings": 2,
            "num_subjects": 4,
            "num_settings_subjects": 3,
            "num_training_seeds": 1,
            "num_image_seeds": 1,
        }
        return cls.standard(**(small | changes))

    @property
    def steps(self) -> int:
        """Training steps of every token."""
        return self.settings["dti"][0].steps

    @property
    def snapshots(self) -> tuple[int, ...]:
        """Steps after which a token is evaluated; the last is `steps`."""
        return tuple(sorted({max(1, self.steps // divisor) for divisor in (8, 4, 2, 1)}))


class PhotographProtocol(EvaluationProtocol):
    """A whole evaluation on photographs, independent of the methods in it.

    Source of the defaults: paper, section 4.1 and appendix D.1.
    """

    config: TrainConfig = Field(description="of DTI; TI takes `recipes.standard_ti` of it")
    num_training_seeds: int = Field(default=1, ge=1)
    first_training_seed: int = Field(default=42, ge=0, lt=2**32)
    num_image_seeds: int = Field(default=4, ge=1, description="0, 1, ...: the same in every prompt")

    @classmethod
    def standard(cls, config: TrainConfig, *, is_flow: bool, changes: Mapping[str, Any]) -> Self:
        """Return the paper's protocol with some fields changed.

        DDIM takes 50 steps, flow models take 20 of Euler's. Guidance is that of the SDXL and SANA
        pipelines, which the paper's code leaves unchanged.

        Raises:
            ConfigurationError: A change is not allowed.
        """
        steps, guidance = (20, 4.5) if is_flow else (50, 5.0)
        defaults = {"config": config, "image_steps": steps, "guidance": guidance}
        return cls.checked(defaults | dict(changes))

    def training_seed(self, number: int) -> int:
        """Return the seed of training `number`, from 0; the paper shares it between subjects."""
        return self.first_training_seed + number


def training_seed(base: int, subject: str, number: int) -> int:
    """Return the seed of the subject's training `number`, counted from 0.

    Every subject has its own seeds: if subjects shared them, luck with a seed would not average
    out over subjects, and an interval found by resampling subjects would be too short. Methods and
    rows do share them, which makes rows paired samples.
    """
    return _hashed_seed("training", base, subject, number)


def image_seed(base: int, subject: str, prompt: int, number: int) -> int:
    """Return the seed of the subject's image `number` in a prompt, the same in every row."""
    return _hashed_seed("image", base, subject, prompt, number)


def _hashed_seed(*names: str | int) -> int:
    """Return 32 bits that depend on the names alone, not on the process or machine."""
    digest = hashlib.sha256(" ".join(map(str, names)).encode()).digest()
    # 32 bits, because torch's CPU generator ignores higher ones.
    return int.from_bytes(digest[:4])


_PROMPTS_FILE = Path(__file__).with_name("prompts.json")
_MAX_PROMPTS = 1000

# The paper's living subjects are cats and dogs, all that lives in the DreamBooth dataset.
_LIVING = frozenset((
    "animal", "bear", "bird", "boy", "cat", "child", "cow", "dog", "duck", "girl", "horse",
    "kitten", "man", "monkey", "mouse", "person", "puppy", "rabbit", "woman",
))  # fmt: skip


def is_living(class_noun: str) -> bool:
    """Return whether the last word of the noun names a living thing; a stuffed animal does not."""
    words = class_noun.lower().split()
    return bool(words) and words[-1] in _LIVING and words[0] not in ("stuffed", "toy", "plush")


def prompt_set(name: str) -> tuple[str, ...]:
    """Return the 40 prompts of the set "object" or "live", each with `{}` for the subject."""
    sets = json.loads(_PROMPTS_FILE.read_text(encoding="utf-8"))
    return (*sets["dreambooth"][name], *sets["complex"][name])


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read a file of prompts, one per line, each with `{}` once.

    Empty lines and lines that begin with # are skipped.

    Raises:
        ConfigurationError: A line is invalid (the message names the first), or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read prompts in {str(path)!r}: {error}") from error
    prompts: list[str] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line.count("{}") != 1 or "<" in line or line in prompts:
            raise ConfigurationError(
                f"line {number} of {str(path)!r} must be a new prompt with {{}} exactly once, for "
                f"the subject, and without a <placeholder>; got {line!r:.80}"
            )
        prompts.append(line)
    if not 1 <= len(prompts) <= _MAX_PROMPTS:
        raise ConfigurationError(
            f"{str(path)!r} has {len(prompts)} prompts; give 1 to {_MAX_PROMPTS}, one per line"
        )
    return tuple(prompts)


def evenly_spaced(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """Return `count` prompts at equal distances, from the first on, or all if there are fewer."""
    if count >= len(prompts):
        return tuple(prompts)
    return tuple(prompts[index * len(prompts) // count] for index in range(count))

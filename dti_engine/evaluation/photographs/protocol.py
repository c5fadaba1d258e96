"""The prompts that subjects are generated in. Loads no torch.

40 for an object and 40 for what lives: the 25 of the DreamBooth dataset, without the class noun
behind the subject, and 15 complex ones. Those are ours: the paper's are published only in code.

How subjects are learned and generated, alike for all methods. Loads no torch.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dti_engine.config import TrainConfig, explain
from dti_engine.errors import ConfigurationError


class Protocol(BaseModel):
    """One evaluation, whatever its methods: they share photos, initializers, captions, draws,
    steps, batches and the noise that images start from.

    Source of the defaults: paper, section 4.1 and appendix D.1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    config: TrainConfig = Field(description="of DTI; TI takes `recipes.standard_ti` of it")
    num_training_seeds: int = Field(default=1, ge=1)
    first_training_seed: int = Field(default=42, ge=0, lt=2**32)
    num_image_seeds: int = Field(default=4, ge=1, description="0, 1, ...: the same in every prompt")
    image_steps: int = Field(ge=1, description="denoising steps of an image")
    guidance: float = Field(ge=1)

    @classmethod
    def of(cls, config: TrainConfig, *, is_flow: bool, changes: Mapping[str, Any]) -> Self:
        """The paper's, changed as told: DDIM with 50 steps, flow models by Euler's with 20.

        Guidance is that of the SDXL and SANA pipelines, which the paper's code leaves as it is.

        Raises: ConfigurationError if a change is not allowed.
        """
        generation = (
            {"image_steps": 20, "guidance": 4.5}
            if is_flow
            else {
                "image_steps": 50,
                "guidance": 5.0,
            }
        )
        try:
            return cls.model_validate({"config": config} | generation | dict(changes))
        except ValidationError as error:
            raise ConfigurationError(f"evaluation refused: {explain(error, cls)}") from error

    def training_seed(self, number: int) -> int:
        """Of the training `number`, counted from 0; the same for all subjects, as in the paper."""
        return self.first_training_seed + number


_FILE = Path(__file__).with_name("prompts.json")
_MAX_PROMPTS = 1000

# The paper's are cat and dog, all that lives in the DreamBooth dataset.
_LIVING = frozenset((
    "animal", "bear", "bird", "boy", "cat", "child", "cow", "dog", "duck", "girl", "horse",
    "kitten", "man", "monkey", "mouse", "person", "puppy", "rabbit", "woman",
))  # fmt: skip


def is_living(class_noun: str) -> bool:
    """By its last word: a `stuffed animal` is no animal."""
    words = class_noun.lower().split()
    return bool(words) and words[-1] in _LIVING and words[0] not in ("stuffed", "toy", "plush")


def prompt_set(name: str) -> tuple[str, ...]:
    """`object` or `live`: 40 prompts with `{}` for the subject."""
    sets = json.loads(_FILE.read_text(encoding="utf-8"))
    return (*sets["dreambooth"][name], *sets["complex"][name])


def read_prompts(path: Path) -> tuple[str, ...]:
    """One prompt a line, each with `{}` once; empty lines and lines that begin with # are passed
    over.

    Raises: ConfigurationError, which names the first line at fault, or says that there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read prompts in {str(path)!r}: {error}") from error
    found: list[str] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line.count("{}") != 1 or "<" in line or line in found:
            raise ConfigurationError(
                f"line {number} of {str(path)!r} must be a prompt with {{}} once, for the subject, "
                f"no <placeholder>, and not there twice; got {line!r:.80}"
            )
        found.append(line)
    if not 1 <= len(found) <= _MAX_PROMPTS:
        raise ConfigurationError(
            f"{str(path)!r} has {len(found)} prompts; give 1 to {_MAX_PROMPTS}, one a line"
        )
    return tuple(found)


def spread(prompts: Sequence[str], count: int) -> tuple[str, ...]:
    """So many of them, from first to last at equal distances; all, if there are no more."""
    if count >= len(prompts):
        return tuple(prompts)
    return tuple(prompts[index * len(prompts) // count] for index in range(count))

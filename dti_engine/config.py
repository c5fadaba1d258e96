"""What a training run is told: one frozen set of checked values. Loads no torch.

A config says how to train, never what or where: the subject, its seed and the device are arguments
of the call. `recipes` has complete configs; an artifact keeps the one that it was trained with.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dti_engine.errors import ConfigurationError

Method: TypeAlias = Literal["dti", "ti"]
CaptionFamily: TypeAlias = Literal["object", "style", "person", "miniature"]
DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]
Timesteps: TypeAlias = Literal["uniform", "stratified"]
Schedule: TypeAlias = Literal["constant", "cosine"]
Init: TypeAlias = Literal["words", "states"]
"""Rows of the initializer's words in the vocabulary, or what the text encoder makes of them."""
Pooling: TypeAlias = Literal["eos", "legacy"]
"""Where the summary of a prompt is read: at its end, or at the highest id, as older tools do."""
Magnitude: TypeAlias = Literal["vocabulary", "initializer"] | Annotated[float, Field(gt=0)]
"""Mean length of the vocabulary's rows, length of each of the initializer's rows, or a number."""

ExportFormat: TypeAlias = Literal["diffusers", "comfyui", "a1111"]
"""Formats of other programs in which a token is written and read."""

MAX_VALIDATION_IMAGES = 4
"""Validation images per token: the number of prompts that there are for them."""

PLACEHOLDER = re.compile(r"<[a-z0-9][a-z0-9_-]{0,62}>")
"""A token's name in prompts. Without < and >, it is a file name on every system."""

# dti: paper, section 3.2 (kappa) and appendix D.4 (magnitude).
# ti: diffusers' example: AdamW as torch ships it, from a plain copy of the initializer.
_METHOD_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "dti": {"kappa": 1e-4, "weight_decay": 0.0, "magnitude": "vocabulary"},
    "ti": {"kappa": 0.0, "weight_decay": 1e-2, "magnitude": "initializer"},
}


def _of_method(name: str) -> Callable[[dict[str, Any]], Any]:
    """Default of a field by `method`, which is missing here if it was itself refused."""
    return lambda checked: _METHOD_DEFAULTS[checked.get("method", "dti")][name]


class TrainConfig(BaseModel):
    """How one subject is trained. Values from outside go through `parse`, whose errors are ours."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    method: Method = Field(
        default="dti", description="dti: directions on the sphere; ti: free vectors, by AdamW"
    )
    steps: int = Field(gt=0, description="optimizer steps of one subject")
    batch_size: int = Field(gt=0, description="samples of one subject in one step")
    resolution: int = Field(ge=8, multiple_of=8, description="side of the square crops in pixels")
    lr: float = Field(
        gt=0, le=1, description="dti: tangent step, turning by atan(lr) radians; ti: AdamW's rate"
    )
    kappa: float = Field(
        default_factory=_of_method("kappa"), ge=0, description="dti: strength of the prior"
    )
    beta2: float = Field(
        default=0.0, ge=0, lt=1, description="dti: decay of the running norm; 0: unit gradients"
    )
    schedule: Schedule = Field(
        default="constant", description="of lr; cosine: falls to 0 over the steps"
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="dti: decay of the running mean of directions that a token is; 0: the last one",
    )
    init: Init = Field(
        default="words", description="what vectors start as; states: the encoder's last ones"
    )
    anchor_weight: float = Field(
        default=0.0, ge=0, description="ti: weight of the distance to the start in the loss"
    )
    weight_decay: float = Field(
        default_factory=_of_method("weight_decay"), ge=0, le=1, description="ti: AdamW's decay"
    )
    magnitude: Magnitude = Field(
        default_factory=_of_method("magnitude"),
        description="dti: fixed length; ti: length at first",
    )
    captions: CaptionFamily = Field(default="object", description="family of caption templates")
    timesteps: Timesteps = Field(default="uniform", description="how a batch spreads over time")
    shift: float = Field(
        default=1.0, gt=0, description="how far times lean to noise: u -> s u / (1 + (s - 1) u)"
    )
    pooling: Pooling = Field(
        default="eos",
        description="where models that take a summary of the prompt read it; legacy: at the token",
    )
    instruction: bool = Field(
        default=False, description="models that take one: whether it stands before every caption"
    )
    eval_every: int = Field(
        default=20, gt=0, description="steps between two looks at the loss on a fixed batch"
    )
    patience: int = Field(
        default=0, ge=0, description="looks in a row without gain that end the training; 0: none do"
    )
    min_improvement: float = Field(
        default=0.02, ge=0, lt=1, description="part of the whole fall of the loss that is a gain"
    )

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if found := list(self._contradictions()):
            raise ValueError("; ".join(found))
        return self

    def _contradictions(self) -> Iterator[str]:
        if self.method == "dti" and self.weight_decay:
            yield f"weight_decay must be 0 with method 'dti', not {self.weight_decay}: it fixes |e|"
        if self.method == "dti" and self.anchor_weight:
            value = self.anchor_weight
            yield f"anchor_weight must be 0 with method 'dti', not {value}: it has a prior"
        if self.method == "ti" and self.kappa:
            yield f"kappa must be 0 with method 'ti', not {self.kappa}: it has no prior"
        if self.method == "ti" and self.beta2:
            yield f"beta2 must be 0 with method 'ti', not {self.beta2}: its AdamW has its own"
        if self.method == "ti" and self.ema_decay:
            yield f"ema_decay must be 0 with method 'ti', not {self.ema_decay}: it is of directions"

    def incompatibility_with(self, other: "TrainConfig") -> str | None:
        """Why subjects with these two configs cannot share a batch; None if they can.

        A batch has one shape, and one method moves all of its rows. All else is per subject.
        """
        differing = [
            f"{name} {getattr(self, name)!r}, not {getattr(other, name)!r}"
            for name in ("method", "batch_size", "resolution", "beta2")
            if getattr(self, name) != getattr(other, name)
        ]
        return ", ".join(differing) or None

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """The config with these values, checked.

        Raises: ConfigurationError: each field at fault, what is allowed and what was given.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigurationError(f"training config refused: {explain(error, cls)}") from error

    def changed(self, **changes: object) -> Self:
        """This config with some values replaced, all of it checked again. Raises like `parse`."""
        return self.parse(self.model_dump() | changes)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Pydantic's findings in one line: each field at fault, what is allowed, what was given."""
    allowed: dict[str, list[str]] = {}
    given: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        # Past the first name, the arms of a union and the keys of a mapping stand in `loc` as well.
        first, *rest = map(str, detail["loc"] or [""])
        field = ".".join([first, *(name for name in rest if name.isidentifier())])
        match detail["type"]:
            case "default_factory_not_called":
                continue  # follows from another finding
            case "missing":
                reason = "is required"
            case "extra_forbidden":
                reason = "is unknown"
                if len(detail["loc"]) == 1:
                    reason += f"; known are {', '.join(model.model_fields)}"
            case "value_error":
                reason = detail["msg"].removeprefix("Value error, ")
            case _:
                reason = detail["msg"].replace("Input should", "should")
                given[field] = f", got {detail['input']!r:.80}"
        allowed.setdefault(field, []).append(reason)
    return "; ".join(
        f"{field} {' or '.join(reasons)}{given.get(field, '')}".lstrip()
        for field, reasons in allowed.items()
    )

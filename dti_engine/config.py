"""TrainConfig: how a subject is trained, as one frozen set of validated values. Loads no torch.

A config says how to train, never what or where: the subject, its seed and the device are arguments
of the call. `recipes` has complete configs; an artifact stores the config that it was trained with.
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
"""The initializer's rows in the vocabulary, or the text encoder's last hidden states of them."""
Pooling: TypeAlias = Literal["eos", "legacy"]
"""Where the prompt is pooled: at its end, or at the highest token id, as older tools do."""
Magnitude: TypeAlias = Literal["vocabulary", "initializer"] | Annotated[float, Field(gt=0, le=1e6)]
"""Mean norm of the vocabulary's rows, norm of each of the initializer's rows, or a number."""

Kind: TypeAlias = Literal["object", "style", "person"]
"""What the images of a bundle show; it decides the captions."""

ExportFormat: TypeAlias = Literal[
    "diffusers", "comfyui", "a1111", "kohya", "onetrainer", "invokeai"
]
"""Programs in whose formats a token is written; `artifacts.programs` says what each one takes."""

MAX_TRAINING_STEPS = 1_000_000
MAX_BATCH_SIZE = 1024
MAX_RESOLUTION = 4096
"""Bounds above every use: a number beyond them is a mistake. The service allows far less."""

MAX_VECTORS = 64
"""Vectors of a token: CLIP reads 77 positions of a prompt, which has other words too."""

MAX_VALIDATION_IMAGES = 4
"""Validation images per token: the number of prompts that there are for them."""

PLACEHOLDER = re.compile(r"<[a-z0-9][a-z0-9_-]{0,62}>")
"""A token's name in prompts. Without < and >, it is a valid file name on every system."""

# dti: paper, section 3.2 (kappa) and appendix D.4 (magnitude).
# ti: diffusers' example, which is AdamW with torch's defaults, from a copy of the initializer.
_METHOD_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "dti": {"kappa": 1e-4, "weight_decay": 0.0, "magnitude": "vocabulary"},
    "ti": {"kappa": 0.0, "weight_decay": 1e-2, "magnitude": "initializer"},
}


# Fields that belong to the other method, and why they must be 0.
_ZERO_FIELDS: Mapping[Method, Mapping[str, str]] = {
    "dti": {"weight_decay": "its norm is fixed", "anchor_weight": "it has a prior"},
    "ti": {
        "kappa": "it has no prior",
        "beta2": "its AdamW has its own",
        "ema_decay": "it averages directions",
    },
}


def _method_default(name: str) -> Callable[[dict[str, Any]], Any]:
    """Return a default factory that looks a field's default up by the method."""
    # `method` is missing from the validated fields if it was itself rejected.
    return lambda validated: _METHOD_DEFAULTS[validated.get("method", "dti")][name]


class TrainConfig(BaseModel):
    """The training config of one subject.

    Values from users go through `parse`, which raises errors of this package. The fields of both
    methods are side by side: docs/decisions/0012-flat-train-config.md says why.
    """

    # Strict, and no unknown fields: a misspelt name would leave a default in place, and hours later
    # a token that was trained with other values than those asked for.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    method: Method = Field(
        default="dti", description="dti: directions on the sphere; ti: free vectors by AdamW"
    )
    steps: int = Field(gt=0, le=MAX_TRAINING_STEPS, description="optimizer steps per subject")
    batch_size: int = Field(gt=0, le=MAX_BATCH_SIZE, description="samples per subject and step")
    resolution: int = Field(
        ge=8,
        le=MAX_RESOLUTION,
        multiple_of=8,
        description="side of the square crops, in pixels",
    )
    lr: float = Field(
        gt=0,
        le=1,
        description="learning rate; dti: each step turns by atan(lr) radians; ti: AdamW's",
    )
    kappa: float = Field(
        default_factory=_method_default("kappa"),
        ge=0,
        le=1e12,
        description="dti: concentration of the von Mises-Fisher prior",
    )
    beta2: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="dti: decay of the running gradient norm; 0: unit gradients",
    )
    schedule: Schedule = Field(
        default="constant", description="learning rate schedule; cosine: falls to 0 over the steps"
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="dti: decay of the moving average that the token keeps; 0: no averaging",
    )
    init: Init = Field(
        default="words",
        description="initial vectors: the initializer's rows, or the encoder's last hidden states",
    )
    anchor_weight: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="ti: weight of the distance to the initial vectors",
    )
    weight_decay: float = Field(
        default_factory=_method_default("weight_decay"),
        ge=0,
        le=1,
        description="ti: AdamW's weight decay",
    )
    magnitude: Magnitude = Field(
        default_factory=_method_default("magnitude"),
        description="norm of the vectors; dti: fixed, ti: initial",
    )
    captions: CaptionFamily = Field(default="object", description="family of caption templates")
    timesteps: Timesteps = Field(default="uniform", description="how times are sampled per batch")
    shift: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="timestep shift s towards noise: u -> s u / (1 + (s - 1) u)",
    )
    pooling: Pooling = Field(
        default="eos",
        description="where models with a pooled embedding pool the prompt; legacy: at the token",
    )
    instruction: bool = Field(
        default=False, description="prefix captions with the model's instruction, if it has one"
    )
    eval_every: int = Field(
        default=20,
        gt=0,
        le=MAX_TRAINING_STEPS,
        description="steps between evaluations of the fixed-batch loss",
    )
    patience: int = Field(
        default=0,
        ge=0,
        le=MAX_TRAINING_STEPS,
        description="early stopping after so many evaluations without improvement; 0: never",
    )
    min_improvement: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="improvement that counts, as a share of the loss's whole fall so far",
    )

    @model_validator(mode="after")
    def _reject_contradictions(self) -> Self:
        if contradictions := list(self._contradictions()):
            raise ValueError("; ".join(contradictions))
        return self

    def _contradictions(self) -> Iterator[str]:
        for name, reason in _ZERO_FIELDS[self.method].items():
            if value := getattr(self, name):
                yield f"{name} must be 0 with method {self.method!r}, not {value}: {reason}"

    def incompatibility_with(self, other: "TrainConfig") -> str | None:
        """Return why subjects with these two configs cannot share a batch; None if they can.

        A batch has one shape, and one optimizer moves all of its rows. All else is per subject.
        """
        differing = [
            f"{name} {getattr(self, name)!r}, not {getattr(other, name)!r}"
            for name in ("method", "batch_size", "resolution", "beta2")
            if getattr(self, name) != getattr(other, name)
        ]
        return ", ".join(differing) or None

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Self:
        """Validate the values and return the config.

        Raises: ConfigurationError that names each invalid field, what it allows and what it got.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigurationError(f"invalid training config: {explain(error, cls)}") from error

    def changed(self, **changes: object) -> Self:
        """Return a copy with some values replaced, validated as a whole. Raises as `parse`."""
        # Validated anew, since `model_copy` would skip the rules between fields. The dump fixes
        # what came from a default: a change of the method does not bring that method's defaults
        # along, which is why `recipes.standard_ti` names them.
        return self.parse(self.model_dump() | changes)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return a validation error as one line: each invalid field, what it allows, what it got."""
    allowed: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        # Below the top level, `loc` also holds the members of a union and the keys of a mapping.
        # An error of a model validator has no location: it is about several fields.
        first, *rest = map(str, detail["loc"] or [""])
        field = ".".join([first, *(name for name in rest if name.isidentifier())])
        match detail["type"]:
            case "default_factory_not_called":
                continue  # a consequence of another error
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
                got[field] = f", got {detail['input']!r:.80}"
        allowed.setdefault(field, []).append(reason)
    return "; ".join(
        f"{field} {' or '.join(reasons)}{got.get(field, '')}".lstrip()
        for field, reasons in allowed.items()
    )

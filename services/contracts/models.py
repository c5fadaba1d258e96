"""The models that a service offers to train for and to generate with: names, weights, recipes.

A file of JSON, `{"NAME": {"weights": ..., "recipe": ...}, ...}`, or the miniature alone. Loads no
torch: the API reads it, too, and never opens weights.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from dti_engine.config import DtypeName
from dti_engine.recipes import RECIPES
from services.contracts.jobs import Label, WireModel
from services.errors import SettingsError, UnknownModelError


class GenerationSettings(WireModel):
    """How a model is generated with."""

    images: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="in one call of the model; None: as many as are worth it, which is tried out",
    )
    waiting: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="images of one engine, at most; a quarter of the places is kept from jobs",
    )
    min_engines: int = Field(default=1, ge=0, description="that stay while nobody asks")
    max_engines: int = Field(default=4, ge=1, description="that the requests are worth at most")
    gpus: float | None = Field(default=None, ge=0, description="of one engine; None: a worker's")
    cpus: float | None = Field(
        default=None, ge=0, description="of one engine; None: a worker's, or 0 beside no GPU"
    )
    compile: bool = Field(default=False, description="the denoiser: minutes at the start")
    safety: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="MODULE:FUNCTION that is given each image, and returns why it may not be "
        "shown, or None",
    )


class ServedModel(WireModel):
    """A model under the name that clients know it by, which is its pool of workers, too."""

    weights: str = Field(min_length=1, description="miniature, a folder, or a name on the hub")
    recipe: str = Field(description="what subjects are trained by unless a job says otherwise")
    slots: int = Field(default=8, ge=1, le=1024, description="subjects of one worker at a time")
    gpus: float = Field(default=1, ge=0, description="of one worker")
    cpus: float = Field(default=1, ge=0, description="of one worker")
    min_workers: int = Field(default=0, ge=0, description="that stay while there is nothing to do")
    max_workers: int = Field(default=8, ge=1, description="that a backlog is worth at most")
    device: str = Field(default="auto", description="auto, cpu, cuda")
    dtype: DtypeName = Field(default="auto", description="of the model")
    judge: str | None = Field(
        default=None, description="who scores tokens, as of `dti train --judge`; None: its own"
    )
    generation: GenerationSettings = Field(
        default=GenerationSettings(), description="of the endpoint"
    )

    @property
    def engine_gpus(self) -> float:
        return self.gpus if self.generation.gpus is None else self.generation.gpus

    @property
    def engine_cpus(self) -> float:
        """On processors alone, engines that stay would else keep workers out for good."""
        if self.generation.cpus is not None:
            return self.generation.cpus
        return self.cpus if self.engine_gpus else 0


ServedModels = Mapping[Label, ServedModel]

_GENERATION = "generate-"
"""Before the names of the pools in which images of jobs wait. No offer is called so."""

_LONGEST = 63 - len(_GENERATION)
"""Characters of an offer's name, so that both of its pools have one that can be part of a key."""


def generation_pool(model: str) -> str:
    """Where images of jobs wait; subjects wait in the pool that is called as the offer is."""
    return f"{_GENERATION}{model}"


def model_of(pool: str) -> str:
    """The name of the offer that a pool belongs to."""
    return pool.removeprefix(_GENERATION)


MINIATURE: ServedModels = {
    "miniature": ServedModel(
        weights="miniature",
        recipe="miniature",
        slots=4,
        gpus=0,
        max_workers=1,
        generation=GenerationSettings(max_engines=1),
    )
}
"""What is offered where nothing else is said."""


def find_model(name: str, models: ServedModels) -> ServedModel:
    """Raises: UnknownModelError."""
    if name not in models:
        raise UnknownModelError(f"there is no model {name!r:.200}: there are {', '.join(models)}")
    return models[name]


_MODELS: TypeAdapter[dict[Label, ServedModel]] = TypeAdapter(dict[Label, ServedModel])


def read_models(path: Path) -> ServedModels:
    """The offers in a file of JSON. Raises: SettingsError."""
    try:
        models = _MODELS.validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError(f"{str(path)!r}: {place}: {first['msg']}") from error
    if not models:
        raise SettingsError(f"{str(path)!r} offers no model: name at least one")
    for name, model in models.items():
        if name.startswith(_GENERATION) or len(name) > _LONGEST:
            raise SettingsError(
                f"{str(path)!r}: {name!r} can be no offer's name: give one of at most {_LONGEST} "
                f"characters that does not begin with {_GENERATION!r}, as pools of images do"
            )
        if model.recipe not in RECIPES:
            raise SettingsError(
                f"{str(path)!r}: {name} has the recipe {model.recipe!r}; known are "
                f"{', '.join(sorted(RECIPES))}"
            )
    return models

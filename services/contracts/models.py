"""The catalog of models that a service trains for and generates with: weights, recipes, limits.

The catalog is a JSON file, `{"NAME": {"weights": ..., "recipe": ...}, ...}`; without a file, the
service serves the miniature alone. This module loads no torch: the API reads the catalog too, and
never opens weights.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from dti_engine.config import DtypeName
from dti_engine.recipes import RECIPES, recipe
from services import logs
from services.contracts.cost import ModelLimits, OrderLimits, model_limits
from services.contracts.jobs import Label, WireModel
from services.contracts.node_labels import LabelSelector
from services.errors import SettingsError, UnknownModelError

log = logs.logger(__name__)

MAX_CALIBRATED_BATCH_SIZE = 16
"""The largest batch that an engine tries when it measures its batch size."""


class EngineSettings(WireModel):
    """The settings of one engine. Limits are elsewhere, since they change no engine."""

    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="largest number of images in one batch; None: measured when an engine starts",
    )
    queue_size: int = Field(
        default=128,
        ge=1,
        le=4096,
        description="images that wait in one engine at most; a tenant may have as many as it "
        "leaves free, and jobs may fill three quarters",
    )
    gpus: float | None = Field(
        default=None, ge=0, description="GPUs of one engine; None: as many as a worker"
    )
    cpus: float | None = Field(
        default=None,
        ge=0,
        description="processor cores of one engine; None: as many as a worker, or 0 for an engine "
        "without a GPU",
    )
    labels: LabelSelector | None = Field(
        default=None,
        description="labels of the nodes that engines may run on; None: as of workers",
    )
    compile: bool = Field(
        default=False, description="compile the denoiser, which delays the start by minutes"
    )
    safety_checker: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="MODULE:FUNCTION that takes an image and returns the reason to withhold it, "
        "or None",
    )


class GenerationSettings(EngineSettings):
    """The settings of a model's engines, and how many of them may run."""

    min_engines: int = Field(default=1, ge=0, description="engines that stay up without requests")
    max_engines: int = Field(default=4, ge=1, description="engines that run at most under load")


class LoadedModel(WireModel):
    """The weights that a worker or an engine loads, and the device and node that it takes."""

    weights: str = Field(min_length=1, description="miniature, a folder, or a name on the hub")
    device: str = Field(default="auto", description="auto, cpu, cuda")
    dtype: DtypeName = Field(default="auto", description="number format of the model")
    gpus: float = Field(default=1, ge=0, description="GPUs of one worker")
    cpus: float = Field(default=1, ge=0, description="processor cores of one worker")
    labels: LabelSelector = Field(
        default={},
        description="labels of the nodes that workers may run on, such as "
        '{"ray.io/accelerator-type": "in(A100, H100)"}; {}: any',
    )


class EngineModel(LoadedModel):
    """The part of a served model that an engine uses: a change of it replaces the engines."""

    generation: EngineSettings = Field(
        default=EngineSettings(), description="settings of an engine"
    )

    @property
    def engine_gpus(self) -> float:
        """Return the number of GPUs of one engine."""
        return self.gpus if self.generation.gpus is None else self.generation.gpus

    @property
    def engine_cpus(self) -> float:
        """Return the number of processor cores that one engine reserves."""
        if self.generation.cpus is not None:
            return self.generation.cpus
        # On a machine without GPUs, the engines that stay up would otherwise reserve the cores
        # that training workers need.
        return self.cpus if self.engine_gpus else 0

    @property
    def engine_labels(self) -> Mapping[str, str]:
        """Return the selector of the nodes that engines may run on."""
        return self.labels if self.generation.labels is None else self.generation.labels


class WorkerModel(LoadedModel):
    """The part of a served model that a worker uses: a change of it replaces the workers."""

    slots: int = Field(
        default=8, ge=1, le=1024, description="subjects that one worker trains at a time"
    )
    scorer: str | None = Field(
        default=None,
        description="scorer of validation images, as in `dti train --scorer`; None: the model's "
        "own",
    )


class ServedModel(WorkerModel):
    """A model under its public name, which also names its pool of training workers."""

    recipe: str = Field(description="the recipe of training jobs that name none")
    min_workers: int = Field(default=0, ge=0, description="workers that stay up without work")
    max_workers: int = Field(default=8, ge=1, description="workers that run at most")
    generation: GenerationSettings = Field(
        default=GenerationSettings(), description="settings of the engines"
    )
    limits: OrderLimits = Field(
        default=OrderLimits(), description="the largest orders that the service takes"
    )

    def order_limits(self) -> ModelLimits:
        """Return the limits of orders for this model, in numbers."""
        return model_limits(self.limits, recipe(self.recipe))

    @property
    def image_pixels(self) -> int:
        """Return the pixels of an image of the model's own size, as far as its recipe tells."""
        return recipe(self.recipe).resolution ** 2

    def for_worker(self) -> WorkerModel:
        """Return the part that a worker uses."""
        return WorkerModel.model_validate(self.model_dump(include=set(WorkerModel.model_fields)))

    def engine_fields(self) -> dict[str, Any]:
        """Return the fields of the `EngineModel`, as JSON, as far as they are given.

        Defaults and null are left out, so that the Helm chart has the same from its values.
        """
        fields = self.model_dump(
            mode="json",
            exclude_unset=True,
            exclude_none=True,
            include=set(EngineModel.model_fields),
            exclude={"generation": {"min_engines", "max_engines"}},
        )
        if not fields.get("generation"):  # Limits were the only settings of engines.
            fields.pop("generation", None)
        return fields

    def for_engine(self) -> EngineModel:
        """Return the part that an engine uses."""
        return EngineModel.model_validate(self.engine_fields())


ServedModels = Mapping[Label, ServedModel]

_GENERATION = "generate-"
"""The prefix of pools of generation jobs. No model's name may begin with it."""

_MAX_NAME_LENGTH = 63 - len(_GENERATION)
"""The longest name of a model whose generation pool still fits a label of the ledger."""


def generation_pool(model: str) -> str:
    """Return the pool of a model's generation jobs; its training pool has the model's own name."""
    return f"{_GENERATION}{model}"


def model_of(pool: str) -> str:
    """Return the name of the model that a pool belongs to."""
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
"""The catalog of a service that is given no file."""


def find_model(name: str, models: ServedModels) -> ServedModel:
    """Return a model of the catalog. Raise UnknownModelError if there is none of that name."""
    if name not in models:
        raise UnknownModelError(f"there is no model {name!r:.200}: there are {', '.join(models)}")
    return models[name]


_MODELS: TypeAdapter[dict[Label, ServedModel]] = TypeAdapter(dict[Label, ServedModel])


def read_models(path: Path) -> ServedModels:
    """Return the catalog in a JSON file. Raise SettingsError if it is not valid."""
    try:
        models = _MODELS.validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"])) or "the file"
        raise SettingsError(f"{str(path)!r}: {location}: {first['msg']}") from error
    if not models:
        raise SettingsError(f"{str(path)!r} lists no model: name at least one")
    for name, model in models.items():
        if name.startswith(_GENERATION) or len(name) > _MAX_NAME_LENGTH:
            raise SettingsError(
                f"{str(path)!r}: {name!r} cannot be a model's name: give one of at most "
                f"{_MAX_NAME_LENGTH} characters that does not begin with {_GENERATION!r}, which "
                "pools of generation jobs begin with"
            )
        if model.recipe not in RECIPES:
            raise SettingsError(
                f"{str(path)!r}: {name} has the recipe {model.recipe!r}; known are "
                f"{', '.join(sorted(RECIPES))}"
            )
    return models


class ModelsFile:
    """Notices that the models file has other valid content.

    The content is compared, since a ConfigMap is changed by replacing a symbolic link, so that
    neither the times nor the inode of the file tell. Invalid content is logged, and the process
    goes on with what it has: a restart would only fail.
    """

    def __init__(self, path: Path | None) -> None:
        """Remember the present content. path: None: there is no file, and nothing changes."""
        self._path = path
        self._seen = self._digest()

    def has_changed(self) -> bool:
        """Return whether the file has other valid content than at the start."""
        digest = self._digest()
        if digest in (None, self._seen) or self._path is None:
            return False
        self._seen = digest
        try:
            read_models(self._path)
        except SettingsError as error:
            log.error("models file is invalid: the models before stay", error=str(error)[:300])
            return False
        return True

    def _digest(self) -> str | None:
        """Return the digest of the content; None while the file cannot be read."""
        try:
            return hashlib.sha256(self._path.read_bytes()).hexdigest() if self._path else None
        except OSError:
            return None

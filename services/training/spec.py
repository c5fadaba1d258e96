"""The specification of a training worker, which can be sent to another machine. Without torch."""

from typing import Self

from services.contracts.jobs import Label
from services.contracts.models import ServedModel, WorkerModel
from services.settings import WorkerSettings


class WorkerSpec(WorkerSettings):
    """The specification of a worker. Credentials are in its environment instead.

    It has only what a worker uses: a worker whose specification changes is replaced.
    """

    pool: Label
    model: WorkerModel

    @classmethod
    def of(cls, settings: WorkerSettings, pool: str, model: ServedModel) -> Self:
        """Return the worker of a pool by the settings of a process, which may have more."""
        shared = settings.model_dump(include=set(WorkerSettings.model_fields))
        return cls(**shared, pool=pool, model=model.for_worker())

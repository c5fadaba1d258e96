"""Workers of a pool: their specification, and how the supervisor sees them. Without torch."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

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


WorkerState = Literal["pending", "running", "draining"]
"""Pending: the worker waits for resources, or loads its model."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker."""

    name: str
    state: WorkerState
    open_attempts: int = 0
    """Attempts that have not ended."""
    idle_s: float = 0.0
    """Time without an open attempt."""
    placed: bool = True
    """Whether it has its resources, and a process."""


Resources = Mapping[str, float]
"""Amounts by name, as Ray has them: CPU, GPU."""


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """A node, with what it has for all training workers together."""

    resources: Resources
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class UnresponsiveWorkers:
    """Finds workers to kill because they have not answered for too long.

    The process of such a worker is suspended, or hangs, or its host cannot be reached. Its lease
    has expired, but it still holds its place and its GPU.
    """

    def __init__(self, timeout_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s, self._clock = timeout_s, clock
        self._silent_since: dict[str, float] = {}

    def update(self, asked: Collection[str], answered: Collection[str]) -> list[str]:
        """Note who of all workers has answered; return the names of those to give up."""
        now = self._clock()
        silent = [name for name in asked if name not in answered]
        self._silent_since = {name: self._silent_since.get(name, now) for name in silent}
        return [name for name in silent if now - self._silent_since[name] >= self._timeout_s]

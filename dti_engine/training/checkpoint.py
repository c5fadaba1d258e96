"""A subject in training as a file: what it takes to go on as if nothing had happened.

A safetensors file with the `EmbeddingOptimizer.state` of its rows, per text encoder, and the
figures of its metrics; its metadata has a digest of all of it, and the `CheckpointHeader` as JSON.
It holds no random state, as draws depend on seed and step alone. Nothing in it is ever executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, Self

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from dti_engine.artifacts.manifest import AnyManifest
from dti_engine.artifacts.sealed import read_checked, write_checked
from dti_engine.config import explain
from dti_engine.errors import CheckpointError
from dti_engine.files import atomic_write
from dti_engine.optim.embeddings import EmbeddingOptimizer
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.provenance import Provenance
from dti_engine.training.slot import TrainingSlot

SCHEMA_VERSION = 1

_METADATA_KEY = "dti_checkpoint"
_REPORTS = "metrics"  # (steps, figures); no encoder's state, as those have a slash in their names
_FIGURES = tuple(each.name for each in fields(StepMetrics))[2:]  # all but subject and step
_MAX_BYTES = 64 * 2**20  # a checkpoint is some KB; more is a mistake, found before it is in memory


class CheckpointHeader(BaseModel):
    """What a checkpoint says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    provenance: Provenance
    slot: int = Field(ge=0)  # that it had
    step: int = Field(gt=0)  # steps done
    first_fixed_loss: float = Field(allow_inf_nan=False)  # before its first step


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A subject in training, after a step whose report was read."""

    header: CheckpointHeader
    states: Mapping[str, Mapping[str, Tensor]]  # encoder -> `EmbeddingOptimizer.state`, on the CPU
    metrics: tuple[StepMetrics, ...]  # one per step
    path: Path | None = None  # that it was loaded from

    @classmethod
    def of(
        cls, occupant: TrainingSlot, slot: int, learners: Mapping[str, EmbeddingOptimizer]
    ) -> Self:
        """That of an occupant who has done a step, and whose steps are all read."""
        states = {
            name: {key: value.cpu() for key, value in learner.state(occupant.rows[name]).items()}
            for name, learner in learners.items()
        }
        header = CheckpointHeader(
            provenance=occupant.provenance,
            slot=slot,
            step=occupant.step,
            first_fixed_loss=occupant.first_fixed_loss,
        )
        return cls(header, states, tuple(occupant.metrics))

    def require_fit(
        self, occupant: TrainingSlot, learners: Mapping[str, EmbeddingOptimizer]
    ) -> None:
        """Raises: CheckpointError if it is of another training than the occupant's."""
        found = self.header.provenance.changes(occupant.provenance)
        for name, span in occupant.rows.items():
            given, wanted = _forms(self.states.get(name, {})), _forms(learners[name].state(span))
            if not found and given != wanted:
                found.append(f"the state for {name} was {given}, is now {wanted}")
        if found:
            raise CheckpointError(
                f"the checkpoint{f' {str(self.path)!r}' if self.path else ''} does not fit: "
                f"{'; '.join(found)}. Give what it was begun with, or delete it to start afresh"
            )

    def restore(self, occupant: TrainingSlot, learners: Mapping[str, EmbeddingOptimizer]) -> None:
        """Bring an occupant whom it fits, and its rows, which are seated, to where they were."""
        for name, span in occupant.rows.items():
            learners[name].restore(span, self.states[name])
        occupant.resume_from(self.metrics, self.header.first_fixed_loss)

    def to_bytes(self) -> bytes:
        """The file's content; the same checkpoint always gives the same bytes."""
        tensors = {
            f"{encoder}/{name}": value
            for encoder, state in self.states.items()
            for name, value in state.items()
        }
        # The widest of the learners' dtypes holds every figure exactly: none was computed in wider.
        dtypes = [value.dtype for value in tensors.values()]
        widest = torch.float64 if torch.float64 in dtypes else torch.float32
        figures = [[getattr(each, name) for name in _FIGURES] for each in self.metrics]
        tensors[_REPORTS] = torch.tensor(figures, dtype=widest)
        return write_checked(_METADATA_KEY, self.header.model_dump_json(), tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The checkpoint in a file's content.

        Raises: CheckpointError if it is none, or is damaged or newer.
        """
        if len(data) > _MAX_BYTES:
            raise CheckpointError(f"larger than {_MAX_BYTES} bytes, so not a checkpoint")
        try:
            tensors = safetensors.torch.load(data)
            header = _read_header(data, tensors)
        except SafetensorError as error:
            raise CheckpointError(f"not a safetensors file, or damaged: {error}") from error
        except ValidationError as error:
            raise CheckpointError(f"bad header: {explain(error, CheckpointHeader)}") from error
        figures = tensors.pop(_REPORTS, torch.zeros(0))
        steps = header.provenance.config.steps
        if not header.step < steps or figures.shape != (header.step, len(_FIGURES)):
            raise CheckpointError(
                f"it contradicts itself: step {header.step} of {steps}, metrics {[*figures.shape]}"
            )
        name = header.provenance.subject
        metrics = [StepMetrics(name, 1 + step, *row) for step, row in enumerate(figures.tolist())]
        states: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            encoder, _, key = name.rpartition("/")
            states.setdefault(encoder, {})[key] = value
        return cls(header, states, tuple(metrics))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises: OutputError if it cannot be written."""
        atomic_write(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote. Raises: CheckpointError if it cannot be used, and why."""
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            return replace(cls.from_bytes(data), path=path)
        except OSError as error:
            raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}") from error
        except CheckpointError as error:
            raise CheckpointError(
                f"the checkpoint {str(path)!r} cannot be used: {error}. Delete it to start afresh"
            ) from error


def _forms(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{each.dtype} {[*each.shape]}" for name, each in state.items()}


def _read_header(data: bytes, tensors: Mapping[str, Tensor]) -> CheckpointHeader:
    """The header in a safetensors file that was found valid, if the file is as it was written."""
    found = read_checked(_METADATA_KEY, data, tensors)
    if found is None:
        raise CheckpointError("it has no header, so it was not saved as a checkpoint")
    version = AnyManifest.model_validate_json(found.text).schema_version
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"its schema is {version}, this engine reads up to {SCHEMA_VERSION}; update the engine"
        )
    if not found.is_intact:
        raise CheckpointError("damaged: its content has another digest than it was written with")
    return CheckpointHeader.model_validate_json(found.text)

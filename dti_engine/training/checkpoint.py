"""A checkpoint: the training state of one subject as a file, to resume as if never interrupted.

A safetensors file with the `EmbeddingOptimizer.state` of the subject's rows, per text encoder, and
its metrics; the metadata has a digest of all of it, and the `CheckpointHeader` as JSON. There is no
random state to save, as draws depend on seed and step alone. Nothing in the file is ever executed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from dti_engine.artifacts.manifest import AnyManifest
from dti_engine.artifacts.sealed import load_tensors, read_checked, write_checked
from dti_engine.config import explain
from dti_engine.errors import CheckpointError
from dti_engine.files import atomic_write
from dti_engine.optim.embeddings import EmbeddingOptimizer
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.provenance import Provenance
from dti_engine.training.slot import TrainingSlot

SCHEMA_VERSION = 1

_METADATA_KEY = "dti_checkpoint"
_METRICS = "metrics"  # (steps, columns); cannot clash with a state, whose name has a slash
_COLUMNS = tuple(each.name for each in fields(StepMetrics))[2:]  # all but subject and step
_MAX_BYTES = 64 * 2**20  # a checkpoint has some KB; a larger file is refused before it is read


class CheckpointHeader(BaseModel):
    """The header of a checkpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    provenance: Provenance
    slot: int = Field(ge=0)  # index of the slot it was trained in
    step: int = Field(gt=0)  # steps done
    first_fixed_loss: float = Field(allow_inf_nan=False)  # before its first step


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The training state of a subject after a step whose metrics were flushed."""

    header: CheckpointHeader
    states: Mapping[str, Mapping[str, Tensor]]  # encoder -> `EmbeddingOptimizer.state`, on the CPU
    metrics: tuple[StepMetrics, ...]  # one per step
    path: Path | None = None  # of the file it was loaded from

    @classmethod
    def of(
        cls, slot: TrainingSlot, index: int, optimizers: Mapping[str, EmbeddingOptimizer]
    ) -> Self:
        """Return the checkpoint of a slot that has done at least a step, all of them flushed."""
        # `state` copies, so that training may go on while another thread writes the checkpoint.
        states = {
            name: {key: value.cpu() for key, value in optimizer.state(slot.rows[name]).items()}
            for name, optimizer in optimizers.items()
        }
        header = CheckpointHeader(
            provenance=slot.provenance,
            slot=index,
            step=slot.step,
            first_fixed_loss=slot.first_fixed_loss,
        )
        return cls(header, states, tuple(slot.metrics))

    def require_match(
        self, slot: TrainingSlot, optimizers: Mapping[str, EmbeddingOptimizer]
    ) -> None:
        """Check that the checkpoint is of the same training as the slot.

        Raises:
            CheckpointError: It is not; the message lists every difference.
        """
        changes = self.header.provenance.changes(slot.provenance)
        for name, span in slot.rows.items():
            saved, expected = (
                _layout(self.states.get(name, {})),
                _layout(optimizers[name].state(span)),
            )
            # Only if the provenance matches. Otherwise a difference there explains the other
            # layout, and is what the user can correct.
            if not changes and saved != expected:
                changes.append(f"the state for {name} was {saved}, is now {expected}")
        if changes:
            raise CheckpointError(
                f"the checkpoint{f' {str(self.path)!r}' if self.path else ''} does not match: "
                f"{'; '.join(changes)}. Use the original values, or delete it to start afresh"
            )

    def restore(self, slot: TrainingSlot, optimizers: Mapping[str, EmbeddingOptimizer]) -> None:
        """Set a matching slot and its rows, which must be added already, to the saved state."""
        for name, span in slot.rows.items():
            optimizers[name].restore(span, self.states[name])
        slot.resume_from(self.metrics, self.header.first_fixed_loss)

    def to_bytes(self) -> bytes:
        """Return the content of the file; the same checkpoint always gives the same bytes."""
        tensors = {
            f"{encoder}/{name}": value
            for encoder, state in self.states.items()
            for name, value in state.items()
        }
        # The widest dtype of the optimizers holds every value exactly: none was wider.
        dtypes = [value.dtype for value in tensors.values()]
        widest = torch.float64 if torch.float64 in dtypes else torch.float32
        rows = [[getattr(each, name) for name in _COLUMNS] for each in self.metrics]
        tensors[_METRICS] = torch.tensor(rows, dtype=widest)
        return write_checked(_METADATA_KEY, self.header.model_dump_json(), tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Return the checkpoint in the content of a file.

        Raises:
            CheckpointError: It is not a checkpoint, is damaged, or has a newer schema.
        """
        if len(data) > _MAX_BYTES:
            raise CheckpointError(f"it is larger than {_MAX_BYTES} bytes, so not a checkpoint")
        try:
            tensors = load_tensors(data)
            header = _read_header(data, tensors)
        except SafetensorError as error:
            raise CheckpointError(f"not a safetensors file, or damaged: {error}") from error
        except ValidationError as error:
            raise CheckpointError(f"bad header: {explain(error, CheckpointHeader)}") from error
        values = tensors.pop(_METRICS, torch.zeros(0))
        steps = header.provenance.config.steps
        # Equal numbers are a contradiction too: a subject with all its steps has a token, and no
        # checkpoint.
        if not header.step < steps or values.shape != (header.step, len(_COLUMNS)):
            raise CheckpointError(
                f"it contradicts itself: step {header.step} of {steps}, metrics {[*values.shape]}"
            )
        name = header.provenance.subject
        metrics = [StepMetrics(name, 1 + step, *row) for step, row in enumerate(values.tolist())]
        states: dict[str, dict[str, Tensor]] = {}
        # Any names are accepted here; `require_match` compares them with what the slot needs.
        for name, value in tensors.items():
            # From the right: the name of a state has no slash.
            encoder, _, key = name.rpartition("/")
            states.setdefault(encoder, {})[key] = value
        return cls(header, states, tuple(metrics))

    def save(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            OutputError: It cannot be written.
        """
        atomic_write(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote.

        Raises:
            CheckpointError: It cannot be read, or as `from_bytes`.
        """
        try:
            with path.open("rb") as file:
                # One byte more than allowed tells that a file is too large without reading the
                # rest.
                data = file.read(_MAX_BYTES + 1)
            return replace(cls.from_bytes(data), path=path)
        except OSError as error:
            raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}") from error
        except CheckpointError as error:
            raise CheckpointError(
                f"the checkpoint {str(path)!r} cannot be used: {error}. Delete it to start afresh"
            ) from error


def _layout(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{each.dtype} {[*each.shape]}" for name, each in state.items()}


def _read_header(data: bytes, tensors: Mapping[str, Tensor]) -> CheckpointHeader:
    """Return the header of a valid safetensors file, after checking schema and digest.

    Raises:
        CheckpointError: It has no header, a newer schema, or another digest.
    """
    checked = read_checked(_METADATA_KEY, data, tensors)
    if checked is None:
        raise CheckpointError("it has no header, so it is not a checkpoint")
    # The version comes before the digest and the fields: of a newer file, neither is known.
    version = AnyManifest.model_validate_json(checked.text).schema_version
    if version > SCHEMA_VERSION:
        raise CheckpointError(
            f"its schema is {version}, this engine reads up to {SCHEMA_VERSION}; update the engine"
        )
    if not checked.is_intact:
        raise CheckpointError("it is damaged: its content does not have the digest in its header")
    return CheckpointHeader.model_validate_json(checked.text)

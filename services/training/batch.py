"""Subjects of any tenants side by side: the engine's packed batch, and who sits in which slot.

What goes wrong with one subject is found to be that one's wherever that can be told.

Slots among tenants: nobody waits for the subjects of one who has more slots to end.

A subject of a tenant with at least two slots fewer than another takes one of the other's. Whoever
loses it waits aside, with what it has learned, and goes on as soon as there is room. So of two
tenants each soon has half of the slots, however much the other has submitted and however long its
subjects take; a small job takes about as long as it would alone.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dti_engine import devices
from dti_engine.artifacts.artifact import Artifact
from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import CheckpointError, DTIError
from dti_engine.subject import Subject
from dti_engine.training.checkpoint import Checkpoint
from dti_engine.training.metrics import StepMetrics
from dti_engine.training.result import TrainingResult
from dti_engine.training.slot import TrainingSlot
from dti_engine.training.trainer import Trainer
from services.ledger.attempts import Attempt
from services.training.loader import LoadedSubject


class OutOfMemoryError(Exception):
    """It does not fit on the device."""


class DeviceError(Exception):
    """The device has failed, and will fail everybody in this process from now on."""


_OF_DEVICES = ("CUDA error", "cuDNN error", "CUBLAS", "NCCL error")
"""What torch says of them; after some of these no later call works."""


@dataclass(eq=False)
class WorkerSlot:
    """A subject at work."""

    prepared: LoadedSubject
    slot: int
    resumed_at: int
    """Steps that earlier attempts had done."""
    warnings: list[str]
    device_seconds: float = 0.0
    """Its share of the device: a step's time goes to all who took part, in equal parts."""
    kept_at: float = 0.0
    """When its checkpoint was last taken, or it was seated."""
    left_at: Checkpoint | None = None
    """Where it goes on from once it has a slot again; None before its first step."""

    @property
    def attempt(self) -> Attempt:
        return self.prepared.attempt

    @property
    def tenant(self) -> str:
        return self.prepared.tenant


@dataclass(frozen=True, eq=False)
class FinishedSlot:
    """A subject that has left its slot: with an artifact, or with an error."""

    seat: WorkerSlot
    artifact: Artifact | None = None
    report: StepMetrics | None = None
    error: Exception | None = None

    @property
    def can_be_retried(self) -> bool:
        """Whether another attempt may do better: what the engine foresaw will come again."""
        return not isinstance(self.error, DTIError)


class PackedBatch:
    """Slots of one shape over one model."""

    def __init__(
        self,
        backbone: Backbone,
        config: TrainConfig,
        num_slots: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.num_slots = num_slots
        self.seats: dict[str, WorkerSlot] = {}
        """By the id of the subject."""
        self.aside: list[WorkerSlot] = []
        """Those who have no slot for now, in the order in which they lost it."""
        self._clock = clock
        self._slot_of = dict[str, int]()
        self._trainer = Trainer(backbone, config, num_slots=num_slots, on_added=self._note)

    def _note(self, slot: int, occupant: TrainingSlot) -> None:
        self._slot_of[occupant.subject.id] = slot

    @property
    def has_room(self) -> bool:
        return len(self.seats) < self.num_slots

    def seat(self, prepared: LoadedSubject) -> WorkerSlot:
        """Begin with a subject, from where an earlier attempt had got to if that is of use.

        Raises: SubjectError if it cannot be trained; OutOfMemoryError; DeviceError; whatever else
        breaks, after which it is not seated.
        """
        subject, checkpoint = prepared.subject, prepared.checkpoint
        warnings = list(prepared.warnings)
        try:
            self._sit_down(subject, checkpoint)
        except CheckpointError as error:
            warnings.append(f"began afresh: {error}")
            checkpoint = None
            self._sit_down(subject, None)
        seat = WorkerSlot(
            prepared,
            self._slot_of.pop(subject.id),
            checkpoint.header.step if checkpoint else 0,
            warnings,
            kept_at=self._clock(),
        )
        self.seats[subject.id] = seat
        return seat

    def _sit_down(self, subject: Subject, checkpoint: Checkpoint | None) -> None:
        try:
            self._trainer.add(subject, checkpoint)
        except RuntimeError as error:
            raise _told_apart(error) from error

    def step(self) -> list[FinishedSlot]:
        """One step of all who are seated.

        Raises: OutOfMemoryError; DeviceError; whatever else breaks so that nobody knows whose it
        is. Let all go then.
        """
        began = self._clock()
        try:
            ended = self._ended(self._trainer.step())
        except Exception as error:
            found = _told_apart(error)
            if found is not error:
                raise found from error
            ended = self._find_out_who()
        share = (self._clock() - began) / max(1, len(self.seats) + len(ended))
        for seat in (*self.seats.values(), *(each.seat for each in ended)):
            seat.device_seconds += share
        return ended

    def _find_out_who(self) -> list[FinishedSlot]:
        """A step broke in a way that the engine does not foresee: let each take one by itself."""
        ended = self._ended(self._trainer.flush())
        for seat in list(self.seats.values()):
            try:
                ended += self._ended(self._trainer.step_isolated(seat.slot))
            except Exception as error:
                self._trainer.remove(seat.slot)
                reason = f"a step broke: {type(error).__name__}: {error}"[:500]
                ended.append(FinishedSlot(self._take(seat), error=RuntimeError(reason)))
        return ended

    def progress(self, seat: WorkerSlot) -> tuple[int, int, float | None]:
        """Steps done, steps in all, and the latest loss."""
        occupant = self._occupant(seat)
        loss = occupant.metrics[-1].loss if occupant.metrics else None
        return occupant.step, occupant.config.steps, loss

    def collect(self) -> list[FinishedSlot]:
        """Read what is still on the device, so that `checkpoint` can be called."""
        return self._ended(self._trainer.flush())

    def checkpoint(self, seat: WorkerSlot) -> tuple[int, bytes] | None:
        """After `collect`: steps done, and what it takes to go on from there; None before any."""
        seat.kept_at = self._clock()
        found = seat.left_at if seat in self.aside else self._checkpoint(seat)
        return (found.header.step, found.to_bytes()) if found else None

    def _checkpoint(self, seat: WorkerSlot) -> Checkpoint | None:
        return self._trainer.checkpoint(seat.slot) if self._occupant(seat).step else None

    def set_aside(self, seat: WorkerSlot) -> None:
        """After `collect`: let it wait, with what it has learned, until `bring_back`."""
        seat.left_at = self._checkpoint(seat)
        self.vacate(seat)
        self.aside.append(seat)

    def bring_back(self, seat: WorkerSlot) -> None:
        """Give one that is aside a slot that is free, which need not be the one it had.

        Raises: what `seat` raises, after which it is gone.
        """
        self.aside.remove(seat)
        self._sit_down(seat.prepared.subject, seat.left_at)
        seat.slot = self._slot_of.pop(seat.prepared.subject.id)
        self.seats[seat.prepared.subject.id] = seat

    def vacate(self, seat: WorkerSlot) -> None:
        """Let a subject go, whatever it has learned."""
        if seat in self.aside:
            self.aside.remove(seat)
        else:
            self._trainer.remove(self._take(seat).slot)

    def _take(self, seat: WorkerSlot) -> WorkerSlot:
        return self.seats.pop(seat.prepared.subject.id)

    def _occupant(self, seat: WorkerSlot) -> TrainingSlot:
        occupant = self._trainer.slots[seat.slot]
        assert occupant is not None
        return occupant

    def _ended(self, outcomes: list[TrainingResult]) -> list[FinishedSlot]:
        return [
            FinishedSlot(
                self._take(self.seats[each.subject.id]),
                each.artifact,
                each.metrics[-1] if each.metrics else None,
                each.error,
            )
            for each in outcomes
        ]


def _told_apart(error: Exception) -> Exception:
    """What kind of error it is, if it is one of those that say nothing of a subject."""
    if devices.is_out_of_memory(error):
        return OutOfMemoryError(f"{error}"[:200])
    if any(sign in str(error) for sign in _OF_DEVICES):
        return DeviceError(f"{error}"[:200])
    return error


def slots_of(seats: Iterable[WorkerSlot]) -> Counter[str]:
    """How many each tenant has."""
    return Counter(seat.tenant for seat in seats)


def is_owed(has: int, slots: Counter[str]) -> bool:
    """Whether a tenant who has so many gets one that is another's. Each such move makes shares more
    even, so that they come to rest.
    """
    return max(slots.values(), default=0) > has + 1

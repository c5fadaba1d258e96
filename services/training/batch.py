"""Packed batch: subjects of any tenants trained side by side, one in each slot.

An error is attributed to one subject wherever that is possible.

Slots are shared fairly among tenants: a tenant with at least two slots fewer than another takes one
of the other's. The subject that loses it is preempted: it waits with what it has learned, and
resumes as soon as there is room. So each of two tenants soon has half of the slots, however much
the other has submitted and however long its subjects take.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
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
from dti_engine.training.slot import TrainingSlot, caption_warnings
from dti_engine.training.trainer import Trainer
from services import logs
from services.ledger.attempts import Attempt
from services.training.loader import LoadedSubject

log = logs.logger(__name__)


class BatchError(Exception):
    """An unforeseen error of the training library, which need not be the fault of any subject."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"{cause}"[:200])
        self.reason = f"{type(cause).__name__}: {cause}"[:400]


class OutOfMemoryError(BatchError):
    """The batch does not fit into the memory of the device."""


class DeviceError(BatchError):
    """The device has failed, and fails everything in this process from now on."""


_DEVICE_ERRORS = ("CUDA error", "cuDNN error", "CUBLAS", "NCCL error")
"""Texts of torch's errors after which no later call to the device may work."""


@dataclass(eq=False)
class WorkerSlot:
    """A subject in training: in a slot, or preempted."""

    loaded: LoadedSubject
    index: int
    """The number of the slot that it has, or had."""
    resumed_at: int
    """Steps that earlier attempts had done."""
    warnings: list[str]
    device_s: float = 0.0
    """Its share of the device: the time of a step is divided equally among its subjects."""
    checkpointed_at: float = 0.0
    """When its latest checkpoint was taken, or else when it began."""
    preempted_at: Checkpoint | None = None
    """The state from which it resumes after a preemption; None before its first step."""

    @property
    def attempt(self) -> Attempt:
        """The attempt that trains the subject."""
        return self.loaded.attempt

    @property
    def tenant(self) -> str:
        """The tenant whose subject it is."""
        return self.loaded.tenant


@dataclass(frozen=True, eq=False)
class FinishedSlot:
    """A subject that has left its slot, with an artifact or with an error."""

    slot: WorkerSlot
    artifact: Artifact | None = None
    metrics: StepMetrics | None = None
    error: Exception | None = None

    @property
    def may_retry(self) -> bool:
        """Return whether another attempt may succeed: an error of the engine would recur."""
        return not isinstance(self.error, DTIError)


class PackedBatch:
    """Slots of one batch shape over one model."""

    def __init__(
        self,
        backbone: Backbone,
        config: TrainConfig,
        num_slots: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.num_slots = num_slots
        self._backbone = backbone
        self.slots: dict[str, WorkerSlot] = {}
        """Subjects in a slot, by their ids."""
        self.preempted: list[WorkerSlot] = []
        """Subjects that have lost their slot, in the order in which they did."""
        self._clock = clock
        # The trainer chooses the slot: a resumed subject gets its former one if it is free.
        self._index_of = dict[str, int]()
        # A model that refuses the config would refuse it again: only other errors are retried.
        with library_call(DTIError):
            self._trainer = Trainer(
                backbone, config, num_slots=num_slots, on_added=self._note_index
            )

    def _note_index(self, index: int, slot: TrainingSlot) -> None:
        self._index_of[slot.subject.id] = index

    @property
    def has_room(self) -> bool:
        """Return whether a slot is free."""
        return len(self.slots) < self.num_slots

    def add(self, loaded: LoadedSubject) -> WorkerSlot:
        """Put a subject into a free slot, from the checkpoint of an earlier attempt if it fits.

        Raises:
            SubjectError: It cannot be trained.
            BatchError: The library failed. The subject has no slot then.
        """
        subject, checkpoint = loaded.subject, loaded.checkpoint
        with library_call(DTIError):
            warnings = [*loaded.warnings, *caption_warnings(subject, self._backbone)]
        try:
            index = self._place(subject, checkpoint)
        except CheckpointError as error:
            # An attempt from the first step is better than none: the checkpoint may be of an older
            # version of the service, and would fail every attempt.
            warnings.append(f"restarted from the first step: {error}")
            checkpoint = None
            index = self._place(subject, None)
        slot = WorkerSlot(
            loaded,
            index,
            checkpoint.header.step if checkpoint else 0,
            warnings,
            checkpointed_at=self._clock(),
        )
        self.slots[subject.id] = slot
        return slot

    def _place(self, subject: Subject, checkpoint: Checkpoint | None) -> int:
        with library_call(DTIError):
            self._trainer.add(subject, checkpoint)
        return self._index_of.pop(subject.id)

    def step(self) -> list[FinishedSlot]:
        """Train all subjects in slots for one step; return those that have finished.

        Raises:
            OutOfMemoryError, DeviceError: Nothing more can be done with this batch.
            BatchError: So it is after an error that belongs to no subject.
        """
        began = self._clock()
        try:
            with library_call():
                finished = self._finished(self._trainer.step())
        except (OutOfMemoryError, DeviceError):
            # Tried alone, every subject would fit, and on a lost device every one would fail:
            # neither tells whose fault it was.
            raise
        except BatchError:
            log.warning("training step failed: each subject is tried alone", exc_info=True)
            finished = self._step_isolated()
        # In equal parts: all rows of the batch cost the same, also those of empty slots.
        share = (self._clock() - began) / max(1, len(self.slots) + len(finished))
        for slot in (*self.slots.values(), *(each.slot for each in finished)):
            slot.device_s += share
        return finished

    def _step_isolated(self) -> list[FinishedSlot]:
        """Train each subject by itself for a step, to find the one that made the batch fail."""
        finished = self.flush()
        for slot in list(self.slots.values()):
            try:
                with library_call():
                    finished += self._finished(self._trainer.step_isolated(slot.index))
            except DeviceError:
                # No subject's fault. What has finished is committed first: the next step raises
                # the error again.
                break
            except BatchError as error:
                with slot.attempt.log_context():
                    log.exception("training step failed")
                self._trainer.remove(slot.index)
                reason = f"a training step failed: {error.reason}"
                finished.append(FinishedSlot(self._pop(slot), error=RuntimeError(reason)))
        return finished

    def progress(self, slot: WorkerSlot) -> tuple[int, int, float | None]:
        """Return the steps done, all steps, and the latest loss."""
        training = self._training_slot(slot)
        loss = training.metrics[-1].loss if training.metrics else None
        return training.step, training.config.steps, loss

    def flush(self) -> list[FinishedSlot]:
        """Read what is still on the device, which `checkpoint` and `preempt` need.

        Returns: the subjects that turn out to have finished.

        Raises: BatchError.
        """
        with library_call():
            return self._finished(self._trainer.flush())

    def checkpoint(self, slot: WorkerSlot) -> tuple[int, bytes] | None:
        """Return the steps done and the state to resume from; None before the first step."""
        slot.checkpointed_at = self._clock()
        state = slot.preempted_at if slot in self.preempted else self._checkpoint(slot)
        if state is None:
            return None
        with library_call():
            return state.header.step, state.to_bytes()

    def _checkpoint(self, slot: WorkerSlot) -> Checkpoint | None:
        if not self._training_slot(slot).step:
            return None
        with library_call():
            return self._trainer.checkpoint(slot.index)

    def preempt(self, slot: WorkerSlot) -> None:
        """Take a subject's slot away; it keeps what it has learned until `resume`."""
        slot.preempted_at = self._checkpoint(slot)
        self.remove(slot)
        self.preempted.append(slot)

    def resume(self, slot: WorkerSlot) -> None:
        """Give a preempted subject a free slot, which need not be the one it had.

        Raises: as `add`; the subject is gone then.
        """
        self.preempted.remove(slot)
        slot.index = self._place(slot.loaded.subject, slot.preempted_at)
        self.slots[slot.loaded.subject.id] = slot

    def remove(self, slot: WorkerSlot) -> None:
        """Drop a subject with what it has learned."""
        if slot in self.preempted:
            self.preempted.remove(slot)
        else:
            self._trainer.remove(self._pop(slot).index)

    def _pop(self, slot: WorkerSlot) -> WorkerSlot:
        return self.slots.pop(slot.loaded.subject.id)

    def _training_slot(self, slot: WorkerSlot) -> TrainingSlot:
        found = self._trainer.slots[slot.index]
        assert found is not None
        return found

    def _finished(self, results: list[TrainingResult]) -> list[FinishedSlot]:
        return [
            FinishedSlot(
                self._pop(self.slots[result.subject.id]),
                result.artifact,
                result.metrics[-1] if result.metrics else None,
                result.error,
            )
            for result in results
        ]


@contextmanager
def library_call(*expected: type[DTIError]) -> Generator[None]:
    """Raise every error of the training library as a BatchError, but for the expected ones.

    Torch and the drivers below it raise errors of many types, and only the text of some tells
    that the device is lost.
    """
    try:
        yield
    except expected:
        raise
    except Exception as error:
        if devices.is_out_of_memory(error):
            raise OutOfMemoryError(error) from error
        # By text: torch raises plain RuntimeErrors for most failures of cuDNN and cuBLAS.
        if any(text in str(error) for text in _DEVICE_ERRORS):
            raise DeviceError(error) from error
        raise BatchError(error) from error


def count_slots(slots: Iterable[WorkerSlot]) -> Counter[str]:
    """Return how many slots each tenant has."""
    return Counter(slot.tenant for slot in slots)


def may_preempt(num_slots: int, slots: Counter[str]) -> bool:
    """Return whether a tenant with `num_slots` may take a slot of the one that has most.

    Each such move makes the shares more even, so that they come to rest.
    """
    return max(slots.values(), default=0) > num_slots + 1

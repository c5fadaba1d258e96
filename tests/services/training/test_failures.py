"""Failures in a worker, of one subject and of none."""

import threading
from contextlib import suppress
from typing import Any

import pytest
import torch

from dti_engine.backbones.interface import Backbone
from dti_engine.errors import ConfigurationError
from dti_engine.images.bundles.members import BundleLimits
from dti_engine.training.slot import TrainingSlot
from dti_engine.training.trainer import Trainer
from services.contracts.jobs import ItemState, JobState
from services.contracts.training import TrainingItem
from services.errors import AccessDeniedError, UnavailableError
from services.ledger import uploads
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.ledger.queries import list_attempts
from services.ledger.recovery import Recovery
from services.ledger.worker import WorkerSession
from services.settings import WorkerTimeouts
from services.storage.interface import Object, Store
from services.storage.memory import MemoryStore
from services.training import loader
from services.training.batch import BatchError, DeviceError
from services.training.commits import ValidationRunner
from services.training.metrics import WorkerMetrics
from services.training.worker import TrainingWorker

from .conftest import Workshop

pytestmark = pytest.mark.slow


def test_a_token_that_cannot_be_validated_is_kept_all_the_same(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ValidationRunner, count: int) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ValidationRunner, "_validator", broken)
    job = workshop.submit(workshop.works(2), validation_images=1)
    with workshop.working():
        workshop.wait_until_ended(job)
    for item in workshop.items(job):
        assert item.state is ItemState.SUCCEEDED
        assert item.report
        assert "out of memory" in str(item.report["warnings"])


def test_a_batch_that_the_model_refuses_fails_its_job_alone(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    latent_shape = type(workshop.backbone).latent_shape

    def choosy(self: Backbone, height: int, width: int) -> object:
        if height == 24:
            raise ConfigurationError("the model has no resolution of 24")
        return latent_shape(self, height, width)

    monkeypatch.setattr(type(workshop.backbone), "latent_shape", choosy)
    refused = workshop.submit(workshop.works(1), resolution=24)
    good = workshop.submit(workshop.works(1))
    with workshop.working():
        workshop.wait_until_ended(refused, good)
    assert workshop.view(refused).state is JobState.FAILED
    assert workshop.view(good).state is JobState.SUCCEEDED
    (item,) = workshop.items(refused)
    assert "resolution" in item.reason
    assert len(list_attempts(workshop.ledger, workshop.tenant, refused, 0)) == 1


def test_a_subject_that_fails_to_start_by_chance_is_retried(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate, evaluations = Trainer._evaluate_fixed_batch, list[int]()

    def once(self: Trainer, slot: int, training_slot: TrainingSlot) -> None:
        evaluations.append(slot)
        if len(evaluations) == 1:
            raise RuntimeError("something went wrong on the device")
        evaluate(self, slot, training_slot)

    monkeypatch.setattr(Trainer, "_evaluate_fixed_batch", once)
    job = workshop.submit(workshop.works(1))
    with workshop.working():
        workshop.wait_until_ended(job)
    assert workshop.view(job).state is JobState.SUCCEEDED
    attempts = list_attempts(workshop.ledger, workshop.tenant, job, 0)
    assert [each.cause for each in attempts] == ["failed", "succeeded"]


def test_a_failed_device_fails_no_subject(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail the whole queue: all is given back, and the process ends."""

    def broken(self: Trainer) -> object:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Trainer, "step", broken)
    job = workshop.submit(workshop.works(2))
    worker, raised = workshop.worker(), list[BaseException]()

    def run() -> None:
        try:
            worker.run()
        except DeviceError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert raised
    assert workshop.view(job).counts.queued == 2
    monkeypatch.undo()
    with workshop.working():
        workshop.wait_until_ended(job)
    assert workshop.view(job).state is JobState.SUCCEEDED


def test_a_subject_that_breaks_the_device_for_all_fails_by_itself_in_the_end(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each failure is attributed to no subject, until the subject is trained alone."""
    works = workshop.works(2)
    poison, good = works
    step = Trainer.step

    def broken(self: Trainer) -> object:
        started = [
            training_slot.subject.placeholder for training_slot in self.slots if training_slot
        ]
        if f"<{poison}>" in started:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return step(self)

    monkeypatch.setattr(Trainer, "step", broken)
    job = workshop.submit(works, max_attempts=2)
    supervisor, sessions = Recovery(workshop.ledger), 0
    while not workshop.view(job).state.ended:
        assert sessions < 30
        sessions += 1
        worker = workshop.worker()
        thread = threading.Thread(target=_run, args=(worker,))
        thread.start()
        while thread.is_alive() and not workshop.view(job).state.ended:
            thread.join(0.05)
        worker.drain()
        thread.join(60)
        supervisor.recover()
    items = {item.name: item for item in workshop.items(job)}
    assert items[good].state is ItemState.SUCCEEDED
    assert items[poison].state is ItemState.FAILED
    assert "illegal memory access" in items[poison].reason
    attempts = list_attempts(workshop.ledger, workshop.tenant, job, items[poison].index)
    causes = [each.cause for each in attempts]
    assert causes == ["released"] * 8 + ["failed"] * 2


def test_a_device_lost_while_subjects_are_tried_alone_costs_no_subject_an_attempt(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = RuntimeError("CUDA error: unspecified launch failure")

    def broken(self: Trainer) -> object:
        raise RuntimeError("something went wrong in a kernel") if not alone else lost

    def broken_alone(self: Trainer, slot: int) -> object:
        alone.append(slot)
        raise lost

    alone: list[int] = []
    monkeypatch.setattr(Trainer, "step", broken)
    monkeypatch.setattr(Trainer, "step_isolated", broken_alone)
    job = workshop.submit(workshop.works(2))
    with pytest.raises(DeviceError):
        workshop.worker().run()
    assert len(alone) == 1
    for index in range(2):
        attempts = list_attempts(workshop.ledger, workshop.tenant, job, index)
        assert {each.cause for each in attempts} <= {"released"}


@pytest.mark.parametrize(
    ("cause", "raised"),
    [
        (ValueError("the scorer does not know this image"), BatchError),
        (RuntimeError("CUDA error: unspecified launch failure"), DeviceError),
    ],
)
def test_an_error_of_validation_is_one_that_ends_a_session_in_order(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, cause: Exception, raised: type[Exception]
) -> None:
    """A drain goes on after a BatchError, and a worker ends at a DeviceError."""

    def broken(self: ValidationRunner, *arguments: object) -> object:
        raise cause

    monkeypatch.setattr(ValidationRunner, "_score", broken)
    with pytest.raises(raised) as caught:
        ValidationRunner(workshop.backbone, None).validate([])
    assert type(caught.value) is raised


def _run(worker: TrainingWorker) -> None:
    with suppress(DeviceError):
        worker.run()


def test_a_checkpoint_that_may_not_be_written_leaves_its_subject_at_work(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, refused = Attempt.checkpoint, list[int]()

    def once(self: Attempt, step: int, payload: bytes) -> None:
        if not refused:
            refused.append(step)
            raise AccessDeniedError("the token has expired")
        save(self, step, payload)

    monkeypatch.setattr(Attempt, "checkpoint", once)
    job = workshop.submit(workshop.works(1), steps=30)
    with workshop.working():
        workshop.wait_until_ended(job)
    assert refused
    assert workshop.view(job).state is JobState.SUCCEEDED
    assert len(list_attempts(workshop.ledger, workshop.tenant, job, 0)) == 1


def test_requests_that_cannot_be_read_after_a_claim_mix_no_shapes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_commands, calls = WorkerSession._apply_commands, list[int]()

    def troubled(self: WorkerSession, attempts: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise UnavailableError("503")
        apply_commands(self, attempts)  # type: ignore[arg-type]

    monkeypatch.setattr(WorkerSession, "_apply_commands", troubled)
    one = workshop.submit(workshop.works(1), steps=20)
    other = workshop.submit(workshop.works(1), steps=20, batch_size=2)
    with workshop.working():
        workshop.wait_until_ended(one, other)
    assert workshop.view(one).state is JobState.SUCCEEDED
    assert workshop.view(other).state is JobState.SUCCEEDED


def test_an_upload_that_is_too_large_is_not_even_fetched(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    works = workshop.works(1)
    good, refused = workshop.submit(works), workshop.submit({"large": _large(workshop)})
    fetched, read = list[str](), MemoryStore.read

    def noted(self: MemoryStore, key: str, **part: Any) -> Object:
        fetched.append(key)
        return read(self, key, **part)

    monkeypatch.setattr(MemoryStore, "read", noted)
    max_bytes = max(len(data) for data in workshop.bundles.values())
    limits = BundleLimits(max_archive_bytes=max_bytes)
    monkeypatch.setattr(loader, "DEFAULT_LIMITS", limits)
    with workshop.working():
        workshop.wait_until_ended(good, refused)
    assert workshop.view(good).state is JobState.SUCCEEDED
    (item,) = workshop.items(refused)
    assert item.state is ItemState.FAILED
    assert f"at most {max_bytes} are allowed" in item.reason
    assert len(list_attempts(workshop.ledger, workshop.tenant, refused, 0)) == 1
    key = uploads.key(workshop.tenant, str(_large(workshop).bundle))
    assert key not in fetched


def _large(workshop: Workshop) -> TrainingItem:
    max_bytes = max(len(data) for data in workshop.bundles.values())
    return TrainingItem(bundle=workshop.upload(bytes(max_bytes + 1)))


class Silent:
    """A store that answers until it is told not to."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.silent = inner, False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        def ask(*arguments: Any, **how: Any) -> Any:
            if self.silent:
                raise UnavailableError("the store does not answer")
            return method(*arguments, **how)

        return ask if callable(method) else method

    def for_leases(self) -> "Silent":
        return self


def test_a_drain_ends_though_the_store_does_not_answer(workshop: Workshop) -> None:
    """A token that was learned and could not be written is learned again by other workers."""
    store = Silent(workshop.ledger.store)
    healthy, lost = workshop.ledger, list[Exception]()
    workshop.ledger = Ledger.open(store, healthy.settings)  # type: ignore[arg-type]

    class Heard(WorkerMetrics):
        def attempt_ended(self, attempt: Attempt, how: str, reason: str = "") -> None:
            given_back.set()

        def write_failed(self, attempt: Attempt, error: Exception) -> None:
            lost.append(error)

    given_back = threading.Event()
    job = workshop.submit(workshop.works(1), steps=12)
    timeouts = WorkerTimeouts(
        checkpoint_interval_s=0.2, progress_interval_s=0.05, flush_timeout_s=1
    )
    worker = workshop.worker(timeouts=timeouts, metrics=Heard())
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    workshop.wait_for(lambda: worker.open_attempts == 1)
    store.silent = True
    worker.drain()
    thread.join(60)
    assert not thread.is_alive()
    assert given_back.is_set()
    assert any("at the end" in str(error) for error in lost)
    workshop.ledger = healthy
    with workshop.working():
        workshop.wait_until_ended(job)
    assert workshop.view(job).state is JobState.SUCCEEDED
    attempts = list_attempts(workshop.ledger, workshop.tenant, job, 0)
    assert [each.cause for each in attempts] == ["lost", "succeeded"]

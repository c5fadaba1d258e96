"""What breaks in a worker that no subject is to blame for, or only one is."""

import threading
from typing import Any

import pytest
import torch

from dti_engine.backbones.interface import Backbone
from dti_engine.config import TrainConfig
from dti_engine.errors import ConfigurationError
from dti_engine.packing import Trainer
from dti_engine.slots import Occupant
from services.errors import AccessDeniedError, UnavailableError
from services.jobs import ItemState, JobState
from services.ledger.attempts import Attempt
from services.ledger.reading import list_attempts
from services.ledger.worker import Worker
from services.training import life
from services.training.batch import DeviceError
from services.training.trials import Trials

from .conftest import Workshop


def test_a_token_that_cannot_be_tried_out_is_kept_all_the_same(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Trials, count: int) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Trials, "_examiner", broken)
    job = workshop.submit(workshop.works(2), probes=1)
    with workshop.working():
        workshop.wait_until_ended(job)
    for item in workshop.items(job):
        assert item.state is ItemState.SUCCEEDED
        assert item.report
        assert "out of memory" in str(item.report["warnings"])


def test_a_batch_that_the_model_refuses_fails_its_job_alone(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Choosy(life.Batch):
        def __init__(self, backbone: Backbone, config: TrainConfig, *given: Any) -> None:
            if config.resolution == 24:
                raise ConfigurationError("the model has no resolution of 24")
            super().__init__(backbone, config, *given)

    monkeypatch.setattr(life, "Batch", Choosy)
    refused = workshop.submit(workshop.works(1), resolution=24)
    good = workshop.submit(workshop.works(1))
    with workshop.working():
        workshop.wait_until_ended(refused, good)
    assert workshop.view(refused).state is JobState.FAILED
    assert workshop.view(good).state is JobState.SUCCEEDED
    (item,) = workshop.items(refused)
    assert "resolution" in item.reason
    assert len(list_attempts(workshop.ledger, workshop.tenant, refused, 0)) == 1


def test_what_cannot_be_seated_by_chance_is_tried_again(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = Trainer._look, list[int]()

    def once(self: Trainer, slot: int, occupant: Occupant) -> None:
        looks.append(slot)
        if len(looks) == 1:
            raise RuntimeError("something went wrong on the device")
        look(self, slot, occupant)

    monkeypatch.setattr(Trainer, "_look", once)
    job = workshop.submit(workshop.works(1))
    with workshop.working():
        workshop.wait_until_ended(job)
    assert workshop.view(job).state is JobState.SUCCEEDED
    attempts = list_attempts(workshop.ledger, workshop.tenant, job, 0)
    assert [each.cause for each in attempts] == ["failed", "succeeded"]


def test_a_device_that_has_failed_fails_nobodys_subject(
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


def test_orders_that_cannot_be_read_after_a_claim_mix_no_shapes(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear, heard = Worker._hear, list[int]()

    def troubled(self: Worker, attempts: object) -> None:
        heard.append(1)
        if len(heard) == 1:
            raise UnavailableError("503")
        hear(self, attempts)  # type: ignore[arg-type]

    monkeypatch.setattr(Worker, "_hear", troubled)
    one = workshop.submit(workshop.works(1), steps=20)
    other = workshop.submit(workshop.works(1), steps=20, batch_size=2)
    with workshop.working():
        workshop.wait_until_ended(one, other)
    assert workshop.view(one).state is JobState.SUCCEEDED
    assert workshop.view(other).state is JobState.SUCCEEDED

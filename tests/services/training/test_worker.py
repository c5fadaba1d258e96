"""Whole jobs through real workers over the miniature."""

import io
import zipfile

import pytest
import torch

from dti_engine.artifacts.artifact import Artifact
from services.contracts.jobs import ItemState, JobState
from services.contracts.training import ImageFile, TrainingItem
from services.ledger import aliases
from services.ledger.deletion import delete_item
from services.ledger.queries import list_attempts, read_token
from services.ledger.submissions import cancel
from services.ledger.workers import ItemProgress, ProgressReader
from services.settings import WorkerTimeouts
from services.training.session import TrainingSession

from .conftest import Workshop

pytestmark = pytest.mark.slow


def artifact(workshop: Workshop, token: str | None) -> Artifact:
    assert token
    return Artifact.from_bytes(read_token(workshop.ledger, workshop.tenant, token).payload)


def progress_of(workshop: Workshop, tenant: str, job: str) -> ItemProgress:
    """Return what the leases say now about the running items of a job."""
    return ProgressReader(workshop.ledger, ttl_s=0).read(tenant, job)


def steps_done(workshop: Workshop, job: str, tenant: str = "acme") -> dict[int, int]:
    """Return the steps of each running item that has done any, by index."""
    items = progress_of(workshop, tenant, job).items()
    return {index: int(str(progress["step"])) for index, progress in items if progress.get("step")}


def test_a_job_becomes_tokens(workshop: Workshop) -> None:
    job = workshop.submit(workshop.works(5))
    with workshop.working():
        workshop.wait_until_ended(job)
    assert workshop.view(job).state is JobState.SUCCEEDED
    for item in workshop.items(job):
        learned = artifact(workshop, item.token)
        assert item.report
        assert learned.manifest.placeholder == f"<{item.name}>" == item.report["placeholder"]
        assert item.report["steps"] == 6
        assert item.report["gpu_seconds"]
        found = aliases.find_tokens(workshop.ledger.store, workshop.tenant, item.name)
        assert list(found) == [item.token]


def test_a_subject_is_learned_alike_beside_any_others_and_after_a_drain(workshop: Workshop) -> None:
    """The same token, bit for bit, alone in its batch, among others, and in two attempts."""
    works = workshop.works(3)
    name, work = next(iter(works.items()))
    alone = workshop.submit({name: work}, steps=12)
    with workshop.working():
        workshop.wait_until_ended(alone)
    among = workshop.submit(works, steps=12)
    with workshop.working():
        workshop.wait_until_ended(among)
    again = workshop.submit({name: work}, steps=12)
    with workshop.working() as worker:
        workshop.wait_for(lambda: bool(progress_of(workshop, workshop.tenant, again)))
        worker.drain()
    assert workshop.items(again)[0].state is ItemState.QUEUED
    with workshop.working():
        workshop.wait_until_ended(again)
    attempts = list_attempts(workshop.ledger, workshop.tenant, again, 0)
    assert [each.cause for each in attempts] == ["released", "succeeded"]
    tokens = [artifact(workshop, workshop.items(job)[0].token) for job in (alone, among, again)]
    for other in tokens[1:]:
        for encoder, rows in tokens[0].token.embeddings.items():
            assert torch.equal(rows, other.token.embeddings[encoder])


def test_training_resumes_from_the_checkpoint_of_a_drained_worker(workshop: Workshop) -> None:
    job = workshop.submit(workshop.works(1), steps=60)
    with workshop.working() as worker:
        workshop.wait_for(
            lambda: any(
                int(str(progress.get("step", 0))) >= 10
                for progress in progress_of(workshop, workshop.tenant, job).values()
            )
        )
        worker.drain()
    # In another shape of batch, too: draws are the same, sums are rounded otherwise.
    with workshop.working(workshop.worker(num_slots=1)):
        workshop.wait_until_ended(job)
    report = workshop.items(job)[0].report
    assert report
    assert 10 <= int(str(report["resumed_at"])) < 60
    assert report["steps"] == 60


def test_bad_subjects_fail_with_their_reasons_and_leave_the_others_alone(
    workshop: Workshop,
) -> None:
    not_an_image = io.BytesIO()
    with zipfile.ZipFile(not_an_image, "w") as archive:
        archive.writestr("a.jpg", b"\xff\xd8 not really")
        archive.writestr("b.png", b"neither")
    good = workshop.works(2)
    image = zipfile.ZipFile(io.BytesIO(next(iter(workshop.bundles.values()))))
    name = next(each for each in image.namelist() if each.endswith(".png"))
    one = ImageFile(name="one.png", sha256=workshop.upload(image.read(name)))
    works = good | {
        "bad-images": TrainingItem(bundle=workshop.upload(not_an_image.getvalue())),
        "never-uploaded": TrainingItem(bundle="0" * 64),
        "no-word": TrainingItem(images=(one,)),
        "bad-word": TrainingItem(images=(one,), initializer="qwertzuiop" * 5),
        "no-archive": TrainingItem(bundle=workshop.upload(b"hello")),
        "from-images": TrainingItem(images=(one,), initializer="dog"),
    }
    job = workshop.submit(works)
    with workshop.working():
        workshop.wait_until_ended(job)
    items = {item.name: item for item in workshop.items(job)}
    assert {n for n, item in items.items() if item.state is ItemState.SUCCEEDED} == {
        *good,
        "from-images",
    }
    assert "'a.jpg'" in items["bad-images"].reason
    assert "'b.png'" in items["bad-images"].reason
    assert "upload it" in items["never-uploaded"].reason
    assert "initializer" in items["no-word"].reason
    assert "tar" in items["no-archive"].reason
    # At once: another attempt would find the same.
    for name in ("bad-images", "never-uploaded", "no-word", "no-archive"):
        attempts = list_attempts(workshop.ledger, workshop.tenant, job, items[name].index)
        assert len(attempts) == 1


def test_a_subject_that_breaks_steps_is_found_out(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected error of a step does not tell which subject caused it."""
    works = workshop.works(3)
    poison = next(iter(works))
    job = workshop.submit(works, max_attempts=2)
    marked: list[str] = []
    from dti_engine.training.slot import TrainingSlot

    next_batch = TrainingSlot.next_batch

    def broken(self: TrainingSlot) -> object:
        if self.subject.placeholder == f"<{poison}>" and self.step == 3:
            marked.append(self.subject.id)
            raise RuntimeError("an index is out of range")
        return next_batch(self)

    monkeypatch.setattr(TrainingSlot, "next_batch", broken)
    with workshop.working(workshop.worker(num_slots=3)):
        workshop.wait_until_ended(job)
    states = {item.name: item for item in workshop.items(job)}
    assert states[poison].state is ItemState.FAILED
    assert "an index is out of range" in states[poison].reason
    assert all(each.state is ItemState.SUCCEEDED for n, each in states.items() if n != poison)
    attempts = [
        list_attempts(workshop.ledger, workshop.tenant, job, each.index) for each in states.values()
    ]
    assert sorted(len(each) for each in attempts) == [1, 1, 2]
    assert marked


def test_where_memory_runs_out_fewer_are_learned_at_a_time(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dti_engine.training.trainer import Trainer

    step, sizes = Trainer.step, list[int]()

    def small(self: Trainer) -> object:
        sizes.append(len(self.slots))
        if len(self.slots) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self)

    monkeypatch.setattr(Trainer, "step", small)
    job = workshop.submit(workshop.works(4))
    with workshop.working(workshop.worker(num_slots=4)):
        workshop.wait_until_ended(job)
    assert workshop.view(job).state is JobState.SUCCEEDED
    assert {4, 2, 1} == set(sizes)
    for index in range(4):
        causes = [e.cause for e in list_attempts(workshop.ledger, workshop.tenant, job, index)]
        assert set(causes) <= {"released", "succeeded"}, "running out of memory fails no subject"


def test_cancelled_and_deleted_subjects_leave_their_slots(workshop: Workshop) -> None:
    slow = workshop.submit(workshop.works(2), steps=100_000)
    other = workshop.submit(workshop.works(1), steps=100_000)
    with workshop.working(workshop.worker(num_slots=3)) as worker:
        workshop.wait_for(lambda: worker.open_attempts == 3)
        cancel(workshop.ledger, workshop.tenant, slow)
        delete_item(workshop.ledger, workshop.tenant, other, 0)
        workshop.wait_for(lambda: worker.open_attempts == 0)
        workshop.wait_until_ended(slow, other)
        quick = workshop.submit(workshop.works(2), steps=3)
        workshop.wait_until_ended(quick)
    assert workshop.view(slow).state is JobState.CANCELLED
    assert workshop.view(quick).state is JobState.SUCCEEDED


def test_jobs_of_another_shape_get_a_turn(workshop: Workshop) -> None:
    many = workshop.submit(workshop.works(40), steps=12)
    timeouts = WorkerTimeouts(
        checkpoint_interval_s=30, batch_affinity_s=0.3, progress_interval_s=0.05
    )
    with workshop.working(workshop.worker(timeouts=timeouts)) as worker:
        workshop.wait_for(lambda: worker.open_attempts == 2)
        other = workshop.submit(workshop.works(1), steps=3, batch_size=2)
        workshop.wait_until_ended(other)
        assert workshop.view(many).counts.ended < 30, "it did not wait for the other job's end"


def test_a_small_job_does_not_wait_for_the_subjects_of_a_large_one(workshop: Workshop) -> None:
    """A subject of the large job is preempted meanwhile, and then resumes."""
    works = workshop.works(3)
    alone = workshop.submit(works, steps=30)
    with workshop.working():
        workshop.wait_until_ended(alone)
    large = workshop.submit(works, steps=30)
    with workshop.working():
        workshop.wait_for(lambda: len(steps_done(workshop, large)) == 2)
        small = workshop.submit(workshop.works(1, "zoo"), tenant="zoo", steps=2)
        workshop.wait_until_ended(small, tenant="zoo")
        assert workshop.view(large).counts.running >= 2
        assert workshop.view(large).counts.succeeded == 0
        workshop.wait_until_ended(large)
    assert workshop.view(small, "zoo").state is JobState.SUCCEEDED
    for item, undisturbed in zip(workshop.items(large), workshop.items(alone), strict=True):
        assert item.report
        assert (item.report["steps"], item.report["resumed_at"]) == (30, 0)
        assert len(list_attempts(workshop.ledger, workshop.tenant, large, item.index)) == 1
        actual, reference = artifact(workshop, item.token), artifact(workshop, undisturbed.token)
        for encoder, rows in actual.token.embeddings.items():
            # In another slot, perhaps, where sums are rounded otherwise.
            torch.testing.assert_close(rows, reference.token.embeddings[encoder], rtol=0, atol=1e-4)


def test_two_tenants_have_half_of_the_slots_each(workshop: Workshop) -> None:
    large = workshop.submit(workshop.works(6), steps=2000)
    with workshop.working(workshop.worker(num_slots=4)):
        workshop.wait_for(lambda: len(steps_done(workshop, large)) == 4)
        other = workshop.submit(workshop.works(6, "zoo"), tenant="zoo", steps=2000)
        workshop.wait_for(lambda: len(steps_done(workshop, other, "zoo")) == 2)
        workshop.wait_for(
            lambda: (
                sorted(
                    str(each["phase"])
                    for each in ProgressReader(workshop.ledger, 0)
                    .read(workshop.tenant, large)
                    .values()
                )
                == ["training", "training", "waiting", "waiting"]
            )
        )
        seen = steps_done(workshop, other, "zoo")
        workshop.wait_for(
            lambda: sum(steps_done(workshop, other, "zoo").values()) > sum(seen.values()) + 40
        )
        assert len(steps_done(workshop, other, "zoo")) == 2  # It comes to rest.
        # Who waits hears orders, too.
        cancel(workshop.ledger, workshop.tenant, large, "somebody")
        workshop.wait_until_ended(large)
        workshop.wait_for(lambda: len(steps_done(workshop, other, "zoo")) == 4)
    assert workshop.view(other, "zoo").counts.queued == 6


def test_tokens_are_validated_and_scored(workshop: Workshop) -> None:
    from dti_engine.quality.token_scorers import find_scorer

    job = workshop.submit(workshop.works(2), validation_images=1, steps=10)
    with workshop.working(workshop.worker(scorer=find_scorer("miniature"))):
        workshop.wait_until_ended(job)
    for item in workshop.items(job):
        assert item.report
        assert 0 <= item.report["subject_score"] <= 1  # type: ignore[operator]
        assert 0 <= item.report["prompt_score"] <= 1  # type: ignore[operator]
        training = artifact(workshop, item.token).manifest.training
        assert training
        assert training.quality
        assert item.report["flags"] == list(training.quality.flags)


def test_a_worker_that_lost_its_lease_opens_a_new_session(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is broken while it works: another session follows, and nothing is done twice."""
    from services.ledger.leases import break_lease, read_lease

    job = workshop.submit(workshop.works(2), steps=30)
    with workshop.working() as worker:
        workshop.wait_for(lambda: worker.open_attempts == 2)
        current = worker._session
        assert isinstance(current, TrainingSession)
        name = current._worker.lease.worker
        while True:
            found = read_lease(workshop.ledger, name)
            assert found
            if break_lease(workshop.ledger, *found):
                break
        workshop.wait_until_ended(job)
        assert worker._session is not current
    assert workshop.view(job).state is JobState.SUCCEEDED

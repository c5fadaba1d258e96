"""Continuous batching of a tiny model: batches, isolation of failures, and dropped requests."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dti_engine.backbones.interface import Backbone, Conditioning
from dti_engine.errors import GenerationFailedError
from dti_engine.generation.pipeline import generate
from dti_engine.text.tokens import LearnedToken
from services.errors import DeadlineExceededError, NoEngineError, QueueFullError
from services.inference.scheduler.request_queue import ScheduledRequest
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings

from .harness import InstrumentedModel, Recorder, make_request, random_token

ONE_LEVEL = 1  # of 255: what rounding may change


@contextmanager
def scheduler(model: Any, **settings: Any) -> Iterator[BatchScheduler]:
    running = BatchScheduler(model, BatchSchedulerSettings(**settings))
    running.start()
    try:
        yield running
    finally:
        running.stop(10)


def submit(running: BatchScheduler, *requests: tuple[ScheduledRequest, Recorder]) -> list[Recorder]:
    running.submit([each for each, _ in requests])
    return [recorder for _, recorder in requests]


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


@pytest.fixture
def model(tiny_backbone: Backbone) -> Any:
    return InstrumentedModel(tiny_backbone)


def held(model: InstrumentedModel) -> threading.Event:
    """Make the model wait at its first call until this event is set."""
    release = threading.Event()

    def wait(noisy: Tensor, conditioning: Conditioning) -> None:
        release.wait(20)

    model.before = wait
    return release


# Results


def test_batched_images_of_many_tenants_equal_those_generated_alone(
    tiny_backbone: Backbone,
) -> None:
    requests = [
        make_request(
            "a <rex>", f"tenant{seed}", seed, tokens={"<rex>": random_token()}, guidance=1.0 + seed
        )
        for seed in range(5)
    ]
    with scheduler(tiny_backbone, max_batch_size=3) as running:
        ended = submit(running, *requests)
        images = [recorder.image() for recorder in ended]
    alone = [generate(tiny_backbone, [each.image], steps=4)[0] for each, _ in requests]
    assert max(map(difference, images, alone)) <= ONE_LEVEL
    assert difference(images[0], images[1]) > 10 * ONE_LEVEL
    assert [recorder.steps for recorder in ended] == [[1, 2, 3, 4]] * 5


def test_interactive_images_go_before_background_images_and_both_are_generated(model: Any) -> None:
    release = held(model)
    with scheduler(model, max_batch_size=1, queue_size=16) as running:
        job = submit(running, *(make_request(seed=seed, background=True) for seed in range(6)))
        while not model.calls:
            time.sleep(0.001)
        submit(running, make_request(seed=6, background=True))
        with pytest.raises(QueueFullError):
            submit(running, make_request(seed=7, background=True))
        (looking,) = submit(running, make_request(seed=8))
        release.set()
        looking.image()
        for one in job:
            one.image()
    assert [one.ended_at > looking.ended_at for one in job] == [False] + [True] * 5


def test_an_image_joins_a_running_batch_at_the_next_step_and_leaves_when_done(model: Any) -> None:
    release = held(model)
    with scheduler(model) as running:
        (slow,) = submit(running, make_request(steps=12, guidance=1.0))
        while not model.calls:
            time.sleep(0.001)
        (quick,) = submit(running, make_request(steps=2, seed=1, guidance=1.0))
        release.set()
        quick.image()
        slow.image()
    assert model.calls == [1, 2, 2, *[1] * 9]
    assert quick.ended_at < slow.ended_at


def test_without_continuous_batching_no_image_joins_a_running_batch(model: Any) -> None:
    release = held(model)
    with scheduler(model, continuous=False) as running:
        (first,) = submit(running, make_request(steps=3, guidance=1.0))
        while not model.calls:
            time.sleep(0.001)
        others = submit(running, *(make_request(steps=3, seed=i, guidance=1.0) for i in (1, 2)))
        release.set()
        first.image()
        for other in others:
            other.image()
    assert model.calls == [1, 1, 1, 2, 2, 2]


def test_an_isolated_image_is_bit_for_bit_the_same_beside_any_others(model: Any) -> None:
    images: list[Image.Image] = []
    for first in range(0, 9, 4):
        with scheduler(model) as running:
            others = submit(running, *(make_request(seed=50 + first + i) for i in range(first)))
            (alone,) = submit(running, make_request(isolated=True))
            images.append(alone.image())
            for other in others:
                other.image()
    assert images[0].tobytes() == images[1].tobytes() == images[2].tobytes()


def test_sizes_take_turns(model: Any) -> None:
    sizes: list[int] = []
    model.before = lambda noisy, conditioning: sizes.append(noisy.shape[-1])
    with scheduler(model) as running:
        small = [make_request(size=(8, 8), steps=6, seed=i) for i in range(2)]
        ended = submit(running, *small, make_request(size=(16, 16), steps=6))
        assert [recorder.image().size for recorder in ended] == [(8, 8), (8, 8), (16, 16)]
    assert sizes[:6] == [sizes[0], sizes[1]] * 3
    assert sizes[0] != sizes[1]


def test_a_popular_size_does_not_starve_other_sizes(model: Any) -> None:
    with scheduler(
        model, max_batches=1, batch_turn_s=0.0, max_batch_size=2, queue_size=100
    ) as running:
        first = submit(running, *(make_request(size=(8, 8), seed=i, steps=6) for i in range(30)))
        (other,) = submit(running, make_request(tenant="ben", steps=2))
        other.image()
        for one in first:
            one.image()
    before = sum(one.ended_at < other.ended_at for one in first)
    assert before <= 4


def test_tenants_take_turns_at_a_full_scheduler(model: Any) -> None:
    release = held(model)
    with scheduler(model, max_batch_size=2, queue_size=100) as running:
        first = submit(running, *(make_request(seed=i) for i in range(20)))
        while not model.calls:
            time.sleep(0.001)
        (other,) = submit(running, make_request(tenant="ben"))
        release.set()
        other.image()
        for one in first:
            one.image()
    assert sum(one.ended_at < other.ended_at for one in first) <= 3


# Failures


def poisoned(noisy: Tensor, conditioning: Conditioning) -> None:
    """Raise an error if a row is not a number."""
    if not bool(conditioning.hidden.isfinite().all()):
        raise RuntimeError("poison")


def poison() -> LearnedToken:
    """Finite; what becomes of it is not."""
    return LearnedToken("<rex>", {"text_encoder": torch.full((1, 32), 1e38)})


def test_a_poisonous_image_fails_alone(model: Any) -> None:
    model.before = poisoned
    good = [make_request("a <rex>", seed=i, tokens={"<rex>": random_token()}) for i in range(7)]
    bad = make_request("a <rex>", seed=7, tokens={"<rex>": poison()})
    with scheduler(model) as running:
        ended = submit(running, *good[:3], bad, *good[3:])
        for number, recorder in enumerate(ended):
            if number == 3:
                error = recorder.error()
                assert isinstance(error, GenerationFailedError)
                assert "failed at this image" in str(error)
            else:
                recorder.image()
        # The scheduler goes on.
        (after,) = submit(running, make_request())
        after.image()
    alone = generate(model._backbone, [good[6][0].image], steps=4)[0]
    assert difference(ended[7].image(), alone) <= ONE_LEVEL


def test_a_prompt_that_cannot_be_read_fails_alone(model: Any) -> None:
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        if calls in (1, 2):  # all of them, and the first half
            raise RuntimeError("poison")

    model.before_encoding = fail
    with scheduler(model) as running:
        first, second = submit(running, make_request("a cat"), make_request("a dog", seed=1))
        assert isinstance(first.error(), GenerationFailedError)
        second.image()


def test_when_memory_runs_out_batches_shrink_and_no_image_fails(model: Any) -> None:
    def tight(noisy: Tensor, conditioning: Conditioning) -> None:
        if len(noisy) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.before = tight
    with scheduler(model) as running:
        ended = submit(running, *(make_request(seed=i, guidance=1.0) for i in range(8)))
        for recorder in ended:
            recorder.image()
        later = submit(running, *(make_request(seed=i, guidance=1.0) for i in range(4)))
        calls = len(model.calls)
        for recorder in later:
            recorder.image()
    assert max(model.calls[calls:]) == 2


def test_an_image_too_large_for_memory_fails_with_an_explanation(model: Any) -> None:
    def full(noisy: Tensor, conditioning: Conditioning) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.before = full
    with scheduler(model) as running:
        (recorder,) = submit(running, make_request())
        assert "memory ran out with this image alone" in str(recorder.error())


def test_a_broken_device_fails_all_images_with_an_error_to_retry(model: Any) -> None:
    def broken(noisy: Tensor, conditioning: Conditioning) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    model.before = broken
    with scheduler(model) as running:
        ended = submit(running, make_request(), make_request(seed=1))
        assert all(isinstance(recorder.error(), NoEngineError) for recorder in ended)
        assert "illegal memory access" in str(running.unhealthy_reason())
        with pytest.raises(NoEngineError):
            submit(running, make_request())


def test_a_device_that_breaks_at_a_preview_is_broken_too(model: Any) -> None:
    def broken(latents: Tensor) -> Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    model.decode_latents = broken
    with scheduler(model) as running:
        ended = submit(running, make_request(preview_interval=1), make_request(seed=1))
        assert all(isinstance(recorder.error(), NoEngineError) for recorder in ended)
    assert len(model.calls) == 1


def test_memory_that_runs_out_at_decoding_does_not_enlarge_batches(model: Any) -> None:
    """Calls that were halved before are not enlarged by decoding all images together."""
    decode = model._backbone.decode_latents

    def tight(noisy: Tensor, conditioning: Conditioning) -> None:
        if len(noisy) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def tight_too(latents: Tensor) -> Tensor:
        if len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents)

    model.before, model.decode_latents = tight, tight_too
    with scheduler(model) as running:
        ended = submit(running, *(make_request(seed=i, guidance=1.0) for i in range(8)))
        for recorder in ended:
            recorder.image()
        calls = len(model.calls)
        for recorder in submit(running, *(make_request(seed=i, guidance=1.0) for i in range(4))):
            recorder.image()
    assert set(model.calls[calls:]) == {1}


def test_a_request_submitted_as_the_scheduler_ends_is_rejected(model: Any) -> None:
    running = BatchScheduler(model, BatchSchedulerSettings())
    running.start()
    running.stop(10)
    # As if it had checked before the scheduler was told to stop.
    running._stopping.clear()
    (recorder,) = submit(running, make_request())
    assert isinstance(recorder.error(1), NoEngineError)


def test_an_image_that_is_not_finite_fails_alone(model: Any) -> None:
    decode = model._backbone.decode_latents

    def overflowing(latents: Tensor) -> Tensor:
        pixels = decode(latents)
        pixels[0] = float("nan")
        return pixels

    model.decode_latents = overflowing
    with scheduler(model) as running:
        bad, good = submit(running, make_request(), make_request(seed=1))
        assert "NaN or infinity" in str(bad.error())
        good.image()


# Dropped requests


def test_a_cancelled_request_is_generated_no_further(model: Any) -> None:
    release = held(model)
    with scheduler(model, max_batch_size=1) as running:
        running_one, waiting_one, other = (
            make_request(seed=i, guidance=1.0, steps=50) for i in range(3)
        )
        submit(running, running_one, waiting_one)
        while not model.calls:
            time.sleep(0.001)
        running_one[0].cancelled = waiting_one[0].cancelled = True
        other[0].steps = 2
        submit(running, other)
        release.set()
        other[1].image()
    assert model.calls == [1] * 3
    assert running_one[1].results == waiting_one[1].results == []


def test_a_request_past_its_deadline_fails_and_is_not_begun(model: Any) -> None:
    release = held(model)
    with scheduler(model, max_batch_size=1) as running:
        first = make_request(steps=2, guidance=1.0)
        late = make_request(seed=1, deadline=time.monotonic() + 0.05)
        submit(running, first, late)
        time.sleep(0.1)
        release.set()
        first[1].image()
        assert isinstance(late[1].error(), DeadlineExceededError)
    assert model.calls == [1, 1]


def test_a_full_queue_rejects_all_images_of_a_request(model: Any) -> None:
    release = held(model)
    with scheduler(model, max_batch_size=1, queue_size=5) as running:
        (first,) = submit(running, make_request())
        while not model.calls:
            time.sleep(0.001)
        others = submit(running, make_request(seed=1), make_request(seed=2))
        with pytest.raises(QueueFullError):
            submit(running, make_request(seed=3), make_request(seed=4))
        release.set()
        for recorder in (first, *others):
            recorder.image()


def test_a_stopped_scheduler_finishes_its_images_and_accepts_no_more(model: Any) -> None:
    release = held(model)
    with scheduler(model, max_batch_size=1) as running:
        ended = submit(running, make_request(), make_request(seed=1))
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        while not running._stopping.is_set():
            time.sleep(0.001)
        with pytest.raises(NoEngineError):
            submit(running, make_request())
        release.set()
        stopping.join(20)
        for recorder in ended:
            recorder.image(1)


# Health


def test_a_stuck_device_is_unhealthy_and_an_idle_one_is_not(model: Any) -> None:
    release = held(model)
    with scheduler(model, watchdog_timeout_s=0.6) as running:
        time.sleep(1.3)
        assert running.unhealthy_reason() is None
        (recorder,) = submit(running, make_request())
        _until(lambda: running.unhealthy_reason() is not None)
        assert "no progress" in str(running.unhealthy_reason())
        release.set()
        recorder.image()
        assert running.unhealthy_reason() is None


def test_previews_are_sent_at_their_interval(model: Any) -> None:
    with scheduler(model) as running:
        shown, plain = submit(
            running, make_request(steps=6, preview_interval=2), make_request(steps=6, seed=1)
        )
        shown.image()
        plain.image()
    assert [image.size for image in shown.previews] == [(8, 8)] * 2  # after steps 2 and 4
    assert plain.previews == []


def _until(holds: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)

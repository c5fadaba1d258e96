"""The batcher over a tiny model: who shares a call, who fails, and who does not notice."""

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
from services.errors import LateError, NoEngineError, QueueFullError
from services.inference.scheduler.request import ScheduledRequest
from services.inference.scheduler.scheduler import BatchScheduler, BatchSchedulerSettings

from .waiting import Model, Waiting, ticket, token

ONE_LEVEL = 1  # of 255: what rounding may change


@contextmanager
def batcher(model: Any, **settings: Any) -> Iterator[BatchScheduler]:
    running = BatchScheduler(model, BatchSchedulerSettings(**settings))
    running.start()
    try:
        yield running
    finally:
        running.stop(10)


def submit(
    running: BatchScheduler, *generated_images: tuple[ScheduledRequest, Waiting]
) -> list[Waiting]:
    running.submit([each for each, _ in generated_images])
    return [waiting for _, waiting in generated_images]


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


@pytest.fixture
def model(tiny_backbone: Backbone) -> Any:
    return Model(tiny_backbone)


def held(model: Model) -> threading.Event:
    """The model waits at its first call until this is set."""
    gate = threading.Event()

    def wait(noisy: Tensor, conditioning: Conditioning) -> None:
        gate.wait(20)

    model.before = wait
    return gate


# What comes out


def test_images_of_many_tenants_come_out_as_the_engine_alone_generates_them(
    tiny_backbone: Backbone,
) -> None:
    generated_images = [
        ticket("a <rex>", f"tenant{seed}", seed, tokens={"<rex>": token()}, guidance=1.0 + seed)
        for seed in range(5)
    ]
    with batcher(tiny_backbone, cap=3) as running:
        ended = submit(running, *generated_images)
        images = [waiting.image() for waiting in ended]
    alone = [generate(tiny_backbone, [each.request], steps=4)[0] for each, _ in generated_images]
    assert max(map(difference, images, alone)) <= ONE_LEVEL
    assert difference(images[0], images[1]) > 10 * ONE_LEVEL
    assert [waiting.steps for waiting in ended] == [[1, 2, 3, 4]] * 5


def test_who_looks_on_is_generated_before_a_job_and_the_job_is_generated_too(model: Any) -> None:
    gate = held(model)
    with batcher(model, cap=1, queue=8) as running:
        job = submit(running, *(ticket(seed=seed, background=True) for seed in range(6)))
        while not model.calls:
            time.sleep(0.001)
        submit(running, ticket(seed=6, background=True))
        with pytest.raises(QueueFullError):
            submit(running, ticket(seed=7, background=True))
        (looking,) = submit(running, ticket(seed=8))
        gate.set()
        looking.image()
        for one in job:
            one.image()
    assert [one.ended_at > looking.ended_at for one in job] == [False] + [True] * 5


def test_one_joins_at_the_next_step_and_leaves_when_it_is_done(model: Any) -> None:
    gate = held(model)
    with batcher(model) as running:
        (slow,) = submit(running, ticket(steps=12, guidance=1.0))
        while not model.calls:
            time.sleep(0.001)
        (quick,) = submit(running, ticket(steps=2, seed=1, guidance=1.0))
        gate.set()
        quick.image()
        slow.image()
    assert model.calls == [1, 2, 2, *[1] * 9]
    assert quick.ended_at < slow.ended_at


def test_whole_batches_let_nobody_join(model: Any) -> None:
    gate = held(model)
    with batcher(model, joining=False) as running:
        (first,) = submit(running, ticket(steps=3, guidance=1.0))
        while not model.calls:
            time.sleep(0.001)
        others = submit(running, *(ticket(steps=3, seed=i, guidance=1.0) for i in (1, 2)))
        gate.set()
        first.image()
        for other in others:
            other.image()
    assert model.calls == [1, 1, 1, 2, 2, 2]


def test_one_that_wants_to_be_alone_is_the_same_bit_for_bit_in_any_crowd(model: Any) -> None:
    images: list[Image.Image] = []
    for crowd in range(0, 9, 4):
        with batcher(model) as running:
            others = submit(running, *(ticket(seed=50 + crowd + i) for i in range(crowd)))
            (alone,) = submit(running, ticket(alone=True))
            images.append(alone.image())
            for other in others:
                other.image()
    assert images[0].tobytes() == images[1].tobytes() == images[2].tobytes()


def test_sizes_take_turns(model: Any) -> None:
    sizes: list[int] = []
    model.before = lambda noisy, conditioning: sizes.append(noisy.shape[-1])
    with batcher(model) as running:
        small = [ticket(size=(8, 8), steps=6, seed=i) for i in range(2)]
        ended = submit(running, *small, ticket(size=(16, 16), steps=6))
        assert [waiting.image().size for waiting in ended] == [(8, 8), (8, 8), (16, 16)]
    assert sizes[:6] == [sizes[0], sizes[1]] * 3
    assert sizes[0] != sizes[1]


def test_a_size_that_many_want_keeps_nobody_else_out(model: Any) -> None:
    with batcher(model, sizes=1, turn=0.0, cap=2, queue=100) as running:
        crowd = submit(running, *(ticket(size=(8, 8), seed=i, steps=6) for i in range(30)))
        (other,) = submit(running, ticket(tenant="ben", steps=2))
        other.image()
        for one in crowd:
            one.image()
    before = sum(one.ended_at < other.ended_at for one in crowd)
    assert before <= 4


def test_tenants_take_turns_at_a_full_batcher(model: Any) -> None:
    gate = held(model)
    with batcher(model, cap=2, queue=100) as running:
        crowd = submit(running, *(ticket(seed=i) for i in range(20)))
        while not model.calls:
            time.sleep(0.001)
        (other,) = submit(running, ticket(tenant="ben"))
        gate.set()
        other.image()
        for one in crowd:
            one.image()
    assert sum(one.ended_at < other.ended_at for one in crowd) <= 3


# Who fails


def poisoned(noisy: Tensor, conditioning: Conditioning) -> None:
    """Breaks if one of the rows is not a number."""
    if not bool(conditioning.hidden.isfinite().all()):
        raise RuntimeError("poison")


def poison() -> LearnedToken:
    """Finite; what becomes of it is not."""
    return LearnedToken("<rex>", {"text_encoder": torch.full((1, 32), 1e38)})


def test_a_poison_fails_alone_and_its_neighbours_do_not_notice(model: Any) -> None:
    model.before = poisoned
    good = [ticket("a <rex>", seed=i, tokens={"<rex>": token()}) for i in range(7)]
    bad = ticket("a <rex>", seed=7, tokens={"<rex>": poison()})
    with batcher(model) as running:
        ended = submit(running, *good[:3], bad, *good[3:])
        for number, waiting in enumerate(ended):
            if number == 3:
                error = waiting.error()
                assert isinstance(error, GenerationFailedError)
                assert "broke at this image" in str(error)
            else:
                waiting.image()
        # It goes on.
        (after,) = submit(running, ticket())
        after.image()
    alone = generate(model._backbone, [good[6][0].request], steps=4)[0]
    assert difference(ended[7].image(), alone) <= ONE_LEVEL


def test_a_prompt_that_cannot_be_read_fails_alone(model: Any) -> None:
    calls = 0

    def reading() -> None:
        nonlocal calls
        calls += 1
        if calls in (1, 2):  # all of them, and the first half
            raise RuntimeError("poison")

    model.reading = reading
    with batcher(model) as running:
        first, second = submit(running, ticket("a cat"), ticket("a dog", seed=1))
        assert isinstance(first.error(), GenerationFailedError)
        second.image()


def test_memory_that_runs_out_halves_the_calls_and_nobody_fails(model: Any) -> None:
    def tight(noisy: Tensor, conditioning: Conditioning) -> None:
        if len(noisy) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.before = tight
    with batcher(model) as running:
        ended = submit(running, *(ticket(seed=i, guidance=1.0) for i in range(8)))
        for waiting in ended:
            waiting.image()
        later = submit(running, *(ticket(seed=i, guidance=1.0) for i in range(4)))
        calls = len(model.calls)
        for waiting in later:
            waiting.image()
    assert max(model.calls[calls:]) == 2


def test_memory_that_is_too_little_for_one_is_told(model: Any) -> None:
    def full(noisy: Tensor, conditioning: Conditioning) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.before = full
    with batcher(model) as running:
        (waiting,) = submit(running, ticket())
        assert "memory ran out with this image alone" in str(waiting.error())


def test_a_device_that_broke_fails_all_with_something_to_try_again(model: Any) -> None:
    def broken(noisy: Tensor, conditioning: Conditioning) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    model.before = broken
    with batcher(model) as running:
        ended = submit(running, ticket(), ticket(seed=1))
        assert all(isinstance(waiting.error(), NoEngineError) for waiting in ended)
        assert "illegal memory access" in str(running.trouble())
        with pytest.raises(NoEngineError):
            submit(running, ticket())


def test_a_device_that_breaks_at_a_preview_is_broken_too(model: Any) -> None:
    def broken(latents: Tensor) -> Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    model.decode_latents = broken
    with batcher(model) as running:
        ended = submit(running, ticket(previews=1), ticket(seed=1))
        assert all(isinstance(waiting.error(), NoEngineError) for waiting in ended)
    assert len(model.calls) == 1


def test_memory_that_runs_out_at_last_takes_no_more_into_a_call(model: Any) -> None:
    """Where calls have been halved already, decoding all together does not make them larger."""
    decode = model._backbone.decode_latents

    def tight(noisy: Tensor, conditioning: Conditioning) -> None:
        if len(noisy) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def tight_too(latents: Tensor) -> Tensor:
        if len(latents) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents)

    model.before, model.decode_latents = tight, tight_too
    with batcher(model) as running:
        ended = submit(running, *(ticket(seed=i, guidance=1.0) for i in range(8)))
        for waiting in ended:
            waiting.image()
        calls = len(model.calls)
        for waiting in submit(running, *(ticket(seed=i, guidance=1.0) for i in range(4))):
            waiting.image()
    assert set(model.calls[calls:]) == {1}


def test_what_is_submitted_as_a_batcher_ends_is_turned_away(model: Any) -> None:
    running = BatchScheduler(model, BatchSchedulerSettings())
    running.start()
    running.stop(10)
    # As if it had looked before the batcher was told to stop.
    running._stopping.clear()
    (waiting,) = submit(running, ticket())
    assert isinstance(waiting.error(1), NoEngineError)


def test_a_image_that_is_not_finite_fails_alone(model: Any) -> None:
    decode = model._backbone.decode_latents

    def overflowing(latents: Tensor) -> Tensor:
        pixels = decode(latents)
        pixels[0] = float("nan")
        return pixels

    model.decode_latents = overflowing
    with batcher(model) as running:
        bad, good = submit(running, ticket(), ticket(seed=1))
        assert "NaN or infinity" in str(bad.error())
        good.image()


# Who is not generated for


def test_whoever_left_is_generated_no_further(model: Any) -> None:
    gate = held(model)
    with batcher(model, cap=1) as running:
        running_one, waiting_one, other = (ticket(seed=i, guidance=1.0, steps=50) for i in range(3))
        submit(running, running_one, waiting_one)
        while not model.calls:
            time.sleep(0.001)
        running_one[0].gone = waiting_one[0].gone = True
        other[0].steps = 2
        submit(running, other)
        gate.set()
        other[1].image()
    assert model.calls == [1] * 3
    assert running_one[1].outcomes == waiting_one[1].outcomes == []


def test_one_whose_time_has_passed_is_told_and_not_begun(model: Any) -> None:
    gate = held(model)
    with batcher(model, cap=1) as running:
        first = ticket(steps=2, guidance=1.0)
        late = ticket(seed=1, deadline=time.monotonic() + 0.05)
        submit(running, first, late)
        time.sleep(0.1)
        gate.set()
        first[1].image()
        assert isinstance(late[1].error(), LateError)
    assert model.calls == [1, 1]


def test_a_full_queue_turns_all_of_a_request_away(model: Any) -> None:
    gate = held(model)
    with batcher(model, cap=1, queue=3) as running:
        (first,) = submit(running, ticket())
        while not model.calls:
            time.sleep(0.001)
        others = submit(running, ticket(seed=1), ticket(seed=2))
        with pytest.raises(QueueFullError):
            submit(running, ticket(seed=3), ticket(seed=4))
        gate.set()
        for waiting in (first, *others):
            waiting.image()


def test_a_batcher_that_stops_ends_what_it_has_and_takes_no_more(model: Any) -> None:
    gate = held(model)
    with batcher(model, cap=1) as running:
        ended = submit(running, ticket(), ticket(seed=1))
        stopping = threading.Thread(target=running.stop)
        stopping.start()
        while not running._stopping.is_set():
            time.sleep(0.001)
        with pytest.raises(NoEngineError):
            submit(running, ticket())
        gate.set()
        stopping.join(20)
        for waiting in ended:
            waiting.image(1)


# Health


def test_a_device_that_is_stuck_is_noticed_and_one_that_is_idle_is_not(model: Any) -> None:
    gate = held(model)
    with batcher(model, patience=0.6) as running:
        time.sleep(1.3)
        assert running.trouble() is None
        (waiting,) = submit(running, ticket())
        _until(lambda: running.trouble() is not None)
        assert "nothing has moved" in str(running.trouble())
        gate.set()
        waiting.image()
        assert running.trouble() is None


def test_previews_come_when_they_are_asked_for(model: Any) -> None:
    with batcher(model) as running:
        shown, plain = submit(running, ticket(steps=6, previews=2), ticket(steps=6, seed=1))
        shown.image()
        plain.image()
    assert [image.size for image in shown.previews] == [(8, 8)] * 2  # after steps 2 and 4
    assert plain.previews == []


def _until(holds: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)

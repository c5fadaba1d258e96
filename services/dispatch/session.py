"""One lease of a dispatcher for one model, from the first claim until it is drained or loses it.

Its thread runs an event loop, in which all requests to engines wait. The heartbeat, the outbox and
the claims have threads of their own, so that none of them delays another.
"""

import asyncio
import random
import threading
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from functools import partial

from pydantic import JsonValue, ValidationError

from dti_engine.errors import DTIError, FailedError
from services.contracts.generation import (
    FailureEvent,
    GenerateRequest,
    ImageEvent,
    ImageSpec,
    build_image_spec,
)
from services.contracts.models import generation_pool
from services.dispatch.metrics import DispatcherMetrics
from services.engine_client import EngineClient, GenerationStream, rebuild_error
from services.errors import DeadlineExceededError, NoEngineError, ServiceError, UnavailableError
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.ledger.outbox import Outbox
from services.ledger.records import JobRecord
from services.ledger.worker import Heartbeat, WorkerSession

_RETRYABLE = (NoEngineError, DeadlineExceededError, UnavailableError, FailedError)
"""Errors that are not the image's fault. They cost an attempt all the same: an image that kills its
engine must not take down engines for ever.
"""

_BASE_BACKOFF_S = 0.25
_MAX_BACKOFF_S = 30.0


class ImageNotGeneratedError(Exception):
    """An image was not generated; `retry` says whether another attempt may succeed."""

    def __init__(self, reason: str, *, retry: bool) -> None:
        super().__init__(reason)
        self.reason, self.retry = reason, retry


class EngineBackoff:
    """Exponential backoff with jitter, shared by all images of a model. For one event loop.

    It is shared, which per-call retry libraries are not: when one request learns that the engines
    have no room, all others wait as well.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._rejections = 0
        self._wait_until = 0.0
        """Time on the event loop's clock."""

    async def wait(self) -> None:
        """Wait until engines may be asked; the jitter spreads the images that wait."""
        loop = asyncio.get_running_loop()
        while (remaining_s := self._wait_until - loop.time()) > 0:
            await asyncio.sleep(remaining_s * self._rng.uniform(1.0, 1.25))

    def record_rejection(self, retry_after_s: float) -> None:
        """Back off, for at least as long as the engine asks for."""
        now = asyncio.get_running_loop().time()
        # Many requests that were sent together are rejected together: that counts as one.
        if now >= self._wait_until:
            self._rejections += 1
            backoff_s = _BASE_BACKOFF_S * 2 ** min(self._rejections, 10)
            self._wait_until = now + min(max(retry_after_s, backoff_s), _MAX_BACKOFF_S)

    def record_success(self) -> None:
        """Reset the backoff: an engine has accepted a request."""
        self._rejections = 0


@dataclass(frozen=True)
class ImageGenerator:
    """Generates images of one model by its engines. For one event loop."""

    model: str
    client: EngineClient
    timeout_s: float
    """How long an engine that has accepted an image may take."""
    backoff: EngineBackoff
    metrics: DispatcherMetrics

    async def generate(self, attempt: Attempt) -> ImageEvent:
        """Return the image of an attempt, after waiting for room in an engine if need be.

        Raises ImageNotGeneratedError if the attempt has failed.
        """
        try:
            image = build_image_spec(attempt.item.work, attempt.shared)
        except (ValidationError, LookupError, TypeError) as error:
            raise ImageNotGeneratedError(
                f"the item describes no image: {type(error).__name__}", retry=False
            ) from error
        stream = await self._start(attempt, image)
        attempt.report_progress({"phase": "generation"})
        try:
            async with aclosing(stream.events()) as events:
                async for event in events:
                    if isinstance(event, ImageEvent):
                        return event
                    if isinstance(event, FailureEvent):
                        raise rebuild_error(event.error, event.detail)
        except DTIError as error:
            if isinstance(error, NoEngineError):
                self.backoff.record_rejection(error.retry_after_s)
            raise self._not_generated(attempt, error) from error
        finally:
            await stream.close()
        raise AssertionError("a stream of events ends with the last image, or raises")

    async def _start(self, attempt: Attempt, image: ImageSpec) -> GenerationStream:
        """Send the request, again and again until an engine accepts it."""
        attempt.report_progress({"phase": "waiting"})
        request = GenerateRequest(
            tenant=attempt.keys.tenant,
            images=(image,),
            timeout_s=self.timeout_s,
            background=True,
        )
        request_id = f"{attempt.keys.job}.{attempt.item_ref.index}.{attempt.number}"
        while True:
            await self.backoff.wait()
            try:
                stream = await self.client.generate(self.model, request, request_id)
            except NoEngineError as error:
                # No image was begun, so that this costs no attempt.
                self.backoff.record_rejection(error.retry_after_s)
                self.metrics.engines_busy(self.model, error)
                continue
            except DTIError as error:
                raise self._not_generated(attempt, error) from error
            self.backoff.record_success()
            return stream

    def _not_generated(self, attempt: Attempt, error: DTIError) -> ImageNotGeneratedError:
        if type(error) in (ServiceError, DTIError):
            # The text of an unexpected error may hold internals, which are not for tenants.
            self.metrics.attempt_broke(attempt, error)
            return ImageNotGeneratedError("the engine failed: tell the operator", retry=True)
        return ImageNotGeneratedError(str(error), retry=isinstance(error, _RETRYABLE))


def image_report(image: ImageEvent) -> dict[str, JsonValue]:
    """Return the few facts about an image that lists show; the image itself holds all of them."""
    return {
        "seed": image.settings.get("seed"),
        "steps": image.settings.get("steps"),
        "bytes": len(image.png),
        "warnings": list(image.warnings),
    }


_CLAIMS_PER_ITERATION = 4
"""Claims are slow, so that a few images start before the next ones are claimed."""


class DispatchSession:
    """A lease of a dispatcher for one model. Not thread-safe."""

    def __init__(
        self,
        ledger: Ledger,
        model: str,
        open_client: Callable[[], EngineClient],
        *,
        max_in_flight: int,
        image_timeout_s: float,
        metrics: DispatcherMetrics,
        draining: threading.Event,
        on_turn: Callable[[], object] = lambda: None,
    ) -> None:
        """Create a session.

        Args:
            ledger: The ledger to claim images from.
            model: The name of the served model.
            open_client: Returns a client for the event loop of this session.
            max_in_flight: The largest number of images that are claimed at a time.
            image_timeout_s: How long an engine may take for an image.
            metrics: Counts and logs what happens.
            draining: Set when the session should end.
            on_turn: Called at each turn of the session's loop.
        """
        self._worker = WorkerSession(ledger, generation_pool(model), _is_generation_job)
        self._model, self._open_client = model, open_client
        self._max_in_flight, self._image_timeout_s = max_in_flight, image_timeout_s
        self._poll_interval_s = ledger.settings.poll_interval_s
        self._metrics, self._draining, self._on_turn = metrics, draining, on_turn
        # An attempt is in flight until its end is written, which then makes room for a claim.
        self._outbox = Outbox(metrics.not_written, lambda: self._wake())
        self._tasks: dict[asyncio.Task[None], Attempt] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

    def run(self) -> None:
        """Generate images until drained, or until the lease is lost.

        Raises ServiceError if the lease cannot be acquired or released. Neither harms a job: a
        lease that is not released expires.
        """
        self._worker.begin()
        # The lease ends after the outbox, whose last writes need it.
        with Heartbeat(self._worker), self._outbox:
            asyncio.run(self._dispatch())
        if self._worker.lease.lost:
            self._metrics.lease_lost(self._worker.lease.worker)
        else:
            self._worker.end()

    async def _dispatch(self) -> None:
        self._loop = asyncio.get_running_loop()
        client = self._open_client()
        generator = ImageGenerator(
            self._model, client, self._image_timeout_s, EngineBackoff(), self._metrics
        )
        try:
            while not self._draining.is_set() and not self._worker.lease.lost:
                await self._run_iteration(generator)
        finally:
            await self._release_all()
            await client.close()

    async def _run_iteration(self, generator: ImageGenerator) -> None:
        """Cancel stopped attempts, claim new ones, and wait if there are none."""
        self._on_turn()
        # Cancelling closes the engine's stream, so that it drops the image.
        for task, attempt in self._tasks.items():
            if attempt.stop_reason:
                task.cancel()
        claimed = await self._claim()
        for attempt in claimed:
            task = asyncio.create_task(self._run_attempt(generator, attempt))
            self._tasks[task] = attempt
            task.add_done_callback(self._on_task_done)
        # Let the tasks start: one that is cancelled before its first line never releases its
        # attempt.
        await asyncio.sleep(0)
        if not claimed:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval_s):
                    await self._woken.wait()
            self._woken.clear()

    async def _claim(self) -> list[Attempt]:
        limit = min(self._max_in_flight, len(self._worker.attempts) + _CLAIMS_PER_ITERATION)
        try:
            # A claim takes several requests to the store. Meanwhile the event loop has to read the
            # images that engines send.
            return await asyncio.to_thread(self._worker.claim, limit)
        except ServiceError as error:
            # The next iteration tries again. Any other error is a bug, and ends the session.
            self._metrics.store_failed(error)
            return []

    async def _run_attempt(self, generator: ImageGenerator, attempt: Attempt) -> None:
        """Generate one image, and write the end of the attempt."""
        try:
            image = await generator.generate(attempt)
        except asyncio.CancelledError:
            reason = "its dispatcher was drained"
            self._end(attempt, "released", partial(attempt.release, reason), reason)
        except ImageNotGeneratedError as error:
            write = partial(attempt.fail, error.reason, retry=error.retry)
            self._end(attempt, "failed", write, error.reason)
        else:
            write = partial(attempt.succeed, image.png, image_report(image))
            self._end(attempt, "succeeded", write)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Forget a task, and end its attempt as failed if an unforeseen error ended the task."""
        attempt = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()):
            self._metrics.attempt_broke(attempt, error)
            reason = f"its dispatcher failed at it: {type(error).__name__}"
            self._end(attempt, "failed", partial(attempt.fail, reason), reason)

    def _end(
        self, attempt: Attempt, cause: str, write: Callable[[], None], reason: str = ""
    ) -> None:
        if attempt.stop_reason:
            cause, write, reason = attempt.stop_reason, attempt.abandon, attempt.stop_reason
        self._metrics.attempt_ended(attempt, cause, reason)
        self._outbox.send(attempt, write)

    async def _release_all(self) -> None:
        """Cancel all tasks, which releases their attempts for other dispatchers."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wake(self) -> None:
        """End the wait of the event loop. Called from the outbox's thread."""
        if self._loop:
            # A closed loop raises RuntimeError, and has nothing to wake.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._woken.set)


def _is_generation_job(job: JobRecord) -> bool:
    return job.kind == "generation"

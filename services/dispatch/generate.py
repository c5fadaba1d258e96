"""Generation of one image of a job by an engine, with backoff while engines have no room."""

import asyncio
import random
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import JsonValue, ValidationError

from dti_engine.errors import DTIError, FailedError
from services.contracts.generation import (
    FailureEvent,
    GenerateRequest,
    ImageEvent,
    ImageSpec,
    build_image_spec,
)
from services.dispatch.metrics import DispatcherMetrics
from services.engine_client import EngineClient, GenerationStream, rebuild_error
from services.errors import DeadlineExceededError, NoEngineError, ServiceError, UnavailableError
from services.ledger.attempts import Attempt

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

"""One image of a job, from an engine: what was generated, or why it was not."""

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
from services.dispatch.metrics import Events
from services.engine_client import EngineClient, rebuild_error
from services.errors import LateError, NoEngineError, ServiceError, UnavailableError
from services.ledger.attempts import Attempt

_PASSING = (NoEngineError, LateError, UnavailableError, FailedError)
"""Nothing that is wrong with an image, though it may be what its engine died of: it costs an
attempt, so that none takes down engines for ever.
"""

_LONGEST = 30.0
"""Seconds between two requests of an engine that has refused many."""


class ImageNotGeneratedError(Exception):
    """An image was not generated. `again`: it may be the next time."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.reason, self.again = reason, again


class EngineBackoff:
    """Keeps all from engines that have no room, or are not there: for longer each time, until one
    takes something. For one event loop.
    """

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self._refused = 0
        self._opens = 0.0
        """On the loop's clock."""

    async def wait(self) -> None:
        """Until engines may be asked. Not all who wait come at once."""
        loop = asyncio.get_running_loop()
        while (left := self._opens - loop.time()) > 0:
            await asyncio.sleep(left * self._chance.uniform(1.0, 1.25))

    def refused(self, seconds: float) -> None:
        """seconds: after which the engine wants to be asked again."""
        now = asyncio.get_running_loop().time()
        if now >= self._opens:  # What many hear of one moment counts once.
            self._refused += 1
            pause = min(max(seconds, 0.25 * 2 ** min(self._refused, 10)), _LONGEST)
            self._opens = now + pause

    def passed(self) -> None:
        """An engine has taken something."""
        self._refused = 0


@dataclass(frozen=True)
class ImageGenerator:
    """Has images of one model generated. For one event loop."""

    model: str
    engines: EngineClient
    seconds: float
    """Until an engine that has taken an image must be done with it."""
    gate: EngineBackoff
    events: Events

    async def generate(self, attempt: Attempt) -> ImageEvent:
        """Waits as long as there is no room for it.

        Raises: ImageNotGeneratedError.
        """
        try:
            image = build_image_spec(attempt.item.work, attempt.shared)
        except (ValidationError, LookupError, TypeError) as error:
            raise ImageNotGeneratedError(
                f"what is written of it is no image: {type(error).__name__}", again=False
            ) from error
        attempt.report_progress({"phase": "waiting"})
        request = f"{attempt.keys.job}.{attempt.item_ref.index}.{attempt.number}"
        while True:
            await self.gate.wait()
            try:
                generating = await self.engines.generate(
                    self.model, self._wanted(attempt.keys.tenant, image), request
                )
            except NoEngineError as error:
                # Nothing was begun: it costs no attempt.
                self.gate.refused(error.seconds)
                self.events.refused(self.model, error)
                continue
            except DTIError as error:
                raise self._missing(attempt, error) from error
            self.gate.passed()
            attempt.report_progress({"phase": "generation"})
            try:
                async with aclosing(generating.events()) as events:
                    async for event in events:
                        if isinstance(event, ImageEvent):
                            return event
                        if isinstance(event, FailureEvent):
                            raise rebuild_error(event.error, event.detail)
            except DTIError as error:
                if isinstance(error, NoEngineError):
                    self.gate.refused(error.seconds)
                raise self._missing(attempt, error) from error
            finally:
                await generating.close()

    def _missing(self, attempt: Attempt, error: DTIError) -> ImageNotGeneratedError:
        if type(error) in (ServiceError, DTIError):
            # What it says is not for tenants.
            self.events.broke(attempt, error)
            return ImageNotGeneratedError(
                "what generates has failed: tell the operator", again=True
            )
        return ImageNotGeneratedError(str(error), again=isinstance(error, _PASSING))

    def _wanted(self, tenant: str, image: ImageSpec) -> GenerateRequest:
        return GenerateRequest(
            tenant=tenant, images=(image,), timeout_s=self.seconds, background=True
        )


def report(generated: ImageEvent) -> dict[str, JsonValue]:
    """Few words, for lists; all else stands in the image itself."""
    said = generated.settings
    return {
        "seed": said.get("seed"),
        "steps": said.get("steps"),
        "bytes": len(generated.png),
        "warnings": list(generated.warnings),
    }

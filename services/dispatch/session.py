"""One life of a dispatcher, for one model: from the first claim until it is drained, or its lease
is lost.

Its thread has an event loop, in which engines are waited for. The heartbeat, the outbox and claims
have threads of their own, so that nobody waits for another's requests.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from services.contracts.models import generation_pool
from services.dispatch.generate import EngineBackoff, ImageGenerator, ImageNotGeneratedError, report
from services.dispatch.metrics import Events
from services.engine_client import EngineClient
from services.ledger.attempts import Attempt
from services.ledger.ledger import Ledger
from services.ledger.outbox import Outbox
from services.ledger.records import JobRecord
from services.ledger.worker import Heartbeat, WorkerSession

_CLAIMED = 4
"""Images that are claimed before the first of them is begun with."""


class DispatchSession:
    """For one thread."""

    def __init__(
        self,
        ledger: Ledger,
        model: str,
        engines: Callable[[], EngineClient],
        *,
        at_once: int,
        seconds: float,
        events: Events,
        draining: threading.Event,
    ) -> None:
        """engines: makes what is of one event loop. at_once: images in hand. seconds: that one
        may take.
        """
        self._worker = WorkerSession(ledger, generation_pool(model), _is_of_images)
        self._model, self._engines, self._seconds = model, engines, seconds
        self._at_once, self._pause = at_once, ledger.settings.poll_interval_s
        self._events, self._draining = events, draining
        # Only what is written is in hand no more, so that there is room.
        self._outbox = Outbox(events.unwritten, lambda: self._look_again())
        self._tasks: dict[asyncio.Task[None], Attempt] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._something = asyncio.Event()

    def run(self) -> None:
        """Work until drained, or until the lease is lost.

        Raises: ServiceError if it cannot begin, or cannot end, which harms nobody.
        """
        self._worker.begin()
        # What is written last still needs the lease.
        with Heartbeat(self._worker), self._outbox:
            asyncio.run(self._work())
        if self._worker.lease.lost:
            self._events.lease_lost(self._worker.lease.worker)
        else:
            self._worker.end()

    async def _work(self) -> None:
        self._loop = asyncio.get_running_loop()
        engines = self._engines()
        generator = ImageGenerator(
            self._model, engines, self._seconds, EngineBackoff(), self._events
        )
        try:
            while not self._draining.is_set() and not self._worker.lease.lost:
                await self._turn(generator)
        finally:
            await self._give_back()
            await engines.close()

    async def _turn(self, generator: ImageGenerator) -> None:
        for task, attempt in self._tasks.items():
            if attempt.stop_reason:
                task.cancel()
        claimed = await self._claim()
        for attempt in claimed:
            task = asyncio.create_task(self._generate(generator, attempt))
            self._tasks[task] = attempt
            task.add_done_callback(self._tasks.pop)
        # Each begins now: one that is cancelled before would give nothing back.
        await asyncio.sleep(0)
        if not claimed:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause):
                    await self._something.wait()
            self._something.clear()

    async def _claim(self) -> list[Attempt]:
        most = min(self._at_once, len(self._worker.attempts) + _CLAIMED)
        try:
            return await asyncio.to_thread(self._worker.claim, most)
        except Exception as error:
            # Whatever it is: one that claims nothing would look idle for ever.
            self._events.trouble(error)
            return []

    async def _generate(self, generator: ImageGenerator, attempt: Attempt) -> None:
        try:
            generated = await generator.generate(attempt)
        except asyncio.CancelledError:
            reason = "its dispatcher was drained"
            self._end(attempt, "released", partial(attempt.release, reason), reason)
        except ImageNotGeneratedError as error:
            write = partial(attempt.fail, error.reason, retry=error.again)
            self._end(attempt, "failed", write, error.reason)
        except Exception as error:
            self._events.broke(attempt, error)
            reason = f"its dispatcher broke at it: {type(error).__name__}"
            self._end(attempt, "failed", partial(attempt.fail, reason), reason)
        else:
            self._end(
                attempt, "succeeded", partial(attempt.succeed, generated.png, report(generated))
            )

    def _end(self, attempt: Attempt, how: str, write: Callable[[], None], reason: str = "") -> None:
        if attempt.stop_reason:
            how, write, reason = "stopped", attempt.abandon, attempt.stop_reason
        self._events.ended(attempt, how, reason)
        self._outbox.send(attempt, write)

    async def _give_back(self) -> None:
        """All that is in hand: others go on with it at once."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _look_again(self) -> None:
        """From the outbox's thread."""
        if self._loop:
            with suppress(RuntimeError):  # The loop is closed.
                self._loop.call_soon_threadsafe(self._something.set)


def _is_of_images(job: JobRecord) -> bool:
    return job.kind == "generation"

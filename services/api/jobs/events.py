"""Jobs that are listened to. One poller looks at each, however many listen to it; whoever is slow
misses what lay between, and nobody is waited for.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from services import logs
from services.api.jobs.schemas import Job, Progress, Said
from services.contracts.models import ServedModels
from services.errors import (
    DeletedError,
    QuotaError,
    ServiceError,
    UnavailableError,
    UnknownJobError,
    UnknownKeyError,
)
from services.ledger.ledger import Ledger
from services.ledger.queries import view_job
from services.settings import ApiSettings

_THREADS = 8
"""That pollers share: they take none from requests."""

_CHECKED = 15.0
"""Seconds after which a listener's key is checked again."""

log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A job at one moment."""

    job: Job | None
    """None: it was deleted."""
    said: Said


@dataclass(eq=False)
class _Watch:
    """A job, its poller and its listeners."""

    seen: _Seen | None = None
    listeners: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once, and replaced by another, at each look that shows something new."""
    poller: "asyncio.Task[None] | None" = None

    def show(self, seen: _Seen | None) -> None:
        self.seen = seen
        before, self.changed = self.changed, asyncio.Event()
        before.set()


class EventBroadcaster:
    """Of one process, on its event loop."""

    def __init__(
        self, ledger: Ledger, progress: Progress, served_models: ServedModels, settings: ApiSettings
    ) -> None:
        self._ledger = ledger
        self._progress = progress
        self._models = served_models
        self._settings = settings
        self._limiter: CapacityLimiter | None = None
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._of_tenant: dict[str, int] = {}
        self._closed = False

    @property
    def watched(self) -> int:
        """Jobs that are polled."""
        return len(self._watches)

    def close(self) -> None:
        """Let all listeners go, soon, and take no more. From a signal handler, too."""
        self._closed = True

    async def stop(self) -> None:
        """End all pollers, at the end of the process."""
        self.close()
        pollers = [watch.poller for watch in self._watches.values() if watch.poller]
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)

    def enter(self, tenant: str, job: str) -> "JobSubscriber":
        """Listen to a job, until the listener leaves. Raises: QuotaError."""
        listening = self._of_tenant.get(tenant, 0)
        if listening >= self._settings.max_streams_per_tenant:
            raise QuotaError(
                f"{listening} listeners of this tenant are here already: that is all", "30"
            )
        self._of_tenant[tenant] = listening + 1
        watch = self._watches.get((tenant, job))
        if watch is None:
            watch = self._watches[tenant, job] = _Watch()
            watch.poller = asyncio.create_task(self._poll(tenant, job, watch))
        watch.listeners += 1
        return JobSubscriber(self, tenant, job, watch)

    def leave(self, tenant: str, job: str, watch: _Watch) -> None:
        """The last one ends the poller."""
        self._of_tenant[tenant] -= 1
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]
        watch.listeners -= 1
        if not watch.listeners and watch.poller:
            watch.poller.cancel()
            if self._watches.get((tenant, job)) is watch:
                del self._watches[tenant, job]

    async def listen(self, watch: _Watch, check: Callable[[], object]) -> AsyncIterator[bytes]:
        """What is new, as server-sent events, to the end. `check` raises once the listener may hear
        no more.
        """
        said: Said = {}
        job: Job | None = None
        began = spoken = checked = time.monotonic()
        while not self._closed and time.monotonic() - began < self._settings.max_stream_s:
            changed, seen = watch.changed, watch.seen
            if seen and seen.job is None:
                yield _event("end", {"state": "deleted"})
                return
            if seen and seen.job:
                if seen.job != job:
                    job, spoken = seen.job, time.monotonic()
                    yield _event("job", job.model_dump(mode="json"))
                if new := {i: now for i, now in seen.said.items() if said.get(i, {}) != now}:
                    said, spoken = seen.said, time.monotonic()
                    yield _event("progress", {str(index): now for index, now in new.items()})
                if seen.job.state.ended:
                    yield _event("end", seen.job.model_dump(mode="json"))
                    return
            if time.monotonic() - spoken >= self._settings.keepalive_interval_s:
                spoken = time.monotonic()
                yield KEEPALIVE_COMMENT
            if time.monotonic() - checked >= _CHECKED:
                checked = time.monotonic()
                if not await _still(check):
                    return
            # No longer than a second, so that closing is heard.
            await _wait(
                changed,
                min(1.0, self._settings.keepalive_interval_s, self._settings.event_poll_interval_s),
            )

    async def _poll(self, tenant: str, job: str, watch: _Watch) -> None:
        if self._limiter is None:
            self._limiter = CapacityLimiter(_THREADS)
        while True:
            began = time.monotonic()
            seen = watch.seen
            try:
                seen = await to_thread.run_sync(self._look, tenant, job, limiter=self._limiter)
            except UnavailableError:
                pass  # The next look may show it.
            except ServiceError as error:
                log.warning("job not seen", job=job, error=type(error).__name__)
            if seen != watch.seen:
                watch.show(seen)
            took = time.monotonic() - began
            await asyncio.sleep(max(self._settings.event_poll_interval_s, 2 * took))

    def _look(self, tenant: str, job: str) -> _Seen:
        said = self._progress.of(tenant, job)
        try:
            return _Seen(Job.of(view_job(self._ledger, tenant, job), said, self._models), said)
        except (DeletedError, UnknownJobError):
            return _Seen(None, {})


@dataclass(frozen=True, slots=True)
class JobSubscriber:
    """One of those who listen to a job."""

    streams: EventBroadcaster
    tenant: str
    job: str
    watch: _Watch

    def events(self, check: Callable[[], object]) -> AsyncIterator[bytes]:
        return self.streams.listen(self.watch, check)

    def leave(self) -> None:
        self.streams.leave(self.tenant, self.job, self.watch)


async def _still(check: Callable[[], object]) -> bool:
    try:
        await to_thread.run_sync(check)
    except UnknownKeyError:
        return False
    except UnavailableError:
        pass  # It is asked again.
    return True


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, separators=(",", ":")))

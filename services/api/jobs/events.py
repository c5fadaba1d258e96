"""Event streams of jobs: one poller per job broadcasts snapshots to all its subscribers.

A subscriber that reads slowly skips intermediate snapshots; the broadcaster never waits for it.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from services import logs
from services.api.jobs.schemas import Job
from services.api.shares import RequestThreads
from services.contracts.models import ServedModels
from services.errors import (
    DeletedError,
    ServiceError,
    UnavailableError,
    UnknownJobError,
    UnknownKeyError,
)
from services.ledger.ledger import Ledger
from services.ledger.queries import view_job
from services.ledger.workers import ItemProgress, ProgressReader
from services.settings import ApiSettings
from services.shares import Reservation, Shares

_POLLER_THREADS = 8
"""The pollers' own threads, so that they take none from requests."""

_KEY_CHECK_INTERVAL_S = 15.0
"""The interval at which the API key of an open stream is checked again."""

_MAX_WAIT_S = 1.0
"""The time that a stream waits before it checks for a shutdown of the process."""

log = logs.logger(__name__)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A job at one moment."""

    job: Job | None
    """None if the job was deleted."""
    progress: ItemProgress


@dataclass(eq=False)
class _JobFeed:
    """The latest snapshot of one job, its poller and its number of subscribers."""

    snapshot: _Snapshot | None = None
    num_subscribers: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    poller: "asyncio.Task[None] | None" = None

    def publish(self, snapshot: _Snapshot | None) -> None:
        self.snapshot = snapshot
        # Each event is set once and then replaced: a subscriber that waits on it cannot miss it.
        before, self.changed = self.changed, asyncio.Event()
        before.set()


class EventBroadcaster:
    """Broadcasts the events of jobs. Its methods belong to the event loop, except `close`."""

    def __init__(
        self,
        ledger: Ledger,
        progress: ProgressReader,
        served_models: ServedModels,
        settings: ApiSettings,
        shares: Shares,
    ) -> None:
        """Create a broadcaster whose streams are divided by `shares`."""
        self._ledger = ledger
        self._progress = progress
        self._models = served_models
        self._settings = settings
        self._threads = RequestThreads(_POLLER_THREADS)
        self._shares = shares
        self._feeds: dict[tuple[str, str], _JobFeed] = {}
        self._closed = False

    @property
    def num_polled_jobs(self) -> int:
        return len(self._feeds)

    def close(self) -> None:
        """End all streams soon and accept no more. A signal handler may call it."""
        self._closed = True

    async def stop(self) -> None:
        """Cancel all pollers when the process ends."""
        self.close()
        pollers = [feed.poller for feed in self._feeds.values() if feed.poller]
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)

    def subscribe(self, tenant: str, job: str) -> "JobSubscription":
        """Subscribe to a job, until `JobSubscription.close`.

        Raises:
            QuotaError: The tenant has its share of the streams of this process.
        """
        place = self._shares.reserve(tenant)
        feed = self._feeds.get((tenant, job))
        if feed is None:
            feed = self._feeds[tenant, job] = _JobFeed()
            feed.poller = asyncio.create_task(self._poll(tenant, job, feed))
        feed.num_subscribers += 1
        return JobSubscription(self, tenant, job, feed, place)

    def unsubscribe(self, tenant: str, job: str, feed: _JobFeed) -> None:
        """End one subscription; the last one of a job ends its poller."""
        feed.num_subscribers -= 1
        if not feed.num_subscribers and feed.poller:
            feed.poller.cancel()
            if self._feeds.get((tenant, job)) is feed:
                del self._feeds[tenant, job]

    async def stream(
        self, tenant: str, feed: _JobFeed, check_key: Callable[[], object]
    ) -> AsyncIterator[bytes]:
        """Yield server-sent events until the job ends, the key expires or the stream times out.

        `check_key` raises UnknownKeyError once the subscriber's key is no longer valid.
        """
        progress: ItemProgress = {}
        job: Job | None = None
        started = sent_at = checked_at = time.monotonic()
        while not self._closed and time.monotonic() - started < self._settings.max_stream_s:
            # Read the event before the snapshot is used: a change in between sets this event.
            changed, snapshot = feed.changed, feed.snapshot
            if snapshot and snapshot.job is None:
                yield _event("end", {"state": "deleted"})
                return
            if snapshot and snapshot.job:
                if snapshot.job != job:
                    job, sent_at = snapshot.job, time.monotonic()
                    yield _event("job", job.model_dump(mode="json"))
                if new := _changed_items(snapshot.progress, progress):
                    progress, sent_at = snapshot.progress, time.monotonic()
                    yield _event("progress", new)
                if snapshot.job.state.ended:
                    yield _event("end", snapshot.job.model_dump(mode="json"))
                    return
            if time.monotonic() - sent_at >= self._settings.keepalive_interval_s:
                sent_at = time.monotonic()
                yield KEEPALIVE_COMMENT
            if time.monotonic() - checked_at >= _KEY_CHECK_INTERVAL_S:
                checked_at = time.monotonic()
                if not await self._is_valid(tenant, check_key):
                    return
            await _wait(
                changed,
                min(
                    _MAX_WAIT_S,
                    self._settings.keepalive_interval_s,
                    self._settings.event_poll_interval_s,
                ),
            )

    async def _is_valid(self, tenant: str, check_key: Callable[[], object]) -> bool:
        try:
            await self._threads.run(tenant, check_key)
        except UnknownKeyError:
            return False
        except UnavailableError:
            pass  # An outage of the store must not end the streams: the next check decides.
        return True

    async def _poll(self, tenant: str, job: str, feed: _JobFeed) -> None:
        while True:
            started = time.monotonic()
            snapshot = feed.snapshot
            try:
                snapshot = await self._threads.run(tenant, self._read, tenant, job)
            except UnavailableError:
                pass  # The next poll tries again.
            except ServiceError as error:
                log.warning("job not readable", job=job, error=type(error).__name__)
            if snapshot != feed.snapshot:
                feed.publish(snapshot)
            # A slow store is polled less often, so that pollers use at most a third of its time.
            elapsed_s = time.monotonic() - started
            await asyncio.sleep(max(self._settings.event_poll_interval_s, 2 * elapsed_s))

    def _read(self, tenant: str, job: str) -> _Snapshot:
        progress = self._progress.read(tenant, job)
        try:
            view = view_job(self._ledger, tenant, job)
        except (DeletedError, UnknownJobError):
            return _Snapshot(None, {})
        return _Snapshot(Job.of(view, progress, self._models), progress)


@dataclass(frozen=True, slots=True)
class JobSubscription:
    """An open event stream of one job."""

    broadcaster: EventBroadcaster
    tenant: str
    job: str
    feed: _JobFeed
    place: Reservation

    def events(self, check_key: Callable[[], object]) -> AsyncIterator[bytes]:
        return self.broadcaster.stream(self.tenant, self.feed, check_key)

    def close(self) -> None:
        self.place.release()
        self.broadcaster.unsubscribe(self.tenant, self.job, self.feed)


def _changed_items(new: ItemProgress, old: ItemProgress) -> dict[str, Any]:
    return {str(index): now for index, now in new.items() if old.get(index, {}) != now}


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()


def _event(name: str, data: Any) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data, separators=(",", ":")))

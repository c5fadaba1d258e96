"""A job watched until it has ended, by its stream of events or, without one, by polling.

Watching survives restarts of the service: it reconnects until the service answers again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import ConfigDict, RootModel

from services.client.errors import (
    BrokenServerError,
    NoEventStreamError,
    OverloadedError,
    ResourceNotFoundError,
    UnreachableError,
)
from services.client.http import HttpConnection
from services.client.schemas import ItemPage, Job, Progress

_POLL_INTERVAL_S = 2.0  # where the service sends no events


@dataclass(frozen=True, slots=True)
class JobChanged:
    """The job has a new state."""

    job: Job


@dataclass(frozen=True, slots=True)
class ItemsAdvanced:
    """Progress of running items by index: at least of those that have gone on."""

    progress: Mapping[int, Progress]


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The service does not answer; the next attempt follows after a pause."""

    reason: str
    pause_s: float


Update: TypeAlias = JobChanged | ItemsAdvanced | Disconnected


class _ProgressByIndex(RootModel[dict[int, Progress]]):
    model_config = ConfigDict(frozen=True)


class _NoEvents(Exception):
    """The service, or a proxy before it, sends no events."""


def watch(connection: HttpConnection, job: str) -> Iterator[Update]:
    """Yield the updates of the job at this path; the last one is of its end.

    Raises: ClientError that retrying does not cure, such as ResourceNotFoundError.
    """
    follow: Callable[[HttpConnection, str], Iterator[Update]] = _stream
    attempt = 0
    while True:
        try:
            for update in follow(connection, job):
                # The service works: a later failure is a first one again.
                attempt = 0
                yield update
                if isinstance(update, JobChanged) and update.job.ended:
                    return
            # The service ends a stream after some time. The growing pause prevents a fast loop
            # of streams that end at once.
            attempt += 1
            connection.sleep(connection.pause_s(attempt))
            continue
        except _NoEvents:
            follow = _poll
            continue
        except (UnreachableError, OverloadedError, BrokenServerError) as error:
            reason = str(error)
        attempt += 1
        pause_s = connection.pause_s(attempt)
        yield Disconnected(reason, pause_s)
        connection.sleep(pause_s)


def _stream(connection: HttpConnection, job: str) -> Iterator[Update]:
    try:
        with connection.events(f"{job}/events") as events:
            for event in events:
                match event.event:
                    case "job":
                        state = connection.parse(Job, event.data)
                        if state.ended:  # the state of the end; the job may be deleted since
                            break
                        yield JobChanged(state)
                    case "progress":
                        yield ItemsAdvanced(connection.parse(_ProgressByIndex, event.data).root)
                    case "end":
                        break
                    case _:
                        continue
    except NoEventStreamError as error:
        raise _NoEvents from error
    except ResourceNotFoundError as error:
        # Either the job is missing, which this request raises, or the service has no events.
        yield JobChanged(_job(connection, job))
        raise _NoEvents from error
    yield JobChanged(_job(connection, job))


def _poll(connection: HttpConnection, job: str) -> Iterator[Update]:
    while True:
        yield JobChanged(_job(connection, job))
        running = connection.fetch(
            ItemPage,
            "GET",
            f"{job}/items",
            params={"state": "running"},
            retry_for_s=0,
        )
        yield ItemsAdvanced({item.index: item.progress or Progress() for item in running.items})
        connection.sleep(_POLL_INTERVAL_S)


def _job(connection: HttpConnection, job: str) -> Job:
    # One attempt: `watch` retries itself, so that the caller hears of each pause.
    return connection.fetch(Job, "GET", job, retry_for_s=0)

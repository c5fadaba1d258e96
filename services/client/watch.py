"""A job as it goes on: by the events that the service sends, or by asking, until the job has ended.

Whoever watches outlasts the service: where it goes away, it is asked again until it is there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pydantic import ConfigDict, RootModel

from services.client.errors import (
    BrokenServerError,
    NoSuchThingError,
    OverloadedError,
    UnreachableError,
)
from services.client.http import EVENT_STREAM, HttpConnection
from services.client.schemas import ItemPage, Job, Progress
from services.client.sse import events

_BETWEEN_LOOKS = 2.0  # seconds, where the service sends no events


@dataclass(frozen=True, slots=True)
class Changed:
    """The job stands so now."""

    job: Job


@dataclass(frozen=True, slots=True)
class Advanced:
    """Items that are worked at, by index: at least those that have gone on."""

    progress: Mapping[int, Progress]


@dataclass(frozen=True, slots=True)
class Missed:
    """The service cannot be heard, and is asked again in so many seconds."""

    why: str
    seconds: float


Update: TypeAlias = Changed | Advanced | Missed


class _Advanced(RootModel[dict[int, Progress]]):
    model_config = ConfigDict(frozen=True)


class _NoEvents(Exception):
    """The service, or something before it, sends none."""


def watch(connection: HttpConnection, job: str) -> Iterator[Update]:
    """What happens to the job at this path; the last update is of its end.

    Raises: ClientError that will not pass: no such job, the key is refused.
    """
    look: Callable[[HttpConnection, str], Iterator[Update]] = _listen
    attempt = 0
    while True:
        try:
            for update in look(connection, job):
                attempt = 0
                yield update
                if isinstance(update, Changed) and update.job.ended:
                    return
            # It sends for so long and no longer; but whoever comes back at once for ever is ill.
            attempt += 1
            connection.sleep(connection.pause(attempt))
            continue
        except _NoEvents:
            look = _poll
            continue
        except (UnreachableError, OverloadedError, BrokenServerError) as error:
            why = str(error)
        attempt += 1
        seconds = connection.pause(attempt)
        yield Missed(why, seconds)
        connection.sleep(seconds)


def _listen(connection: HttpConnection, job: str) -> Iterator[Update]:
    try:
        with connection.stream(f"{job}/events") as answer:
            if not answer.headers.get("content-type", "").startswith(EVENT_STREAM):
                raise _NoEvents
            try:
                for event in events(answer.iter_text()):
                    match event.name:
                        case "job":
                            now = connection.parsed(Job, event.data)
                            if now.ended:  # as it was then; it may be deleted by now
                                break
                            yield Changed(now)
                        case "progress":
                            yield Advanced(connection.parsed(_Advanced, event.data).root)
                        case "end":
                            break
                        case _:
                            continue
            except ValueError as error:
                raise BrokenServerError(f"{connection.server} sends {error}") from error
    except NoSuchThingError as error:
        # Whether it is the job that is missing, the job itself tells.
        yield Changed(_job(connection, job))
        raise _NoEvents from error
    yield Changed(_job(connection, job))


def _poll(connection: HttpConnection, job: str) -> Iterator[Update]:
    while True:
        yield Changed(_job(connection, job))
        running = connection.ask(
            ItemPage,
            "GET",
            f"{job}/items",
            params={"state": "running"},
            patience=0,
        )
        yield Advanced({item.index: item.progress or Progress() for item in running.items})
        connection.sleep(_BETWEEN_LOOKS)


def _job(connection: HttpConnection, job: str) -> Job:
    # Not repeated by the connection: whoever watches is told that it is waited for.
    return connection.ask(Job, "GET", job, patience=0)

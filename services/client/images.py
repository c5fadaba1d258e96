"""Images as they are generated, by the events that the service sends of each.

Whoever asks outlasts an engine: where the service has no room, or breaks off, it is asked again for
what is missing. That is safe, since a seed is always the same image.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import Field

from services.client.errors import (
    BrokenServerError,
    ClientError,
    OverloadedError,
    UnreachableError,
    problem,
)
from services.client.http import EVENT_STREAM, HttpConnection
from services.client.schemas import Response
from services.client.sse import Event, events

_PATH = "v1/images/generations"
_TYPE = "image_generation."
_AT_ONCE = 10  # images of one request, as the service has it


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """An image is on its way."""

    seed: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """An image is done: a PNG with its settings in it."""

    seed: int
    png: bytes
    settings: Mapping[str, Any]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """An image could not be made; others may be."""

    seed: int
    error: ClientError


ImageUpdate: TypeAlias = ImageProgress | GeneratedImage | ImageFailure


class _Progress(Response):
    index: int
    step: int
    steps: int


class _Completed(Response):
    index: int
    b64_json: str = Field(repr=False)
    settings: dict[str, Any] = Field(default={})
    warnings: tuple[str, ...] = ()


class _Error(Response):
    index: int | None = None
    problem: dict[str, Any] = Field(default={})


def generate(
    connection: HttpConnection, order: Mapping[str, Any], seeds: Sequence[int]
) -> Iterator[ImageUpdate]:
    """An image of each seed, by an order that says all else; each ends once.

    Raises: ClientError if all of it is refused, or patience ends.
    """
    left, waiting = list(dict.fromkeys(seeds)), connection.waiting()
    while left:
        try:
            for update in _ask(connection, order, _run(left)):
                if not isinstance(update, ImageProgress):
                    left.remove(update.seed)
                    waiting.renew()
                yield update
        except (OverloadedError, UnreachableError) as error:
            waiting.wait(error)


def _run(seeds: Sequence[int]) -> Sequence[int]:
    """As many as one request can ask for: one behind the other."""
    count = next((i for i, seed in enumerate(seeds) if seed != seeds[0] + i), len(seeds))
    return seeds[: min(count, _AT_ONCE)]


def _ask(
    connection: HttpConnection, order: Mapping[str, Any], seeds: Sequence[int]
) -> Iterator[ImageUpdate]:
    """One request. Those that the service may generate later are left out, and what hinders it is
    raised at the end.
    """
    body = {**order, "seed": seeds[0], "n": len(seeds), "stream": True}
    left, later = set(range(len(seeds))), None
    with connection.stream(_PATH, "POST", json=body) as answer:
        if not answer.headers.get("content-type", "").startswith(EVENT_STREAM):
            raise BrokenServerError(f"{connection.server} sends images as no stream of events")
        for event in _heard(connection, answer.iter_text()):
            match event.name.removeprefix(_TYPE):
                case "progress":
                    now = connection.parsed(_Progress, event.data)
                    yield ImageProgress(_of(connection, seeds, now.index), now.step, now.steps)
                case "completed":
                    done = connection.parsed(_Completed, event.data)
                    seed = _of(connection, seeds, done.index)
                    left.discard(done.index)
                    yield GeneratedImage(seed, _png(connection, done), done.settings, done.warnings)
                case "error":
                    said = connection.parsed(_Error, event.data)
                    error = _error(said)
                    if isinstance(error, OverloadedError):
                        later = error
                    elif said.index is None:
                        raise error
                    else:
                        left.discard(said.index)
                        yield ImageFailure(_of(connection, seeds, said.index), error)
                case _:
                    continue
    if left:
        raise later or UnreachableError(f"{connection.server} broke off before all was generated")


def _heard(connection: HttpConnection, pieces: Iterator[str]) -> Iterator[Event]:
    try:
        yield from events(pieces)
    except ValueError as error:
        raise BrokenServerError(f"{connection.server} sends {error}") from error


def _of(connection: HttpConnection, seeds: Sequence[int], index: int) -> int:
    if not 0 <= index < len(seeds):
        raise BrokenServerError(f"{connection.server} tells of an image that nobody asked for")
    return seeds[index]


def _png(connection: HttpConnection, done: _Completed) -> bytes:
    try:
        return base64.b64decode(done.b64_json, validate=True)
    except binascii.Error as error:
        raise BrokenServerError(f"{connection.server} sends an image that is none") from error


def _error(said: _Error) -> ClientError:
    """As if all of the answer were this error."""
    status = said.problem.get("status")
    return problem(status if isinstance(status, int) else 500, json.dumps(said.problem).encode())

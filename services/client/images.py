"""Images of the service as they are generated, by the events of each request.

Generation survives the loss of an engine: images that are missing are requested again, which is
safe, since a seed always gives the same image.
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
    problem_error,
)
from services.client.http import HttpConnection
from services.client.schemas import Response

_PATH = "v1/images/generations"
_EVENT_PREFIX = "image_generation."
_MAX_IMAGES = 10  # of one request, by the API


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """A denoising step of an image is done."""

    seed: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True)
class GeneratedImage:
    """An image is done: a PNG with its settings inside."""

    seed: int
    png: bytes
    settings: Mapping[str, Any]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class ImageFailure:
    """An image cannot be generated; others of the request may be."""

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

    def error(self) -> ClientError:
        """Return the error that a response with this problem would be."""
        status = self.problem.get("status")
        body = json.dumps(self.problem).encode()
        return problem_error(status if isinstance(status, int) else 500, body)


def generate(
    connection: HttpConnection, body: Mapping[str, Any], seeds: Sequence[int]
) -> Iterator[ImageUpdate]:
    """Generate one image per seed; each seed ends once, in an image or a failure.

    `body` is the request to the API, without seeds.

    Raises: ClientError if a request is refused as a whole, or the time for retries is up.
    """
    left = list(dict.fromkeys(seeds))
    while left:
        num_left = len(left)
        for attempt in connection.retrying():
            with attempt:
                try:
                    for update in _request(connection, body, _consecutive(left)):
                        if not isinstance(update, ImageProgress):
                            left.remove(update.seed)
                        yield update
                except (OverloadedError, UnreachableError) as error:
                    # An error event has no status that would mark it so. Here a retry is always
                    # worth a try: it asks for the missing images alone.
                    error.is_transient = True
                    if len(left) == num_left:
                        raise
                    # Images have arrived, so the service works: the time for retries starts anew.
                    pause_s = connection.pause_s(1, error)
                    connection.on_wait(str(error), pause_s)
                    connection.sleep(pause_s)


def _consecutive(seeds: Sequence[int]) -> Sequence[int]:
    """Return the first seeds that one request can name, which are a first one and a count."""
    count = next((i for i, seed in enumerate(seeds) if seed != seeds[0] + i), len(seeds))
    return seeds[: min(count, _MAX_IMAGES)]


def _request(
    connection: HttpConnection, body: Mapping[str, Any], seeds: Sequence[int]
) -> Iterator[ImageUpdate]:
    """Make one request and yield its updates.

    Images that may succeed later yield nothing; their error is raised at the end.
    """
    request = {**body, "seed": seeds[0], "n": len(seeds), "stream": True}
    left, retryable = set(range(len(seeds))), None
    with connection.events(_PATH, "POST", json=request) as events:
        for event in events:
            match event.event.removeprefix(_EVENT_PREFIX):
                case "progress":
                    progress = connection.parse(_Progress, event.data)
                    seed = _seed(connection, seeds, progress.index)
                    yield ImageProgress(seed, progress.step, progress.steps)
                case "completed":
                    done = connection.parse(_Completed, event.data)
                    seed = _seed(connection, seeds, done.index)
                    left.discard(done.index)
                    yield GeneratedImage(seed, _png(connection, done), done.settings, done.warnings)
                case "error":
                    failure = connection.parse(_Error, event.data)
                    error = failure.error()
                    if isinstance(error, OverloadedError):
                        retryable = error
                    elif failure.index is None:
                        raise error
                    else:
                        left.discard(failure.index)
                        yield ImageFailure(_seed(connection, seeds, failure.index), error)
                case _:
                    continue
    if left:
        raise retryable or UnreachableError(
            f"{connection.server} ended the stream before all images were generated"
        )


def _seed(connection: HttpConnection, seeds: Sequence[int], index: int) -> int:
    if not 0 <= index < len(seeds):
        raise BrokenServerError(f"{connection.server} sends an image that was not requested")
    return seeds[index]


def _png(connection: HttpConnection, image: _Completed) -> bytes:
    try:
        return base64.b64decode(image.b64_json, validate=True)
    except binascii.Error as error:
        raise BrokenServerError(f"{connection.server} sends an image that is not base64") from error

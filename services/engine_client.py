"""What generates, as this process reaches it: requests of `services.contracts.generation` over HTTP."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import httpx
from anyio import to_thread
from pydantic import ValidationError

import dti_engine.errors
import services.errors
from dti_engine.errors import DTIError
from services import logs
from services.contracts.generation import (
    EVENT,
    Event,
    FailureEvent,
    GenerateRequest,
    ImageEvent,
    Rejection,
)
from services.errors import (
    LateError,
    NoEngineError,
    QueueFullError,
    QuotaError,
    ServiceError,
    UnknownKeyError,
)

_CONNECTIONS = 512
"""At a time: each is a request whose images are waited for."""

_GRACE = 5.0
"""Seconds beyond those that an engine has: it says itself that it was late."""

_ABSENT = frozenset({404, 502, 503})
"""Without a refusal: of a proxy, which knows no engine for this model, or none that is free."""

_LARGE = 2**16
"""Bytes of a line beyond which it is parsed in a thread."""

_AGAIN = "5"
"""Seconds."""

_ERRORS = {
    name: kind
    for module in (dti_engine.errors, services.errors)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, DTIError)
}

log = logs.logger(__name__)


class Engines:
    """All of them, for one process. Its methods belong to one event loop."""

    def __init__(self, url: str | None, secret: str, patience: float) -> None:
        """url: before the names of models; None: there is none. patience: seconds, until one that
        says nothing is held for absent.
        """
        self._url = url.rstrip("/") if url else None
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {secret}"},
            timeout=httpx.Timeout(patience, read=None),
            # A connection is not used twice: one that the other side has just closed would fail a
            # request that cannot be sent again.
            limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=0),
            trust_env=False,
        )

    async def begin(self, model: str, wanted: GenerateRequest, request: str) -> "Generation":
        """Ask for images; close what is returned. `wanted` says how many seconds they may take.

        Raises: NoEngineError, QueueFullError, LateError, and whatever else an engine refuses.
        """
        if self._url is None:
            raise NoEngineError(f"no endpoint is running that generates with {model}", "60")
        assert wanted.seconds
        ends = asyncio.get_running_loop().time() + wanted.seconds + _GRACE
        asked = self._http.build_request(
            "POST",
            f"{self._url}/{model}/generate",
            # What stands at its default is left out: an engine that is older knows no new fields.
            content=wanted.model_dump_json(exclude_defaults=True),
            headers={"Content-Type": "application/json", "X-Request-Id": request},
        )
        try:
            async with asyncio.timeout_at(ends):
                answer = await self._http.send(asked, stream=True)
                generating = Generation(answer, len(wanted.images), ends)
                if answer.status_code != 200:
                    try:
                        raise _refused(model, answer.status_code, await answer.aread())
                    finally:
                        await generating.close()
        except TimeoutError as error:
            raise _late() from error
        except httpx.PoolTimeout as error:
            raise QueueFullError("too many wait for images: ask again", _AGAIN) from error
        except httpx.TransportError as error:
            log.warning("engine does not answer", model=model, error=repr(error))
            raise _absent(model) from error
        return generating

    async def close(self) -> None:
        await self._http.aclose()


@dataclass
class Generation:
    """Images that an engine has taken on. It goes on with them until this is closed."""

    _answer: httpx.Response
    _count: int
    _ends: float
    """On the loop's clock."""

    async def events(self) -> AsyncGenerator[Event]:
        """To the last image's end. Raises: LateError; NoEngineError if it breaks off."""
        left = set(range(self._count))
        lines = _lines(self._answer.aiter_bytes())
        while left:
            try:
                async with asyncio.timeout_at(self._ends):
                    line = await anext(lines, None)
            except TimeoutError as error:
                raise _late() from error
            except httpx.TransportError as error:
                log.warning("engine broke off", error=repr(error))
                raise _broken() from error
            if line is None:
                log.warning("engine left images out", images=len(left))
                raise _broken()
            event = await _parsed(line)
            if isinstance(event, ImageEvent | FailureEvent):
                left.discard(event.image)
            yield event

    async def close(self) -> None:
        """Nobody waits for the rest."""
        await self._answer.aclose()


def error_of(name: str, detail: str, seconds: float | None = None) -> DTIError:
    """What an engine has told of by its class. Of a class that is none, and of those that are
    between us and it, `detail` is for the log alone.
    """
    kind = _ERRORS.get(name)
    if kind is None or issubclass(kind, UnknownKeyError):
        return ServiceError(f"an engine said {name}: {detail}")
    if seconds is not None and issubclass(kind, NoEngineError | QuotaError):
        return kind(detail, str(seconds))
    return kind(detail)


def _refused(model: str, status: int, body: bytes) -> DTIError:
    try:
        refusal = Rejection.model_validate_json(body)
    except ValidationError:
        if status in _ABSENT:
            return _absent(model)
        return ServiceError(f"an engine answered {status}: {body[:500]!r}")
    return error_of(refusal.error, refusal.detail, refusal.seconds)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """At newlines alone: JSON may have other characters in it that httpx takes for ends of lines.
    What no newline ends was cut off, and is left out.
    """
    begun: list[bytes] = []
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*begun, line))
            begun.clear()
        begun.append(rest)


async def _parsed(line: bytes) -> Event:
    try:
        if len(line) > _LARGE:
            return await to_thread.run_sync(EVENT.validate_json, line)
        return EVENT.validate_json(line)
    except ValidationError as error:
        raise ServiceError(f"an engine said {line[:200]!r}") from error


def _absent(model: str) -> NoEngineError:
    return NoEngineError(f"nothing that generates with {model} answers now: ask again", _AGAIN)


def _broken() -> NoEngineError:
    return NoEngineError("what generated has broken off: ask again", _AGAIN)


def _late() -> LateError:
    return LateError(
        "the images were not done in time: give more seconds, or ask for fewer images or steps"
    )

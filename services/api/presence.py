"""Work that is worth doing as long as the caller is there."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

A = TypeVar("A")


async def while_there(receive: Receive, work: Callable[[], Coroutine[Any, Any, A]]) -> A | None:
    """What comes of it; None: the caller has gone, and the work was cancelled. The body of the
    request is to be read before.
    """
    working = asyncio.create_task(work())
    leaving = asyncio.create_task(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

"""Parses orders and creates their jobs in threads, the large ones one after the other."""

from collections.abc import Callable
from typing import TypeVar

from fastapi import Response

from services.api.dependencies import AppState

B = TypeVar("B")

_LARGE_BODY_BYTES = 2**19
"""The bytes of a body from which its job is created as a large one."""


async def run_order(
    state: AppState,
    tenant: str,
    body: bytes,
    parse: Callable[[bytes], B],
    create: Callable[[B], Response],
    *,
    is_large: Callable[[B], bool],
) -> Response:
    """Parse the request for a job and create the job, in threads.

    Large jobs are created one after the other, since each takes much memory while it is created.
    """
    large, threads = state.shares.large_orders, state.shares.threads
    if len(body) > _LARGE_BODY_BYTES:
        return await large.run(tenant, lambda: create(parse(body)))
    request = await threads.run(tenant, parse, body)
    return await (large if is_large(request) else threads).run(tenant, create, request)

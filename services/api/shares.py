"""What a process of the API has a limited number of, divided between tenants.

Each place is reserved before the work that needs it, and given back after it. The server divides
connections by addresses, `Quotas` divides open items, and each engine divides the places of its
queue, all by the same `Shares`.
"""

from dataclasses import dataclass

from services.api.threads import RequestThreads
from services.settings import ApiSettings
from services.shares import Shares


@dataclass(frozen=True)
class ApiShares:
    """The shares of one process."""

    requests: Shares
    """Requests in progress: each holds a connection."""
    body_bytes: Shares
    """Bytes of bodies that are held in memory, from their announcement until the response."""
    uploads: Shares
    upload_bytes: Shares
    """Bytes of uploads in temporary files, from their announcement until they are stored."""
    event_streams: Shares
    image_requests: Shares
    """Requests that are sent to engines: each holds a connection to one."""
    threads: RequestThreads


def api_shares(settings: ApiSettings) -> ApiShares:
    """Return shares that nobody holds."""
    return ApiShares(
        requests=Shares("requests in progress", settings.max_requests),
        body_bytes=Shares("bytes of request bodies", settings.max_body_memory_bytes),
        uploads=Shares("uploads", settings.max_concurrent_uploads),
        upload_bytes=Shares("bytes of uploads in progress", settings.max_upload_spool_bytes),
        event_streams=Shares(
            "event streams",
            settings.max_event_streams,
            max_per_owner=settings.max_streams_per_tenant,
        ),
        image_requests=Shares("requests for images", settings.max_image_requests),
        threads=RequestThreads(settings.num_request_threads),
    )

"""What clients and proxies expect of every route: a path prefix in redirects, and HEAD.

A proxy that takes a prefix away, such as `/dti` of `https://example.com/dti/v1/models`, tells the
API nothing of it, and one that ends TLS often no scheme. So every `Location` is a path, which
begins with the prefix of the service's public URL.
"""

from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def path_prefix(public_url: str | None) -> str:
    """Return the path at which a proxy has the API; empty if it has none."""
    return urlsplit(public_url or "").path.rstrip("/")


class LocationMiddleware:
    """Makes each `Location` a path below the public URL's own."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """Create the middleware; `prefix` is empty, or begins with a slash and ends without one."""
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_path(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if location := headers.get("location"):
                    parts = urlsplit(location)
                    # A redirect of the router's has the scheme and host of the request. Both may
                    # be those of the connection between the proxy and the API.
                    path = urlunsplit(("", "", parts.path, parts.query, ""))
                    headers["location"] = f"{self._prefix}{path}"
            await send(message)

        await self._app(scope, receive, send_with_path)


class HeadMiddleware:
    """Answers HEAD as GET without the body, as load balancers and download managers expect.

    Event streams are left out: their response has no end that a caller could wait for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        if not is_head or scope["path"].endswith("/events"):
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # In place, since the server keeps this scope.
        scope["method"] = "GET"
        try:
            await self._app(scope, receive, send_without_body)
        finally:
            scope["method"] = "HEAD"

"""What browsers see: the page /docs, and the security headers of every response.

The page shows the OpenAPI document by Swagger UI, and loads nothing from another host: script and
style come from the package fastapi-swagger (Swagger UI is Apache-2.0). All paths are relative to
the page, so that they hold behind a proxy with a path prefix, too.
"""

from functools import lru_cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.shares import FairRoute

router = APIRouter(include_in_schema=False, route_class=FairRoute)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DTI API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs scripts. The document has the url: 'openapi.json'.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

# A file of its own, because the policy below allows no script inside the page.
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # Swagger UI sets styles of single elements.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


@router.get("/docs")
def show_docs() -> Response:
    """Return the page, which may load nothing from another host and stand in no frame."""
    return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/start.js")
def get_start() -> Response:
    """Return the script that shows the document."""
    return Response(_START, media_type="text/javascript")


@router.get("/docs/swagger-ui-bundle.js")
def get_script() -> Response:
    """Return the script of Swagger UI."""
    return Response(_resource("swagger-ui-bundle.js"), media_type="text/javascript")


@router.get("/docs/swagger-ui.css")
def get_style() -> Response:
    """Return the style of Swagger UI."""
    return Response(_resource("swagger-ui.css"), media_type="text/css")


@lru_cache
def _resource(name: str) -> bytes:
    return files("fastapi_swagger").joinpath("resources", name).read_bytes()


HEADERS = {
    # A response is what its type says: an upload or a name in an error is never taken for a page.
    "X-Content-Type-Options": "nosniff",
    # Links to images carry a signature, which no other site may learn.
    "Referrer-Policy": "no-referrer",
    # No page but /docs has anything to load, and none may stand in a frame of another.
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; frame-ancestors 'none'",
}


class SecurityHeadersMiddleware:
    """Adds the headers that a response does not have yet."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)

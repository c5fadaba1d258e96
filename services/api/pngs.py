"""Pictures as answers."""

from fastapi.responses import Response

PNG = "image/png"


def png_answer(body: bytes) -> Response:
    """One that no cache keeps, since it may be deleted."""
    return Response(
        body,
        media_type=PNG,
        headers={"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"},
    )

"""OpenAI error middleware: adds OpenAI's `error` object to problems, for OpenAI's clients."""

import json
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.problems import MEDIA_TYPE, Problem

PREFIXES = ("/v1/images/", "/v1/models")
"""The prefixes of paths that OpenAI's API has too."""

_URN = "urn:dti:problem:"


class _ErrorCode(NamedTuple):
    """OpenAI's name of a problem."""

    type: str
    code: str


_ERROR_CODES = {
    "unauthorized": _ErrorCode("invalid_request_error", "invalid_api_key"),
    "model-not-found": _ErrorCode("invalid_request_error", "model_not_found"),
    "unsafe": _ErrorCode("image_generation_user_error", "moderation_blocked"),
    "limit-exceeded": _ErrorCode("rate_limit_error", "rate_limit_exceeded"),
}
"""OpenAI's names by problem type. Other problems have their type as the code."""


class OpenAIError(BaseModel):
    """An error in OpenAI's form."""

    message: str = Field(description="The same as `detail`.")
    type: str = Field(description="OpenAI's type of the error.")
    param: str | None = Field(description="The field that is not valid.")
    code: str | None = Field(description="OpenAI's code of the error, else the problem type.")


class OpenAIProblem(Problem):
    """An error response with OpenAI's `error` object."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:dti:problem:model-not-found",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "there is no model 'sdxl': there are miniature",
                    "request": "5f0c0c3b5a1e4f6f9d0a7c6b1e2d3f40",
                    "error": {
                        "message": "there is no model 'sdxl': there are miniature",
                        "type": "invalid_request_error",
                        "param": "model",
                        "code": "model_not_found",
                    },
                }
            ]
        }
    )

    error: OpenAIError


def error_object(problem: dict[str, Any]) -> dict[str, Any]:
    """Return OpenAI's error object for the JSON of a problem."""
    name = str(problem["type"]).removeprefix(_URN)
    default_type = "server_error" if problem["status"] >= 500 else "invalid_request_error"
    code = _ERROR_CODES.get(name, _ErrorCode(default_type, name.replace("-", "_")))
    param = "model" if name == "model-not-found" else None
    for field_error in problem.get("errors") or ():
        param = param or field_error["pointer"].lstrip("#/?").replace("/", ".") or None
    error = OpenAIError(message=problem["detail"], type=code.type, param=param, code=code.code)
    return error.model_dump()


class OpenAIErrorMiddleware:
    """Adds the error object to every problem of these paths; the outermost middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIXES):
            await self._app(scope, receive, send)
            return
        # The headers of a problem wait until its body is complete, as Content-Length changes.
        held: Message | None = None
        body = b""

        async def send_with_error(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start":
                if Headers(raw=message["headers"]).get("content-type") == MEDIA_TYPE:
                    held = message
                    return
            elif held:
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                extended = _with_error(body)
                MutableHeaders(scope=held)["Content-Length"] = str(len(extended))
                await send(held)
                message = {**message, "body": extended}
            await send(message)

        await self._app(scope, receive, send_with_error)


def _with_error(body: bytes) -> bytes:
    problem = json.loads(body)
    return json.dumps(problem | {"error": error_object(problem)}).encode()

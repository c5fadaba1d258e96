"""Errors as OpenAI's clients read them: beside what every error says, an `error` object."""

import json
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.problems import MEDIA_TYPE, Problem

PREFIXES = ("/v1/images/", "/v1/models")
"""Of paths that are OpenAI's."""

_URN = "urn:dti:problem:"


class Said(NamedTuple):
    """What OpenAI calls a problem."""

    type: str
    code: str


_SAID = {
    "unauthorized": Said("invalid_request_error", "invalid_api_key"),
    "unknown-model": Said("invalid_request_error", "model_not_found"),
    "unsafe": Said("image_generation_user_error", "moderation_blocked"),
    "quota": Said("rate_limit_error", "rate_limit_exceeded"),
}
"""By the name of the problem; of all others, the code is the name."""


class OpenAIError(BaseModel):
    """The error as OpenAI has it."""

    message: str
    type: str
    param: str | None = Field(description="the field that is wrong")
    code: str | None


class OpenAIProblem(Problem):
    """What is wrong, and what to do: for OpenAI's clients, and for all others."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:dti:problem:unknown-model",
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
    """OpenAI's, of a problem as it is sent."""
    name = str(problem["type"]).removeprefix(_URN)
    general = "server_error" if problem["status"] >= 500 else "invalid_request_error"
    said = _SAID.get(name, Said(general, name.replace("-", "_")))
    param = "model" if name == "unknown-model" else None
    for finding in problem.get("errors") or ():
        param = param or finding["pointer"].lstrip("#/?").replace("/", ".") or None
    error = OpenAIError(message=problem["detail"], type=said.type, param=param, code=said.code)
    return error.model_dump()


class OpenAIErrorMiddleware:
    """Around everything, so that no error of these paths is without it, whoever has found it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIXES):
            await self._app(scope, receive, send)
            return
        held: Message | None = None
        body = b""

        async def answer(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start":
                if Headers(raw=message["headers"]).get("content-type") == MEDIA_TYPE:
                    held = message
                    return
            elif held:
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                both = _with_error(body)
                MutableHeaders(scope=held)["Content-Length"] = str(len(both))
                await send(held)
                message = {**message, "body": both}
            await send(message)

        await self._app(scope, receive, answer)


def _with_error(body: bytes) -> bytes:
    problem = json.loads(body)
    return json.dumps(problem | {"error": error_object(problem)}).encode()

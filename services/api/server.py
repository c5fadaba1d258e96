"""The app as a process: uvicorn, which lets listeners go before it waits for requests to end."""

from types import FrameType

import uvicorn
from fastapi import FastAPI

_GRACE = 30
"""Seconds that requests have to end after a signal."""


class Server(uvicorn.Server):
    """Of one app."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._app = app
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At a signal."""
        self.release()
        super().handle_exit(sig, frame)

    def release(self) -> None:
        """Let all listeners go, and take no more. Whoever stops a server without a signal calls it,
        then sets `should_exit`.
        """
        self._app.state.service.streams.close()

"""The uvicorn server of the API."""

from types import FrameType

import uvicorn
from fastapi import FastAPI

_SHUTDOWN_TIMEOUT_S = 30
"""The time that requests have to finish after a signal."""


class Server(uvicorn.Server):
    """A uvicorn server that ends event streams before it waits for requests to finish."""

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
                timeout_graceful_shutdown=_SHUTDOWN_TIMEOUT_S,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down gracefully on a signal."""
        self.release()
        super().handle_exit(sig, frame)

    def release(self) -> None:
        """End all event streams and accept no more.

        Code that stops the server without a signal calls this and then sets `should_exit`.
        """
        self._app.state.service.events.close()

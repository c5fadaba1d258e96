"""`python -m services.api`: one process of the HTTP API."""

import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from services import logs, metrics
from services.api.app import create_app
from services.ledger.ledger import Ledger
from services.metrics import PrometheusMetrics
from services.process import exit_on_error
from services.settings import ApiProcessSettings
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store

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


def main() -> None:
    """Serve until a signal ends the process."""
    logs.configure("api")
    metrics.use(PrometheusMetrics(process="api"))
    with exit_on_error():
        settings = ApiProcessSettings.read(sys.argv[1:])
        app = create_app(
            Ledger.open(InstrumentedStore(open_store(settings.store))),
            settings.served_models(),
            settings=settings,
            engine_secret=settings.engine_secret,
        )
    server = Server(app, settings.host, settings.port)
    server.run()
    sys.exit(0 if server.started else 1)


if __name__ == "__main__":
    main()

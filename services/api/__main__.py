"""`python -m services.api`: one process of the HTTP API."""

import sys

from services import logs, metrics
from services.api.app import create_app
from services.api.server import Server
from services.health import metrics_page, serve_pages
from services.ledger.ledger import Ledger
from services.metrics import PrometheusMetrics
from services.process import exit_on_error
from services.settings import ApiProcessSettings
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store

READY = "ready"
"""The process prints this once it accepts connections."""


def main() -> None:
    """Serve until a signal ends the process."""
    logs.configure("api")
    exporter = PrometheusMetrics(process="api")
    metrics.use(exporter)
    with exit_on_error():
        settings = ApiProcessSettings.read(sys.argv[1:])
        app = create_app(
            Ledger.open(InstrumentedStore(open_store(settings.store)), settings),
            settings.served_models(),
            settings=settings,
            engine_secret=settings.engine_secret,
            serves_metrics=settings.metrics_port is None,
        )
        if settings.metrics_port:
            serve_pages(
                {"/metrics": lambda: metrics_page(exporter)}, settings.metrics_port, settings.host
            )
    server = Server(app, settings, settings.grace_s, lambda: print(READY, flush=True))
    server.run()
    sys.exit(0 if server.started else 1)


if __name__ == "__main__":
    main()

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
from services.storage.gate import StoreGate
from services.storage.instrumented import InstrumentedStore
from services.storage.monitor import StoreMonitor
from services.storage.open import open_store

READY = "ready"
"""The process prints this once it accepts connections."""

S3_DEFAULTS = {"connect_timeout_s": 2.0, "read_timeout_s": 5.0, "deadline_s": 5.0}
"""Shorter timeouts than those of other processes: clients wait, and each call holds a thread.

A call to a silent store ends within 10 s, as no attempt begins after the deadline.
"""

_PROBE_WAIT_S = 10.0
"""Time for the probe of the store, after which the API listens, and answers 503 until it passes."""


def main() -> None:
    """Serve until a signal ends the process, or the store is refused."""
    logs.configure("api")
    exporter = PrometheusMetrics(process="api")
    metrics.use(exporter)
    with exit_on_error():
        settings = ApiProcessSettings.read(sys.argv[1:])
        store, gate = open_store(settings.store, **S3_DEFAULTS), StoreGate(is_shut=True)
        monitor = StoreMonitor(store, gate)
        app = create_app(
            Ledger.open(InstrumentedStore(store, gate), settings),
            settings.served_models(),
            settings=settings,
            engine_secret=settings.engine_secret,
            gate=gate,
            serves_metrics=settings.metrics_port is None,
        )
        if settings.metrics_port:
            serve_pages(
                {"/metrics": lambda: metrics_page(exporter)}, settings.metrics_port, settings.host
            )
        monitor.start()
        monitor.wait_until_probed(_PROBE_WAIT_S)
    server = Server(app, settings, settings.grace_s, lambda: print(READY, flush=True))
    monitor.call_when_refused(server.stop)
    server.run()
    with exit_on_error():
        monitor.check()
    sys.exit(0 if server.started else 1)


if __name__ == "__main__":
    main()

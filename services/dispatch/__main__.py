"""`python -m services.dispatch`: one dispatcher, without torch and Ray.

SIGTERM and SIGINT drain it: it gives back what it has claimed, and other dispatchers go on with it.
"""

import sys
import threading

from services import logs, metrics
from services.dispatch.dispatcher import Dispatcher
from services.engine_client import EngineClient
from services.health import Liveness, metrics_page, serve_pages
from services.ledger.ledger import Ledger
from services.metrics import PrometheusMetrics
from services.process import exit_on_error, on_termination
from services.settings import DispatcherProcessSettings
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store
from services.storage.probe_record import wait_until_probed

_STALLED_AFTER_S = 600
"""Time without a turn of a model's loop after which /healthz answers 503: a turn claims images, and
a store that is slow answers within a few minutes, or fails the turn.
"""


def main() -> None:
    """Have engines generate the images of generation jobs until the process is told to stop."""
    logs.configure("dispatcher")
    exporter = PrometheusMetrics(process="dispatcher")
    metrics.use(exporter)
    with exit_on_error():
        settings = DispatcherProcessSettings.read(sys.argv[1:])
        liveness = Liveness(_STALLED_AFTER_S)
        if settings.metrics_port:
            serve_pages(
                {"/metrics": lambda: metrics_page(exporter), "/healthz": liveness.page},
                settings.metrics_port,
            )
        store = open_store(settings.store)
        stopped = threading.Event()
        on_termination(stopped.set)
        if not wait_until_probed(store, stopped):
            sys.exit(0)
        dispatcher = Dispatcher(
            Ledger.open(InstrumentedStore(store), settings),
            settings.served_models(),
            lambda: EngineClient(
                settings.engines_url, settings.engine_secret, settings.engine_timeout_s
            ),
            max_in_flight=settings.max_in_flight,
            image_timeout_s=settings.image_timeout_s,
            liveness=liveness,
        )
    on_termination(dispatcher.drain)
    if not stopped.is_set():  # by a signal that came while the dispatcher was made
        dispatcher.run()
    sys.exit(0)


if __name__ == "__main__":
    main()

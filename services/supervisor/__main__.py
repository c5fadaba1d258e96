"""`python -m services.supervisor`: the supervisor, connected to a Ray cluster.

Any number may run beside each other: what two of them do is done once, except that there may be
more workers than desired for a while. SIGTERM ends it and leaves the workers at work, or drains
them within --drain-timeout-s.
"""

import sys
import threading

from services import logs, metrics
from services.ledger.ledger import Ledger
from services.process import exit_on_error, on_termination
from services.settings import SupervisorProcessSettings
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store
from services.supervisor.supervisor import Supervisor
from services.training.spec import WorkerSpec
from services.webhooks.deliverer import Deliverer, DeliveryResult
from services.webhooks.targets import WebhookSettings

READY = "ready"
"""The process prints this once its first pass is done."""


def main() -> None:
    """Supervise the service until a signal ends the process."""
    logs.configure("supervisor")
    stopped = threading.Event()
    with exit_on_error():
        settings = SupervisorProcessSettings.read(sys.argv[1:])
        # Imported here because they load Ray, which --help does not need.
        from services.metrics.ray_exporter import RayMetrics
        from services.training.ray_pool import RayPool, connect

        models = settings.served_models()
        connect(settings.ray_address, settings.store, settings.node_ip)
        metrics.use(RayMetrics(process="supervisor"))
        specs = {name: WorkerSpec.of(settings, name, model) for name, model in models.items()}
        pool = RayPool(specs, settings.unresponsive_after_s)
        ledger = Ledger.open(InstrumentedStore(open_store(settings.store)), settings)
    private = settings.allow_private_webhooks
    deliverer = Deliverer(
        ledger, WebhookSettings(allow_http=private, allow_private=private), on_result=_count
    )
    supervisor = Supervisor(ledger, models, pool, deliver=deliverer.deliver_due, timeouts=settings)
    on_termination(stopped.set)
    threading.Thread(target=_announce, args=(supervisor, stopped), daemon=True).start()
    supervisor.run(stopped)
    deliverer.close()
    if settings.drain_timeout_s:
        pool.drain_all(settings.drain_timeout_s)
    sys.exit(0)


def _count(result: DeliveryResult) -> None:
    if result != "dropped":
        label = "retried" if result == "failed" else result
        metrics.current().count("dti_webhook_deliveries_total", outcome=label)


def _announce(supervisor: Supervisor, stopped: threading.Event) -> None:
    while not supervisor.passes and not stopped.wait(0.1):
        pass
    if supervisor.passes:
        print(READY, flush=True)


if __name__ == "__main__":
    main()

"""`python -m services.supervisor`: the supervisor, connected to a Ray cluster.

It waits until there is a cluster. Any number may run beside each other: what two of them do is done
once, except that there may be more workers than desired for a while. SIGTERM ends it and leaves the
workers at work, or drains them within --drain-timeout-s. It also ends, with 0, when the models file
has changed: whatever restarts it then gives it the new models.
"""

import sys
import threading

from services import logs, metrics
from services.contracts.models import ModelsFile
from services.errors import SettingsError
from services.health import Liveness, serve_pages
from services.ledger.ledger import Ledger
from services.process import exit_on_error, on_termination
from services.settings import SupervisorProcessSettings
from services.storage.instrumented import InstrumentedStore
from services.storage.open import open_store
from services.storage.probe_record import wait_until_probed
from services.supervisor.supervisor import Supervisor
from services.training.pool import WorkerSpec
from services.webhooks.deliverer import Deliverer, DeliveryResult
from services.webhooks.targets import WebhookSettings

READY = "ready"
"""The process prints this once its first pass is done."""

_LOOP = "passes"
_CONNECT_INTERVAL_S = (0.5, 1.0, 2.0, 5.0)

_MODELS_CHANGED = "models file has changed: this process ends, to be started with the new one"

log = logs.logger(__name__)


def main() -> None:
    """Supervise the service until a signal ends the process, or the models file changes."""
    logs.configure("supervisor")
    stopped = threading.Event()
    with exit_on_error():
        settings = SupervisorProcessSettings.read(sys.argv[1:])
        # Opened before the models are read, so that no change in between goes unnoticed.
        models_file = ModelsFile(settings.models)
        models = settings.served_models()
        store = open_store(settings.store)
        liveness = Liveness(settings.health_timeout_s)
        liveness.beat(_LOOP)
        if settings.health_port:
            serve_pages({"/healthz": liveness.page}, settings.health_port)
        on_termination(stopped.set)
        if not wait_until_probed(store, stopped, lambda: liveness.beat(_LOOP)):
            sys.exit(0)
    if not _connect(settings, stopped, liveness, models_file):
        sys.exit(0)
    # Once more, because Ray has installed its own handlers.
    on_termination(stopped.set)
    # Imported here because they load Ray, which --help does not need.
    from services.metrics.ray_exporter import RayMetrics
    from services.training.ray_pool import RayPool

    metrics.use(RayMetrics(process="supervisor"))
    ledger = Ledger.open(InstrumentedStore(store), settings)
    specs = {name: WorkerSpec.of(settings, name, model) for name, model in models.items()}
    pool = RayPool(specs, settings.unresponsive_after_s)
    private = settings.allow_private_webhooks
    deliverer = Deliverer(
        ledger, WebhookSettings(allow_http=private, allow_private=private), on_result=_count
    )
    supervisor = Supervisor(
        ledger,
        models,
        pool,
        deliver=deliverer.deliver_due,
        timeouts=settings,
    )
    restarts = threading.Event()

    def after_turn() -> None:
        liveness.beat(_LOOP)
        if models_file.has_changed():
            log.info(_MODELS_CHANGED)
            restarts.set()
            stopped.set()

    threading.Thread(target=_announce, args=(supervisor, stopped), daemon=True).start()
    supervisor.run(stopped, after_turn)
    deliverer.close()
    # The next process drains the workers that the new models replace, and keeps the others.
    if settings.drain_timeout_s and not restarts.is_set():
        pool.drain_all(settings.drain_timeout_s)
    sys.exit(0)


def _connect(
    settings: SupervisorProcessSettings,
    stopped: threading.Event,
    liveness: Liveness,
    models_file: ModelsFile,
) -> bool:
    """Connect to Ray as soon as there is a cluster, and return whether this process is to work.

    It is not if it is stopped before, or if the models file changes. In a pod this process starts
    before Ray, as a sidecar does.
    """
    from services.training.ray_pool import connect

    reported, attempts = "", 0
    while not stopped.is_set():
        liveness.beat(_LOOP)
        if models_file.has_changed():
            # Workers of the old models would start only to be drained by the next process.
            log.info(_MODELS_CHANGED)
            return False
        try:
            connect(settings.ray_address, settings.store, settings.node_ip)
        except SettingsError as error:
            # Each reason is logged once, because the wait may take hours.
            if str(error) != reported:
                reported = str(error)
                log.warning("waiting for Ray", reason=reported)
        else:
            log.info("connected to Ray")
            return True
        stopped.wait(_CONNECT_INTERVAL_S[min(attempts, len(_CONNECT_INTERVAL_S) - 1)])
        attempts += 1
    return False


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

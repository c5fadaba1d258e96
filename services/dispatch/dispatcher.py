"""A dispatcher: one session after another for each served model, until it is drained."""

import threading
from collections.abc import Callable
from math import inf

from services import logs
from services.contracts.models import ServedModel, ServedModels
from services.dispatch.metrics import DispatcherMetrics
from services.dispatch.session import DispatchSession
from services.engine_client import EngineClient
from services.errors import ServiceError
from services.health import Liveness
from services.ledger.ledger import Ledger
from services.process import error_boundary

_ASSUMED_BATCH_SIZE = 16
"""The batch size of engines that measure theirs: the largest that they choose."""

_MAX_IN_FLIGHT = 256
"""Images of one model that are in flight at most: each is a connection, and a line in the lease."""

log = logs.logger(__name__)


class Dispatcher:
    """Generates the images of generation jobs. Any number may run beside each other."""

    def __init__(
        self,
        ledger: Ledger,
        served_models: ServedModels,
        open_client: Callable[[], EngineClient],
        *,
        max_in_flight: int | None = None,
        image_timeout_s: float = 600,
        liveness: Liveness | None = None,
    ) -> None:
        """Create a dispatcher.

        Args:
            ledger: The ledger to claim images from.
            served_models: The models to claim images for.
            open_client: Returns a client for one event loop.
            max_in_flight: Images of each model to have in flight; None: enough to keep all of its
                engines busy.
            image_timeout_s: How long an engine may take for an image.
            liveness: Is told of each turn of each model's loop, for /healthz.
        """
        self._liveness = liveness or Liveness(inf)
        self._ledger, self._models, self._open_client = ledger, served_models, open_client
        self._max_in_flight, self._image_timeout_s = max_in_flight, image_timeout_s
        self._metrics = DispatcherMetrics()
        self._draining = threading.Event()

    def drain(self) -> None:
        """Claim nothing more, release all attempts, and return from `run`. Thread-safe."""
        self._draining.set()

    def run(self) -> None:
        """Dispatch images until drained."""
        threads = [
            threading.Thread(
                target=self._run_sessions, args=(name, model), name=f"images of {name}"
            )
            for name, model in self._models.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run_sessions(self, name: str, model: ServedModel) -> None:
        max_in_flight = self._max_in_flight or max_images_in_flight(model)
        log.info("dispatching images", model=name, max_in_flight=max_in_flight)
        while not self._draining.is_set():
            session = DispatchSession(
                self._ledger,
                name,
                self._open_client,
                max_in_flight=max_in_flight,
                image_timeout_s=self._image_timeout_s,
                metrics=self._metrics,
                draining=self._draining,
                on_turn=lambda: self._liveness.beat(name),
            )
            self._liveness.beat(name)
            # After a bug, too, the next session begins: the other models' threads go on as well,
            # and a process that serves some of its models would look healthy.
            with error_boundary("dispatch session failed", model=name):
                try:
                    session.run()
                except ServiceError as error:
                    # The store failed at the start or the end of the session, which harms no job.
                    self._metrics.store_failed(error)
            # A pause before the next session, which a drain ends.
            self._draining.wait(self._ledger.settings.poll_interval_s)


def max_images_in_flight(model: ServedModel) -> int:
    """Return how many images keep all engines of a model busy.

    That is twice what they generate at a time: a full batch waits for each that runs.
    """
    generation = model.generation
    batch_size = generation.batch_size or _ASSUMED_BATCH_SIZE
    engines = max(generation.max_engines, generation.min_engines)
    return min(2 * batch_size * engines, _MAX_IN_FLIGHT)

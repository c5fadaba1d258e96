"""A dispatcher: for each model that is offered, life after life until it is drained."""

import threading
from collections.abc import Callable

from services import logs
from services.contracts.models import ServedModel, ServedModels
from services.dispatch.metrics import Events
from services.dispatch.session import DispatchSession
from services.engine_client import EngineClient
from services.errors import ServiceError
from services.ledger.ledger import Ledger

_TRIED = 16
"""Images of one call of an engine that finds out how many are worth it, at most."""

_MOST = 256
"""Images of one model in hand, at most: each is a connection, and a line in the lease."""

log = logs.logger(__name__)


class Dispatcher:
    """Any number may run beside each other."""

    def __init__(
        self,
        ledger: Ledger,
        served_models: ServedModels,
        engines: Callable[[], EngineClient],
        *,
        at_once: int | None = None,
        seconds: float = 600,
        events: Events | None = None,
    ) -> None:
        """engines: makes them for one event loop. at_once: images of each model that engines are
        asked for; None: what the offer is worth. seconds: that one may take.
        """
        self._ledger, self._models, self._engines = ledger, served_models, engines
        self._at_once, self._seconds = at_once, seconds
        self._events = events or Events()
        self._draining = threading.Event()

    def drain(self) -> None:
        """Claim nothing more, give back what is in hand, and return from `run`. From any thread."""
        self._draining.set()

    def run(self) -> None:
        """Until it is drained."""
        threads = [
            threading.Thread(target=self._live, args=(name, served_model), name=f"images of {name}")
            for name, served_model in self._models.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _live(self, model: str, served_model: ServedModel) -> None:
        at_once = self._at_once or worth(served_model)
        log.info("images are taken", model=model, at_once=at_once)
        while not self._draining.is_set():
            life = DispatchSession(
                self._ledger,
                model,
                self._engines,
                at_once=at_once,
                seconds=self._seconds,
                events=self._events,
                draining=self._draining,
            )
            try:
                life.run()
            except ServiceError as error:
                # It could not begin, or could not say that it ends; others find out.
                self._events.trouble(error)
            except Exception:
                log.exception("a life broke")
            # After trouble; a drain ends it.
            self._draining.wait(self._ledger.settings.poll_interval_s)


def worth(served_model: ServedModel) -> int:
    """Images that keep all engines of an offer full: those at work, and as many that wait, so
    that none is idle between two.
    """
    generation = served_model.generation
    each = generation.batch_size or _TRIED
    return min(2 * each * max(generation.max_engines, generation.min_engines), _MOST)

"""A training worker: claims subjects of its pool and learns them, life after life. Knows no Ray."""

import threading
import time
from collections.abc import Callable

from dti_engine.backbones.interface import Backbone
from dti_engine.quality.judges import Judge
from services.errors import ServiceError
from services.ledger.ledger import Ledger
from services.training.events import Events
from services.training.life import Life, Patience
from services.training.trials import Trials
from services.training.watchdog import Watchdog


class TrainingWorker:
    """Works until it is drained. If its lease is lost, it begins a new life, with empty hands."""

    def __init__(
        self,
        ledger: Ledger,
        pool: str,
        backbone: Backbone,
        judge: Judge | None = None,
        *,
        num_slots: int,
        patience: Patience | None = None,
        events: Events | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._pool, self._backbone = ledger, pool, backbone
        self._trials = Trials(backbone, judge)
        self._num_slots = num_slots
        self._shrunk: dict[str, int] = {}
        self._patience, self._events = patience or Patience(), events or Events()
        self._clock = clock
        self._draining = threading.Event()
        self._life: Life | None = None

    @property
    def in_hand(self) -> int:
        """Attempts that are not over."""
        return self._life.in_hand if self._life else 0

    def drain(self) -> None:
        """Claim nothing more, give back what is at work with its checkpoints, and return from
        `run`. From any thread.
        """
        self._draining.set()

    def run(self) -> None:
        """Work until drained. Raises: DeviceError: end the process. A device that does not come
        back ends it at once (`Watchdog`).
        """
        with Watchdog(self._patience.stuck, self._forsake) as watchdog:
            self._live(watchdog)

    def _live(self, watchdog: Watchdog) -> None:
        while not self._draining.is_set():
            watchdog.moved()
            self._life = life = Life(
                self._ledger,
                self._pool,
                self._backbone,
                self._trials,
                num_slots=self._num_slots,
                shrunk=self._shrunk,
                patience=self._patience,
                events=self._events,
                draining=self._draining,
                moved=watchdog.moved,
                clock=self._clock,
            )
            try:
                life.run()
            except ServiceError as error:
                # It could not begin, or could not say that it ends; others find out.
                self._events.trouble(error)
            # After trouble; a drain ends it.
            self._draining.wait(self._ledger.settings.look)

    def _forsake(self) -> None:
        self._events.stuck(self._patience.stuck)
        if life := self._life:
            life.forsake()

"""A training worker: claims subjects of its pool and learns them, life after life. Knows no Ray.

Who notices that a thread does not come back, from a call to a device most of all.
"""

import os
import sys
import threading
import time
from collections.abc import Callable

from dti_engine.backbones.interface import Backbone
from dti_engine.quality.token_scorers import TokenScorer
from services.errors import ServiceError
from services.ledger.ledger import Ledger
from services.settings import WorkerTimeouts
from services.training.metrics import Events
from services.training.session import TrainingSession
from services.training.validation import ValidationRunner

STUCK = 70
"""What a process exits with that was ended so."""

_LOOKS = 20  # without a move
_LAST_WORDS = 10.0  # seconds that there are for them: the store may hang, too


class Watchdog:
    """While it is entered, ends this process once nothing has moved for too long.

    Nothing less helps: no exception reaches a thread that hangs in a call. Looks are counted, not
    seconds, so that a process that was stopped has not hung when it goes on.
    """

    def __init__(
        self,
        seconds: float,
        last_words: Callable[[], None],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        """last_words: called before the end, in a thread of their own, which may hang."""
        self._pause, self._last_words, self._end = seconds / _LOOKS, last_words, end
        self._moved, self._left = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def moved(self) -> None:
        """It goes on. From any thread."""
        self._moved.set()

    def _watch(self) -> None:
        looks = 0
        while looks < _LOOKS:
            if self._left.wait(self._pause):
                return
            looks = 0 if self._moved.is_set() else looks + 1
            self._moved.clear()
        words = threading.Thread(target=self._last_words, daemon=True)
        words.start()
        words.join(_LAST_WORDS)
        sys.stderr.flush()
        self._end(STUCK)


class TrainingWorker:
    """Works until it is drained. If its lease is lost, it begins a new life, with empty hands."""

    def __init__(
        self,
        ledger: Ledger,
        pool: str,
        backbone: Backbone,
        judge: TokenScorer | None = None,
        *,
        num_slots: int,
        timeouts: WorkerTimeouts | None = None,
        metrics: Events | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger, self._pool, self._backbone = ledger, pool, backbone
        self._trials = ValidationRunner(backbone, judge)
        self._num_slots = num_slots
        self._shrunk: dict[str, int] = {}
        self._timeouts, self._metrics = timeouts or WorkerTimeouts(), metrics or Events()
        self._clock = clock
        self._draining = threading.Event()
        self._life: TrainingSession | None = None

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
        with Watchdog(self._timeouts.watchdog_timeout_s, self._forsake) as watchdog:
            self._live(watchdog)

    def _live(self, watchdog: Watchdog) -> None:
        while not self._draining.is_set():
            watchdog.moved()
            self._life = life = TrainingSession(
                self._ledger,
                self._pool,
                self._backbone,
                self._trials,
                num_slots=self._num_slots,
                shrunk=self._shrunk,
                timeouts=self._timeouts,
                metrics=self._metrics,
                draining=self._draining,
                moved=watchdog.moved,
                clock=self._clock,
            )
            try:
                life.run()
            except ServiceError as error:
                # It could not begin, or could not say that it ends; others find out.
                self._metrics.trouble(error)
            # After trouble; a drain ends it.
            self._draining.wait(self._ledger.settings.poll_interval_s)

    def _forsake(self) -> None:
        self._metrics.stuck(self._timeouts.watchdog_timeout_s)
        if life := self._life:
            life.forsake()

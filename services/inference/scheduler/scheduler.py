"""The one thread that has the device: it takes images from the queue, and takes all of them a
step further, over and over.

Images join at any step and leave when they are done. Those of different sizes take turns, step by
step, as groups; while others wait to have one, a group that has had its time takes no more.
"""

import threading
import time
from dataclasses import dataclass

from dti_engine.backbones.interface import Backbone
from services import logs
from services.errors import NoEngineError
from services.inference.scheduler.batch import (
    DeviceBrokenError,
    EngineResources,
    RunningBatch,
    drop,
)
from services.inference.scheduler.request import ScheduledRequest, SchedulerMetrics, is_alone
from services.inference.scheduler.request_queue import RequestQueue

log = logs.logger(__name__)

_LOOK = 0.5  # seconds between looks at who has left, while nothing else happens


@dataclass(frozen=True, slots=True)
class BatchSchedulerSettings:
    """Times in seconds."""

    cap: int = 8
    """Images in one call of the model, at most."""
    queue: int = 64
    """Images that wait, at most."""
    sizes: int = 3
    """Groups at a time."""
    turn: float = 5.0
    """That a group takes images in, while others wait to have one."""
    joining: bool = True
    """Whether images join others under way; False: a batch is the same from start to end."""
    shapes: tuple[int, ...] = ()
    """Rows that a call of the model may have, for models that are compiled for each; (): any."""
    patience: float = 120.0
    """Without any progress, after which the device counts as stuck: far longer than one step."""


class BatchScheduler:
    """Generates what is put into its queue, from `start` until `stop`."""

    def __init__(
        self,
        backbone: Backbone,
        settings: BatchSchedulerSettings,
        events: SchedulerMetrics | None = None,
    ) -> None:
        self.settings = settings
        self.queue = RequestQueue(settings.queue)
        self._events = events or SchedulerMetrics()
        self._studio = EngineResources(backbone, self._events)
        self._groups: dict[tuple[int, ...], RunningBatch] = {}
        self._caps: dict[tuple[int, ...], int] = {}
        self._stopping, self._ended = threading.Event(), threading.Event()
        self._broken: str | None = None
        self._progress = time.monotonic()
        self._pace = _Pace()
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float = 60) -> None:
        """Take no more, and end what there is, so many seconds at most."""
        self._stopping.set()
        self.queue.wake()
        self._thread.join(seconds)

    def submit(self, tickets: list[ScheduledRequest]) -> None:
        """All of them or none. Raises: QueueFullError, NoEngineError."""
        if self._broken or self._stopping.is_set():
            raise NoEngineError("this engine is being stopped: ask again")
        self.queue.put(tickets, wait=len(self.queue) * self._pace.seconds_each)
        if self._ended.is_set():  # Meanwhile: it may not have seen these.
            self._turn_away()

    def trouble(self) -> str | None:
        """Why this engine should be replaced; None: there is no reason to. Asks nothing of the
        device, since one that is stuck would not answer.
        """
        if self._broken:
            return self._broken
        silent = time.monotonic() - self._progress
        if silent > self.settings.patience:
            return f"nothing has moved for {silent:.0f} s"
        return None

    def _run(self) -> None:
        try:
            while not (self._stopping.is_set() and not self._groups and not len(self.queue)):
                self._turn()
        except DeviceBrokenError as error:
            self._broken = str(error)
            self._events.broke(error)
        except Exception as error:
            log.exception("batcher broke")
            self._broken = f"{type(error).__name__}: {error}"
        self._ended.set()
        for ticket in [ticket for group in self._groups.values() for ticket in group.clear()]:
            ticket.listener.ended(NoEngineError("this engine broke: ask again"))
        self._turn_away()

    def _turn_away(self) -> None:
        for ticket in self.queue.clear():
            ticket.listener.ended(NoEngineError("this engine has stopped: ask again"))

    def _turn(self) -> None:
        self._drop_stale()
        self._admit()
        self._events.waiting(len(self.queue))
        self._progress = time.monotonic()
        for key, group in list(self._groups.items()):
            began, before = time.monotonic(), len(group)
            group.step()
            self._progress = time.monotonic()
            self._pace.note(self._progress - began, before - len(group))
            if not is_alone(key):
                self._caps[key] = group.cap
            if not len(group):
                del self._groups[key]
            # Whoever has come meanwhile joins before the next group has its step.
            self._admit()
        if not self._groups:
            self.queue.wait(_LOOK)

    def _drop_stale(self) -> None:
        now = time.monotonic()
        for ticket in self.queue.sweep():
            drop(ticket, self._events)
        for group in self._groups.values():
            group.drop_stale(now)

    def _admit(self) -> None:
        others = [*self.queue.groups(but=self._groups.keys())]
        places = self.settings.sizes - len(self._groups)
        now = time.monotonic()
        for key, group in self._groups.items():
            closing = len(others) > places and now - group.opened > self.settings.turn
            if not closing and (self.settings.joining or not len(group)):
                self._join(group, self.queue.take(key, group.room))
        for key in others[: max(0, places)]:
            group = RunningBatch(self._studio, self._cap(key), self.settings.shapes)
            self._join(group, self.queue.take(key, group.room))
            if len(group):
                self._groups[key] = group

    def _cap(self, key: tuple[int, ...]) -> int:
        """As many as memory has been found to be enough for, or one that wants to be alone."""
        return 1 if is_alone(key) else self._caps.get(key, self.settings.cap)

    def _join(self, group: RunningBatch, tickets: list[ScheduledRequest]) -> None:
        if tickets:
            waited = time.monotonic() - min(ticket.entered for ticket in tickets)
            self._events.joined(len(tickets), len(group), waited)
            group.join(tickets)


class _Pace:
    """How fast images are made, of late."""

    def __init__(self) -> None:
        self._seconds, self._images = 1.0, 1.0

    def note(self, seconds: float, images: int) -> None:
        """So many were done in a step of so many seconds."""
        self._seconds = 0.99 * self._seconds + seconds
        self._images = 0.99 * self._images + images

    @property
    def seconds_each(self) -> float:
        return self._seconds / max(self._images, 0.1)

"""Images of one size that are denoised together; what breaks is found, and fails alone."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image

from dti_engine import devices
from dti_engine.backbones.interface import Backbone
from dti_engine.errors import DTIError, GenerationFailedError
from dti_engine.generation.denoiser import (
    Denoiser,
    DenoisingState,
    Prediction,
    begin,
    decode,
    preview,
    to_image,
)
from dti_engine.generation.prompt_cache import PromptCache
from dti_engine.generation.scheduler import LinearScheduler
from services.errors import LateError
from services.inference.scheduler.request import ScheduledRequest, SchedulerMetrics

T = TypeVar("T")


class DeviceBrokenError(Exception):
    """No call succeeds on this device any more: only a new process helps."""


@dataclass(eq=False)
class _Running:
    ticket: ScheduledRequest
    denoising: DenoisingState


class EngineResources:
    """What all groups of an engine share: a model, its prompts and its samplers."""

    def __init__(self, backbone: Backbone, events: SchedulerMetrics) -> None:
        self.backbone = backbone
        self.events = events
        self.reader = PromptCache(backbone)
        self._samplers: dict[int, LinearScheduler] = {}

    def sampler(self, steps: int) -> LinearScheduler:
        """Raises: ConfigurationError."""
        if steps not in self._samplers:
            self._samplers[steps] = LinearScheduler.of(self.backbone.new_scheduler(), steps)
        return self._samplers[steps]


class RunningBatch:
    """Used by the device's thread alone."""

    def __init__(self, studio: EngineResources, cap: int, shapes: Sequence[int] = ()) -> None:
        """cap: of images in a call. shapes: as of `Denoiser`."""
        self.cap = cap
        self.opened = time.monotonic()
        self._studio = studio
        self._denoiser = Denoiser(studio.backbone, shapes)
        self._running: list[_Running] = []

    def __len__(self) -> int:
        return len(self._running)

    @property
    def room(self) -> int:
        """For so many more."""
        return max(0, self.cap - len(self._running))

    def join(self, tickets: Sequence[ScheduledRequest]) -> None:
        """Read their prompts, and let them take part from the next step on."""
        studio = self._studio

        def begin_all(part: Sequence[ScheduledRequest]) -> None:
            joined: list[_Running] = []
            for steps in dict.fromkeys(ticket.steps for ticket in part):
                alike = [ticket for ticket in part if ticket.steps == steps]
                begun = begin(
                    studio.backbone,
                    studio.reader,
                    [ticket.request for ticket in alike],
                    studio.sampler(steps),
                    alike[0].size,
                )
                joined += map(_Running, alike, begun)
            self._running += joined

        self._each_by_itself(begin_all, tickets, lambda ticket: ticket)

    def step(self) -> None:
        """One step of each; those that are done then leave, as images."""
        for part in _parts(self._running, self.cap):
            self._each_by_itself(self._step, part, lambda one: one.ticket)
        self._finish()

    def drop_stale(self, now: float) -> None:
        """Let those leave that nobody waits for."""
        for ticket in [one.ticket for one in self._running if one.ticket.stale(now)]:
            self._leave(ticket)
            drop(ticket, self._studio.events)

    def clear(self) -> list[ScheduledRequest]:
        """Let all leave."""
        tickets = [one.ticket for one in self._running]
        self._running.clear()
        return tickets

    def _step(self, part: Sequence[_Running]) -> None:
        began = time.monotonic()
        prediction = self._denoiser.step([one.denoising for one in part])
        self._studio.events.stepped(time.monotonic() - began, len(part), self.cap)
        looking = [row for row, one in enumerate(part) if _wants_preview(one)]
        shown = self._previews(prediction, looking)
        for row, one in enumerate(part):
            one.ticket.listener.stepped(one.denoising.done, shown.get(row))

    def _previews(self, prediction: Prediction, rows: Sequence[int]) -> dict[int, Image.Image]:
        """By row. None at all if they cannot be had: nobody fails for want of one."""
        try:
            return dict(zip(rows, preview(prediction, rows), strict=True)) if rows else {}
        except (RuntimeError, MemoryError, GenerationFailedError) as error:
            _raise_if_broken(error)
            return {}

    def _finish(self) -> None:
        done = [one for one in self._running if one.denoising.finished]
        if done:
            self._each_by_itself(self._decode, done, lambda one: one.ticket)

    def _decode(self, done: Sequence[_Running]) -> None:
        began = time.monotonic()
        images: list[tuple[ScheduledRequest, Image.Image | DTIError]] = []
        batch = [one.denoising for one in done]
        for one, pixels in zip(done, decode(self._studio.backbone, batch), strict=True):
            try:
                images.append((one.ticket, to_image(pixels)))
            except GenerationFailedError as error:
                images.append((one.ticket, error))
        self._studio.events.decoded(time.monotonic() - began, len(done))
        for ticket, outcome in images:
            self._end(ticket, outcome)

    def _each_by_itself(
        self,
        do: Callable[[Sequence[T]], None],
        things: Sequence[T],
        ticket_of: Callable[[T], ScheduledRequest],
    ) -> None:
        """Do it with all at once; if that breaks, with each half, until whoever it is about is
        alone. Memory that runs out is nobody's own fault, as long as there are others.
        """
        try:
            do(things)
            return
        except Exception as error:
            _raise_if_broken(error)
            if devices.is_out_of_memory(error) and len(things) > 1:
                self.cap = min(self.cap, max(1, len(things) // 2))
                self._studio.events.shrunk(self.cap)
            if len(things) == 1:
                self._end(ticket_of(things[0]), _told(error))
                return
        devices.release_memory(self._studio.backbone.device)
        middle = len(things) // 2
        for half in (things[:middle], things[middle:]):
            self._each_by_itself(do, half, ticket_of)

    def _end(self, ticket: ScheduledRequest, outcome: Image.Image | DTIError) -> None:
        self._leave(ticket)
        self._studio.events.ended(ticket, outcome if isinstance(outcome, DTIError) else None)
        ticket.listener.ended(outcome)

    def _leave(self, ticket: ScheduledRequest) -> None:
        self._running = [one for one in self._running if one.ticket is not ticket]


def drop(ticket: ScheduledRequest, events: SchedulerMetrics) -> None:
    """Nobody waits for it any more; whoever is still there is told."""
    events.dropped(ticket)
    if not ticket.gone:
        ticket.listener.ended(LateError("its time had passed before it was done"))


def _parts(running: Sequence[_Running], cap: int) -> Iterator[Sequence[_Running]]:
    for start in range(0, len(running), cap):
        yield running[start : start + cap]


def _wants_preview(one: _Running) -> bool:
    every, done = one.ticket.previews, one.denoising.done
    return bool(every) and done % every == 0 and not one.denoising.finished


def _told(error: Exception) -> DTIError:
    if isinstance(error, DTIError):
        return error
    if devices.is_out_of_memory(error):
        return GenerationFailedError("memory ran out with this image alone: ask for a smaller one")
    return GenerationFailedError(f"the model broke at this image: {type(error).__name__}")


def _raise_if_broken(error: Exception) -> None:
    """Errors of a CUDA kernel come back at every later call of the process."""
    if isinstance(error, DeviceBrokenError):
        raise error
    if isinstance(error, torch.AcceleratorError) and not devices.is_out_of_memory(error):
        raise DeviceBrokenError(str(error)) from error

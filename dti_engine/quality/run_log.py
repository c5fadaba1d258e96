"""What the log of a run tells of the run and of each subject; see `commands.events` for its lines.

A log may be cut, damaged or of several runs, one after the other. What cannot be understood is
passed over.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from dti_engine.artifacts.manifest import Manifest

Event: TypeAlias = Mapping[str, Any]


@dataclass(slots=True)
class Past:
    """Of one subject, in all runs."""

    failure: str | None = None  # why, if no success has followed
    failure_kind: str | None = None  # the class of the error
    is_finished: bool = False
    is_compared: bool = False  # its last token was held beside the others of the run
    placeholder: str | None = None
    steps: int | None = None  # that it is to have
    seconds: float | None = None  # since it was seated
    warnings: list[str] = field(default_factory=list[str])  # of the last run that it was in
    losses: dict[int, float] = field(default_factory=dict[int, float])  # step -> fixed loss
    _run: int = 0

    def take(self, event: Event, run: int) -> None:
        """What happened next, in the run of this number."""
        if run != self._run:
            self._run, self.warnings = run, []
        match event["event"]:
            case "seated":
                began_at = number(event, "step") or 0
                self.losses = {step: x for step, x in self.losses.items() if step <= began_at}
                self.steps = count(event, "steps")
                self.is_finished = self.is_compared = False
            case "progress":
                self._learn(count(event, "step"), event)
            case "finished":
                self._learn(count(event, "steps"), event)
                self.placeholder = text(event, "placeholder")
                self._succeed()
            case "skipped":
                self._succeed()
            case "failed":
                self.failure = text(event, "error") or "the log does not say why"
                self.failure_kind = text(event, "kind")
            case "validated":
                self.is_compared = True
            case "warning" if (message := text(event, "message")) and message not in self.warnings:
                self.warnings.append(message)
            case _:
                pass

    def _learn(self, step: int | None, event: Event) -> None:
        seconds, loss = number(event, "seconds"), number(event, "fixed_loss")
        self.seconds = self.seconds if seconds is None else seconds
        if step is not None and loss is not None:
            self.losses[step] = loss

    def _succeed(self) -> None:
        self.failure = self.failure_kind = None
        self.is_finished = True


@dataclass(slots=True)
class History:
    """Of a folder: every subject that its log names, and the runs."""

    subjects: dict[str, Past] = field(default_factory=dict[str, Past])
    problem: str | None = None  # why nothing is known
    num_runs: int = 0
    started: Event = field(default_factory=dict[str, Any])  # how the last run was begun
    is_ended: bool = False  # the last run came to its end, or to a stop that it could tell of
    stopped_by: str | None = None  # the signal that stopped the last run
    seconds: float = 0.0  # of all runs that told of their end ...
    num_finished: int = 0  # ... and how many tokens they made

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """Told from the oldest event to the newest. Raises: what reading the events raises."""
        history = cls()
        for event in events:
            history._take(event)
        return history

    @property
    def subjects_per_hour(self) -> float | None:
        """Tokens made in an hour, all stages counted; None: no run has told of its end."""
        return 3600 * self.num_finished / self.seconds if self.seconds > 0 else None

    def _take(self, event: Event) -> None:
        match event["event"]:
            case "started":
                self.started, self.is_ended, self.stopped_by = event, False, None
                self.num_runs += 1
            case "stopped":
                self.stopped_by = text(event, "signal")
            case "ended":
                self.is_ended = True
                self.seconds += number(event, "seconds") or 0.0
                self.num_finished += len(_listed(event, "tokens"))
                for each in _listed(event, "unfinished"):
                    if isinstance(each, dict) and (name := text(each, "subject")):
                        self.subjects.setdefault(name, Past())  # it may never have had a slot
            case _:
                if name := text(event, "subject"):
                    self.subjects.setdefault(name, Past()).take(event, self.num_runs)


@dataclass(frozen=True, slots=True)
class Run:
    """How the tokens were made, as far as known."""

    models: tuple[str, ...]
    dtype: str | None
    num_slots: int | None
    num_subjects: int | None  # that the last run was asked for
    num_runs: int  # in this folder, one after the other
    started: str | None  # the last one: ISO 8601, UTC
    is_ended: bool
    stopped_by: str | None
    seconds: float | None
    subjects_per_hour: float | None
    config: Mapping[str, Any]  # of subjects that did not say their own
    log_problem: str | None  # why nothing is known from a log

    @classmethod
    def of(cls, history: History, tokens: Sequence[Manifest]) -> "Run":
        started, config = history.started, history.started.get("config")
        model = text(started, "model")
        named = {model} if model else {each.model for each in tokens}
        return cls(
            models=tuple(sorted(named)),
            dtype=text(started, "dtype"),
            num_slots=count(started, "slots"),
            num_subjects=count(started, "subjects"),
            num_runs=history.num_runs,
            started=text(started, "time"),
            is_ended=history.is_ended,
            stopped_by=history.stopped_by,
            seconds=history.seconds or None,
            subjects_per_hour=history.subjects_per_hour,
            config=config if isinstance(config, dict) else {},
            log_problem=history.problem,
        )


def text(event: Event, key: str) -> str | None:
    """None: it has no such text."""
    value = event.get(key)
    return value if isinstance(value, str) else None


def number(event: Event, key: str) -> float | None:
    """None: it has no such finite number."""
    value = event.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def count(event: Event, key: str) -> int | None:
    """None: it has no such whole number."""
    value = number(event, key)
    return int(value) if value is not None and value == int(value) else None


def _listed(event: Event, key: str) -> list[Any]:
    value = event.get(key)
    return value if isinstance(value, list) else []

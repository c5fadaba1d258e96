"""The history of a run and its subjects, from its log; see `cli.run_log` for the lines.

A log may be truncated, damaged, or hold several consecutive runs. Lines that are not understood are
skipped.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from dti_engine.artifacts.manifest import Manifest

Event: TypeAlias = Mapping[str, Any]


@dataclass(slots=True)
class SubjectHistory:
    """The history of one subject over all runs."""

    failure: str | None = None  # the reason, unless a success followed
    failure_kind: str | None = None  # the class of the error
    is_finished: bool = False
    is_compared: bool = False  # its last token was compared with the others of the run
    placeholder: str | None = None
    steps: int | None = None  # the planned number
    seconds: float | None = None  # since it got its slot
    warnings: list[str] = field(default_factory=list[str])  # of the last run that it was in
    losses: dict[int, float] = field(default_factory=dict[int, float])  # step -> fixed loss
    _run: int = 0

    def apply(self, event: Event, run: int) -> None:
        """Apply the next event, which belongs to the run of this number."""
        if run != self._run:
            self._run, self.warnings = run, []
        match event["event"]:
            case "slot_assigned":
                began_at = number(event, "step") or 0
                # A subject that resumes from a checkpoint repeats the steps after it, and what was
                # logged of them does not belong to its token.
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
class RunHistory:
    """The history of a folder: every subject that its log names, and the runs."""

    subjects: dict[str, SubjectHistory] = field(default_factory=dict[str, SubjectHistory])
    problem: str | None = None  # why the log cannot be read
    num_runs: int = 0
    started: Event = field(default_factory=dict[str, Any])  # the first event of the last run
    is_ended: bool = False  # the last run logged its end, or its stop
    stopped_by: str | None = None  # the signal that stopped the last run
    seconds: float = 0.0  # of all runs that logged their end ...
    num_finished: int = 0  # ... and the number of their tokens

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """Build the history from events in order of time. Raises: as the iteration over them."""
        history = cls()
        for event in events:
            history._apply(event)
        return history

    @property
    def subjects_per_hour(self) -> float | None:
        """Tokens per hour, over all stages; None if no run has logged its end."""
        return 3600 * self.num_finished / self.seconds if self.seconds > 0 else None

    def _apply(self, event: Event) -> None:
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
                        self.subjects.setdefault(
                            name, SubjectHistory()
                        )  # it may never have got a slot
            case _:
                if name := text(event, "subject"):
                    self.subjects.setdefault(name, SubjectHistory()).apply(event, self.num_runs)


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts about the training of the tokens, as far as known."""

    models: tuple[str, ...]
    dtype: str | None
    num_slots: int | None
    num_subjects: int | None  # requested of the last run
    num_runs: int  # in this folder, one after the other
    started: str | None  # of the last run: ISO 8601, UTC
    is_ended: bool
    stopped_by: str | None
    seconds: float | None
    subjects_per_hour: float | None
    config: Mapping[str, Any]  # of subjects without a config of their own
    log_problem: str | None  # why the log cannot be read

    @classmethod
    def of(cls, history: RunHistory, tokens: Sequence[Manifest]) -> "RunFacts":
        """Collect the facts from the log, and from tokens where the log says nothing."""
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
    """Return the text of this key, or None if there is none."""
    value = event.get(key)
    return value if isinstance(value, str) else None


def number(event: Event, key: str) -> float | None:
    """Return the finite number of this key, or None if there is none."""
    value = event.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def count(event: Event, key: str) -> int | None:
    """Return the whole number of this key, or None if there is none."""
    value = number(event, key)
    return int(value) if value is not None and value == int(value) else None


def _listed(event: Event, key: str) -> list[Any]:
    value = event.get(key)
    return value if isinstance(value, list) else []

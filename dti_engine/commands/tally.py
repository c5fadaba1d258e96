"""Where a training of many subjects stands: who is at work, how many have ended, how long yet."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import degrees, nan
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from dti_engine.reports import SlotReport

Ending: TypeAlias = Literal["finished", "failed", "skipped"]


@dataclass(slots=True)
class Row:
    """A subject at work."""

    slot: int
    subject: str
    step: int  # steps done
    steps: int  # that it is to have
    fixed_loss: float = nan  # nan: not known yet
    prior_angle_deg: float = nan


class Tally:
    """Counts of a run of `num_subjects` in `num_slots`; times are in seconds."""

    def __init__(
        self,
        num_subjects: int,
        *,
        num_slots: int,
        steps: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """steps: of subjects that do not say their own."""
        self.num_subjects, self.num_slots = num_subjects, num_slots
        self.rows: dict[str, Row] = {}  # by subject
        self.ended: Counter[Ending] = Counter()
        self._steps, self._clock = steps, clock
        self._began = clock()
        self._first_read: float | None = None
        self._subjects_done = 0.0  # since then, in parts of a subject
        self._steps_done = 0  # since then, of the batch

    def seat(self, slot: int, subject: str, *, step: int, steps: int) -> None:
        self.rows[subject] = Row(slot, subject, step, steps)

    def read(self, reports: Sequence["SlotReport"]) -> None:
        """New reports, of some steps of each subject at work."""
        steps: Counter[str] = Counter()
        for report in reports:
            # Whoever has no slots to tell of seats nobody.
            if report.subject_id not in self.rows:
                self.seat(len(self.rows), report.subject_id, step=0, steps=self._steps)
            row = self.rows[report.subject_id]
            row.step, row.fixed_loss = report.step, report.fixed_loss
            row.prior_angle_deg = degrees(report.prior_angle_rad)
            steps[report.subject_id] += 1
        if self._first_read is None:
            # The first steps are slower than others, and do not count in what is to be expected.
            self._first_read = self._clock()
            return
        self._steps_done += max(steps.values(), default=0)
        self._subjects_done += sum(n / self.rows[name].steps for name, n in steps.items())

    def end(self, subject: str, how: Ending) -> None:
        self.rows.pop(subject, None)
        self.ended[how] += 1

    @property
    def num_unfinished(self) -> int:
        """At work or waiting."""
        return max(0, self.num_subjects - self.ended.total())

    @property
    def fraction(self) -> float:
        """Of the run, in 0 .. 1."""
        parts = sum(row.step / row.steps for row in list(self.rows.values()))
        return min(1.0, (self.ended.total() + parts) / max(1, self.num_subjects))

    @property
    def elapsed(self) -> float:
        return self._clock() - self._began

    @property
    def subjects_per_hour(self) -> float | None:
        """Parts of subjects count; None: not known yet."""
        if self._first_read is None or not self._subjects_done:
            return None
        return 3600 * self._subjects_done / (self._clock() - self._first_read)

    @property
    def left(self) -> float | None:
        """Until the last subject ends, at the pace so far; None: not known yet."""
        if self._first_read is None or not self._steps_done:
            return None
        return self._steps_left() * (self._clock() - self._first_read) / self._steps_done

    def _steps_left(self) -> int:
        """Of the batch. Whoever waits takes the slot that falls free first."""
        ends = sorted(row.steps - row.step for row in list(self.rows.values()))
        ends = [0] * (self.num_slots - len(ends)) + ends
        num_waiting = max(0, self.num_unfinished - len(self.rows))
        rounds, rest = divmod(num_waiting, len(ends))
        last = [end + self._steps for end in ends[:rest]]
        return rounds * self._steps + max(ends[-1:] + last)

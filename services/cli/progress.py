"""Progress of a job: its running items with steps and loss, and totals by state."""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic

from dti_engine.cli.progress import ItemsProgress
from services.cli.tables import job_words
from services.client.schemas import Job, Progress

_ALWAYS_COUNTED = ("succeeded", "failed", "running", "queued")  # other states only if there are any


class JobProgress(ItemsProgress):
    """The progress display of one job, by the updates of `Client.watch`."""

    def __init__(
        self,
        job: Job,
        names: Sequence[str] = (),
        *,
        is_live: bool | None = None,
        get_time: Callable[[], float] = monotonic,
    ) -> None:
        """Show a job; `names` are those of its items, by index, as far as they are known."""
        unit = f"{job_words(job.kind).item}s"
        super().__init__(job.count, unit=unit, is_live=is_live, get_time=get_time)
        self.names = dict(enumerate(names))
        self.update_job(job)

    def update_job(self, job: Job) -> None:
        """Show a new state of the job."""
        self.set_totals(count_states(job), num_ended=job.counts.ended, num_items=job.count)

    def update_items(self, progress: Mapping[int, Progress]) -> None:
        """Show the progress of running items, by index."""
        for index, item in progress.items():
            loss = "" if item.loss is None else f"loss {item.loss:.4f}"
            figures = ", ".join(text for text in (loss, item.phase) if text)
            name = self.names.get(index, f"item {index}")
            self.update(index, name, item.step, item.steps or None, figures)
        self.update_total()


def count_states(job: Job) -> str:
    """Return how many items are in each state, as text."""
    counts = dict(job.counts.by_name())
    rare = (name for name, n in counts.items() if n and name not in _ALWAYS_COUNTED)
    states = ", ".join(f"{counts[name]} {name}" for name in (*_ALWAYS_COUNTED, *rare))
    return f"{states} of {job.count}"

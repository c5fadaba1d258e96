"""Jobs on the terminal: tables, live progress, and the words for each kind of job."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from dti_engine.cli.progress import ItemsProgress
from services.client.schemas import Item, Job, Progress

_STYLES = {
    "running": "blue",
    "cancelling": "yellow",
    "succeeded": "green",
    "partially_succeeded": "yellow",
    "failed": "red",
    "cancelled": "dim",
    "deleted": "dim",
}


class JobWords(NamedTuple):
    """The words for items and results in one kind of job."""

    item: str
    result: str
    done: str
    """The participle for an item that succeeded."""

    @property
    def folder(self) -> str:
        """Default folder of the results."""
        return f"{self.result}s"


_TRAINING = JobWords("subject", "token", "learned")
_WORDS = {"training": _TRAINING, "generation": JobWords("image", "image", "generated")}


def job_words(kind: str) -> JobWords:
    """Return the words for a kind of job; an unknown kind gets those of training."""
    return _WORDS.get(kind, _TRAINING)


def jobs_table(jobs: Sequence[Job]) -> Table:
    """Return a table with a row per job."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("job", style="cyan", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("items", no_wrap=True)
    for heading in ("done", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("submitted", no_wrap=True)
    for job in jobs:
        table.add_row(
            job.job,
            _state(job.state),
            f"{job_words(job.kind).item}s",
            f"{job.counts.succeeded}/{job.count}",
            str(job.counts.failed),
            format_time(job.submitted),
        )
    return table


def job_table(job: Job) -> Table:
    """Return a table with the state of one job."""
    counts = ", ".join(f"{n} {name}" for name, n in job.counts.by_name() if n)
    return facts_table(
        {
            "job": f"[cyan]{job.job}[/]",
            "state": _state(job.state),
            f"{job_words(job.kind).item}s": f"{job.count}: {counts}",
            "model": escape(job.model or job.pool),
            "tags": escape(", ".join(f"{name}={value}" for name, value in job.tags.items())),
            "submitted": format_time(job.submitted),
        }
    )


def facts_table(facts: Mapping[str, str]) -> Table:
    """Return a table with a row for each fact, given as markup; empty ones are left out."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in facts.items():
        if value:
            table.add_row(f"[dim]{name}[/]", value)
    return table


def items_table(items: Sequence[Item]) -> Table:
    """Return a table with a row per item."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("item", style="cyan", overflow="fold")
    table.add_column("state")
    table.add_column("", overflow="fold")
    for item in items:
        table.add_row(escape(item.id), _state(item.state), escape(_note(item)))
    return table


def _note(item: Item) -> str:
    if item.state == "running" and item.progress and item.progress.steps:
        return f"step {item.progress.step}/{item.progress.steps}"
    if item.state == "failed":
        return item.reason
    return item.token or item.url or ""


def _state(state: str) -> str:
    style = _STYLES.get(state, "")
    text = escape(state.replace("_", " "))
    return f"[{style}]{text}[/]" if style else text


def format_time(time: datetime) -> str:
    """Return a time in the local zone; of long ago, the day alone."""
    is_recent = datetime.now(UTC) - time < timedelta(days=300)
    return f"{time.astimezone():{'%d %b %H:%M' if is_recent else '%d %b %Y'}}"


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

"""Jobs and their items as tables, for people."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich import box
from rich.markup import escape
from rich.table import Table

from services.client.answers import Item, Job
from services.commands.words import words

_STYLES = {
    "running": "blue",
    "cancelling": "yellow",
    "succeeded": "green",
    "partially_succeeded": "yellow",
    "failed": "red",
    "cancelled": "dim",
    "deleted": "dim",
}


def jobs_table(jobs: Sequence[Job]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("job", style="cyan", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("of", no_wrap=True)
    for heading in ("done", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("submitted", no_wrap=True)
    for job in jobs:
        table.add_row(
            job.job,
            _state(job.state),
            f"{words(job.kind).thing}s",
            f"{job.counts.succeeded}/{job.count}",
            str(job.counts.failed),
            when(job.submitted),
        )
    return table


def job_table(job: Job) -> Table:
    said = ", ".join(f"{n} {name}" for name, n in job.counts.by_name() if n)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in (
        ("job", f"[cyan]{job.job}[/]"),
        ("state", _state(job.state)),
        (f"{words(job.kind).thing}s", f"{job.count}: {said}"),
        ("model", escape(job.model or job.pool)),
        ("tags", escape(", ".join(f"{name}={value}" for name, value in job.tags.items()))),
        ("submitted", when(job.submitted)),
    ):
        if value:
            table.add_row(f"[dim]{name}[/]", value)
    return table


def items_table(items: Sequence[Item]) -> Table:
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
    words = escape(state.replace("_", " "))
    return f"[{style}]{words}[/]" if style else words


def when(time: datetime) -> str:
    """In the time of whoever reads it; long ago, the day will do."""
    is_recent = datetime.now(UTC) - time < timedelta(days=300)
    return f"{time.astimezone():{'%d %b %H:%M' if is_recent else '%d %b %Y'}}"

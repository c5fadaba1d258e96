"""Jobs and their items as tables, for people.

Jobs by part of their ids: these are long, since nobody may guess them.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from dti_engine.errors import ConfigurationError
from services.cli.words import words
from services.client.schemas import Item, Job

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


if TYPE_CHECKING:
    from services.client.client import Client

_WHOLE = 26  # characters of a job's id
_LEAST = 3
_RECENT = 100  # jobs that are looked at


def find_job(client: "Client", text: str) -> Job:
    """The job of this id, or the one recent job whose id begins or ends so.

    Raises: ConfigurationError if there is none, or several are; ClientError.
    """
    text = text.lower()
    if len(text) == _WHOLE and text.isalnum() and text.isascii():
        return client.job(text)
    if not _LEAST <= len(text) < _WHOLE:
        raise ConfigurationError(
            f"{text!r:.80} is not a job's id of {_WHOLE} digits and letters; {_LEAST} at the "
            "beginning or the end will do. `dti jobs` lists them"
        )
    recent = list(islice(client.jobs(), _RECENT))
    found = [job for job in recent if job.job.startswith(text) or job.job.endswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigurationError(
            f"none of the {len(recent)} newest jobs has an id that begins or ends with {text!r}; "
            "give it whole if it is older"
        )
    names = ", ".join(job.job for job in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise ConfigurationError(f"{text!r} may be {names}{more}: give more of it")

"""Jobs and their items as tables, the words for each kind of job, and jobs by part of their ids."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from dti_engine.errors import ConfigurationError
from services.client.schemas import Item, Job

if TYPE_CHECKING:
    from services.client.client import Client

_STYLES = {
    "running": "blue",
    "cancelling": "yellow",
    "succeeded": "green",
    "partially_succeeded": "yellow",
    "failed": "red",
    "cancelled": "dim",
    "deleted": "dim",
}
_ID_LENGTH = 26  # characters of a job's id
_MIN_PART = 3  # of them that name a recent job
_NUM_RECENT = 100


class JobWords(NamedTuple):
    """The words for items and results in one kind of job."""

    item: str
    result: str
    done: str
    """What has happened to an item that succeeded."""

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
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in (
        ("job", f"[cyan]{job.job}[/]"),
        ("state", _state(job.state)),
        (f"{job_words(job.kind).item}s", f"{job.count}: {counts}"),
        ("model", escape(job.model or job.pool)),
        ("tags", escape(", ".join(f"{name}={value}" for name, value in job.tags.items()))),
        ("submitted", format_time(job.submitted)),
    ):
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


def find_job(client: "Client", text: str) -> Job:
    """Return the job of this id, or the one recent job whose id begins or ends with the text.

    Raises: ConfigurationError if there is none, or more than one; ClientError.
    """
    text = text.lower()
    if len(text) == _ID_LENGTH and text.isalnum() and text.isascii():
        return client.job(text)
    if not _MIN_PART <= len(text) < _ID_LENGTH:
        raise ConfigurationError(
            f"{text!r:.80} is not the id of a job: ids have {_ID_LENGTH} digits and letters, and "
            f"{_MIN_PART} at the beginning or the end are enough. `dti jobs` lists them"
        )
    recent = list(islice(client.jobs(), _NUM_RECENT))
    found = [job for job in recent if job.job.startswith(text) or job.job.endswith(text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigurationError(
            f"none of the {len(recent)} newest jobs has an id that begins or ends with {text!r}; "
            "give the whole id of an older job"
        )
    names = ", ".join(job.job for job in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    raise ConfigurationError(f"{text!r} fits {names}{more}: give more of the id")

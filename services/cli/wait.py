"""`--wait`: follow a job until it has ended, and download each result as it is made."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from dti_engine.artifacts.repacking import RepackedToken, repack
from dti_engine.cli.console import output_folder, print_json, print_paths, results, say, warn
from dti_engine.cli.resume import set_aside
from dti_engine.config import ExportFormat
from dti_engine.errors import DTIError
from dti_engine.files import atomic_write
from services.cli.display import JobProgress, job_words
from services.client.schemas import Item, Job

if TYPE_CHECKING:
    from services.client.client import Client

_MAX_DOWNLOADS = 4  # at a time
_MAX_LINES = 20  # on a terminal, of paths or failures; a file or a pipe gets all of them
_INTERRUPTED = 130  # what shells report of Ctrl-C
_ENDED = ("succeeded", "failed")
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def wait_for_job(
    client: "Client",
    job: Job,
    *,
    output: Path | None,
    as_json: bool,
    names: Sequence[str] = (),
) -> None:
    """Follow the job, download its results, and end the command.

    The exit code is 0 if every item has a result here, 130 after Ctrl-C, and 1 otherwise. `names`
    are those of the items, by index, as far as they are known.

    Raises: typer.Exit, always; ClientError; OutputError.
    """
    folder = output_folder(output or Path(job_words(job.kind).folder))
    waiting = _Waiting(client, job, folder, names)
    try:
        waiting.run()
    except KeyboardInterrupt:
        waiting.say_how_to_return()
        raise typer.Exit(_INTERRUPTED) from None
    waiting.report(as_json=as_json)
    raise typer.Exit(waiting.exit_code())


class EndedItems:
    """The items of a job that have ended, each yielded once."""

    def __init__(self, client: "Client", job: str) -> None:
        self.items = dict[int, Item]()  # by index
        self._client, self._job = client, job
        self._start = 0  # all items before this index have ended

    def update(self, job: Job) -> Iterator[Item]:
        """Yield the items that have ended since the last call."""
        if (job.counts.succeeded, job.counts.failed) == self._counts():
            return
        yield from self._list(self._start)
        # A retry changes items that had ended, also those before `_start`.
        if job.ended and (job.counts.succeeded, job.counts.failed) != self._counts():
            yield from self._list(0)

    def _list(self, start: int) -> Iterator[Item]:
        for state in _ENDED:
            for item in self._client.items(self._job, state=state, start=start):
                known = self.items.get(item.index)
                self.items[item.index] = item
                if known is None or known.state != item.state:
                    yield item
        while self._start in self.items:
            self._start += 1

    def _counts(self) -> tuple[int, int]:
        states = [item.state for item in self.items.values()]
        return states.count("succeeded"), states.count("failed")


@dataclass
class _Waiting:
    """A command that waits for a job."""

    client: "Client"
    job: Job
    folder: Path
    names: Sequence[str]
    """The names of items by index, as far as they are known."""
    fetched: dict[int, tuple[Item, Path]] = field(default_factory=dict[int, tuple[Item, Path]])
    failed: dict[int, Item] = field(default_factory=dict[int, Item])
    unfetched: dict[int, tuple[Item, DTIError]] = field(
        default_factory=dict[int, tuple[Item, DTIError]]
    )

    def __post_init__(self) -> None:
        self._words = job_words(self.job.kind)
        self._progress = JobProgress(self.job, self.names)
        self._ended = EndedItems(self.client, self.job.job)
        self._pool = ThreadPoolExecutor(_MAX_DOWNLOADS)
        self._downloads = list[Future[None]]()
        self._is_disconnected = False

    def run(self) -> None:
        """Follow the job until it has ended and all downloads are done."""
        from services.client.watch import Disconnected, ItemsAdvanced, JobChanged

        if not self._progress.is_live:
            say(f"waiting for job {self.job.job}; Ctrl-C leaves it running")
        try:
            with self._progress:
                for update in self.client.watch(self.job.job):
                    match update:
                        case JobChanged(job=job):
                            self._update_job(job)
                        case ItemsAdvanced(progress=progress):
                            self._progress.update_items(progress)
                            self._refresh_running()
                        case Disconnected(reason=reason):
                            self._say_disconnected(reason)
                            continue
                    self._say_connected()
                    self._progress.say_totals()
                for download in self._downloads:
                    download.result()
        finally:
            # Ctrl-C must not wait for downloads: the same command fetches what is missing.
            self._pool.shutdown(wait=False, cancel_futures=True)

    def say_how_to_return(self) -> None:
        """Say that the job goes on, after Ctrl-C."""
        job = self.job.job
        say(
            f"no longer waiting: job {job} goes on. `dti job {job} --wait -o {self.folder}` "
            f"returns to it, `dti cancel {job}` ends it"
        )

    def report(self, *, as_json: bool) -> None:
        """Print the paths of results to stdout, and say what happened to the rest."""
        if as_json:
            print_json(self._document())
            return
        paths = [path for _, (_, path) in sorted(self.fetched.items())]
        if results.is_terminal and len(paths) > _MAX_LINES:
            print_paths([self.folder])
        else:
            print_paths(paths)
        job = self.job
        counts = ", ".join(f"{n} {name}" for name, n in job.counts.by_name() if n)
        say(f"job {job.job} {job.state.replace('_', ' ')}: {counts} of {job.count}")
        if self.failed:
            say(f"`dti job {job.job} --failed` lists reasons; `dti retry {job.job}` retries them")
        if self.unfetched:
            say(
                f"{len(self.unfetched)} {self._words.result}s were not downloaded: "
                f"`dti job {job.job} --wait` downloads them"
            )

    def exit_code(self) -> int:
        """Return 0 if the result of every item is here."""
        return 0 if len(self.fetched) == self.job.count else 1

    def _update_job(self, job: Job) -> None:
        self.job = job
        for item in self._ended.update(job):
            self._progress.names[item.index] = item.id
            self._progress.end(item.index)
            if item.state == "failed":
                self._add_failure(item)
            elif item.state == "succeeded":
                self.failed.pop(item.index, None)
                self._downloads.append(self._pool.submit(self._download, item))
        self._progress.update_job(job)
        self._refresh_running()

    def _refresh_running(self) -> None:
        """Ask which items run, if the events leave it open.

        Names may be unknown, and an item that a worker has given back has no event.
        """
        shown, names = set(self._progress.running()), self._progress.names
        if len(shown) <= self.job.counts.running and shown <= names.keys():
            return
        running = {item.index: item.id for item in self.client.items(self.job.job, state="running")}
        names.update(running)
        for index in shown - running.keys():
            self._progress.end(index)

    def _download(self, item: Item) -> None:
        try:
            path = fetch_result(self.client, self.job, item, self.folder)
        except DTIError as error:
            self.unfetched[item.index] = item, error.bare()
            warn(
                f"{item.id} was {self._words.done}, but its {self._words.result} was not "
                f"downloaded: {error}"
            )
        else:
            self.fetched[item.index] = item, path

    def _add_failure(self, item: Item) -> None:
        """Report a failure at once, while the cause may still be fixed."""
        self.failed[item.index] = item
        if len(self.failed) <= _MAX_LINES:
            say(f"{item.id}: {item.reason}", label="[bold red]failed:[/] ")
        elif len(self.failed) == _MAX_LINES + 1:
            warn(f"more have failed; `dti job {self.job.job} --failed` lists them all")

    def _say_disconnected(self, reason: str) -> None:
        """Say once that the service does not answer: it may be away for hours."""
        self._progress.note = f"trying again: {reason}"
        if not self._progress.is_live and not self._is_disconnected:
            warn(f"{reason}; trying again until it answers")
        self._is_disconnected = True

    def _say_connected(self) -> None:
        if self._is_disconnected and not self._progress.is_live:
            say("the service answers again")
        self._is_disconnected, self._progress.note = False, ""

    def _document(self) -> dict[str, Any]:
        return {
            "job": self.job.model_dump(mode="json"),
            f"{self._words.result}s": [
                {"id": item.id, "index": index, **_token_of(item), "path": str(path)}
                for index, (item, path) in sorted(self.fetched.items())
            ],
            "failed": [
                {"id": item.id, "index": index, "reason": item.reason}
                for index, item in sorted(self.failed.items())
            ],
            "unfetched": [
                {"id": item.id, "index": index, **_token_of(item), "error": str(error)}
                for index, (item, error) in sorted(self.unfetched.items())
            ],
        }


def fetch_token(
    client: "Client", token: str, folder: Path, name: str, *, sha256: str | None = None
) -> Path:
    """Download a token to a file named after its subject, and return the path.

    Another file of this name moves to DIR/earlier. `sha256` is that of the token, if known.

    Raises: ClientError; OutputError if it cannot be written.
    """
    return _fetch(
        folder,
        file_stem(name),
        ".safetensors",
        lambda: sha256 or client.token(token).sha256,
        lambda: client.token_file(token),
    )


def fetch_export(
    client: "Client", token: str, folder: Path, name: str, format_name: ExportFormat
) -> RepackedToken:
    """Download a token, and write its files in the format of another program.

    Another file of such a name moves to DIR/earlier. No torch is needed.

    Raises: ClientError; ArtifactError if the program does not take the token; OutputError if a file
        cannot be written.
    """
    exported = repack(
        client.token_file(token), folder / f"{file_stem(name)}.safetensors", format_name
    )
    for path, content in exported.contents.items():
        if path.exists():
            if path.read_bytes() == content:
                continue
            set_aside(folder, [path.stem], path.suffix)
        atomic_write(path, content)
    return exported


def fetch_result(client: "Client", job: Job, item: Item, folder: Path) -> Path:
    """Download the token or image of an item, and return the path.

    Raises: ClientError; OutputError if it cannot be written.
    """
    if item.token:
        return fetch_token(client, item.token, folder, item.id)
    return _fetch(
        folder,
        file_stem(item.id),
        ".png",
        lambda: item.sha256 or "",
        lambda: client.image(job.job, item.index),
    )


def _fetch(
    folder: Path, stem: str, suffix: str, digest: Callable[[], str], load: Callable[[], bytes]
) -> Path:
    """Write what `load` returns, unless the file that is there has the digest already."""
    path = folder / f"{stem}{suffix}"
    exists = path.exists()
    if exists and hashlib.sha256(path.read_bytes()).hexdigest() == digest():
        return path
    data = load()
    if exists:
        set_aside(folder, [stem], suffix)
    atomic_write(path, data)
    return path


def file_stem(name: str) -> str:
    """Return an id as a file name; one that not every system accepts is replaced, with a digest."""
    if _SAFE_NAME.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def _token_of(item: Item) -> dict[str, str]:
    """Return the id of an item's token; images have none."""
    return {"token": item.token} if item.token else {}

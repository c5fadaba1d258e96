"""`--wait`: a job is watched until it has ended, its tokens or images are fetched as they are
made.

What becomes of a job's items: heard of as they end, each once.

Tokens and images as files: one for each, whole or not there, and nothing lost that was there
before.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.live import Live

from dti_engine.cli.console import notes, output_folder, print_json, print_paths, results, say, warn
from dti_engine.cli.resume import set_aside
from dti_engine.errors import DTIError
from dti_engine.files import atomic_write
from services.cli.progress import Board, JobTally, totals
from services.cli.words import words
from services.client.schemas import Item, Job

if TYPE_CHECKING:
    from services.client.client import Client

_TOLD = ("succeeded", "failed")


class Endings:
    """Of the items of one job."""

    def __init__(self, client: "Client", job: str) -> None:
        self.items = dict[int, Item]()  # those that have ended, by index
        self._client, self._job = client, job
        self._low = 0  # all before it have ended

    def news(self, job: Job) -> Iterator[Item]:
        """Those that have succeeded or failed since the last call, as the job stands now."""
        if (job.counts.succeeded, job.counts.failed) == self._counts():
            return
        yield from self._look(self._low)
        # Whoever lets failed items be tried again changes what had ended.
        if job.ended and (job.counts.succeeded, job.counts.failed) != self._counts():
            yield from self._look(0)

    def _look(self, start: int) -> Iterator[Item]:
        for state in _TOLD:
            for item in self._client.items(self._job, state=state, start=start):
                known = self.items.get(item.index)
                self.items[item.index] = item
                if known is None or known.state != item.state:
                    yield item
        while self._low in self.items:
            self._low += 1

    def _counts(self) -> tuple[int, int]:
        states = [item.state for item in self.items.values()]
        return states.count("succeeded"), states.count("failed")


if TYPE_CHECKING:
    from services.client.client import Client

_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def fetch(
    client: "Client", token: str, folder: Path, name: str, *, sha256: str | None = None
) -> Path:
    """The file of a token, named after its subject; another one that is there under this name is
    moved to DIR/earlier. `sha256` of the token, if it is known.

    Raises: ClientError; OutputError if it cannot be written.
    """
    return _fetch(
        folder,
        file_stem(name),
        ".safetensors",
        lambda: sha256 or client.token(token).sha256,
        lambda: client.token_file(token),
    )


def fetch_made(client: "Client", job: Job, item: Item, folder: Path) -> Path:
    """The file of what an item has made: its token, or its image.

    Raises: ClientError; OutputError if it cannot be written.
    """
    if item.token:
        return fetch(client, item.token, folder, item.id)
    return _fetch(
        folder,
        file_stem(item.id),
        ".png",
        lambda: item.sha256 or "",
        lambda: client.image(job.job, item.index),
    )


def _fetch(
    folder: Path,
    stem: str,
    suffix: str,
    digest: Callable[[], str],
    load: Callable[[], bytes],
) -> Path:
    """What has this digest already is not loaded again."""
    path = folder / f"{stem}{suffix}"
    is_there = path.exists()
    if is_there and hashlib.sha256(path.read_bytes()).hexdigest() == digest():
        return path
    data = load()
    if is_there:
        set_aside(folder, [stem], suffix)
    atomic_write(path, data)
    return path


def file_stem(name: str) -> str:
    """The client's own id of a subject as a name of a file: itself, if every system takes it."""
    if _PLAIN.fullmatch(name):
        return name
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


if TYPE_CHECKING:
    from services.client.client import Client

_FETCHED_AT_ONCE = 4
_MANY = 20  # items; with more, a terminal is spared what a file or a pipe gets in full
_SECONDS_BETWEEN_LINES = 30
_PART_BETWEEN_LINES = 0.05  # of the job; both must have passed
_INTERRUPTED = 130  # what shells report of Ctrl-C


def wait(
    client: "Client",
    job: Job,
    *,
    output: Path | None,
    as_json: bool,
    names: Sequence[str] = (),
) -> None:
    """Until the job has ended; then tells, and ends the command: 1 if of some item nothing is here.

    names: of the items, by index, as far as they are known.
    """
    folder = output_folder(output or Path(words(job.kind).folder))
    waiting = _Waiting(client, JobTally(job), folder)
    waiting.tally.names.update(enumerate(names))
    try:
        waiting.run()
    except KeyboardInterrupt:
        waiting.leave()
        raise typer.Exit(_INTERRUPTED) from None
    waiting.tell(as_json=as_json)
    raise typer.Exit(waiting.exit_code())


@dataclass
class _Waiting:
    client: "Client"
    tally: JobTally
    folder: Path
    fetched: dict[int, tuple[Item, Path]] = field(default_factory=dict[int, tuple[Item, Path]])
    failed: dict[int, Item] = field(default_factory=dict[int, Item])
    unfetched: dict[int, tuple[Item, DTIError]] = field(
        default_factory=dict[int, tuple[Item, DTIError]]
    )

    def __post_init__(self) -> None:
        self._words = words(self.tally.job.kind)
        self._board = Board(self.tally)
        self._is_live = notes.is_interactive
        # stdout is for results, and may be a pipe while stderr is a terminal.
        self._live = Live(self._board, console=notes, auto_refresh=True, redirect_stdout=False)
        self._endings = Endings(self.client, self.tally.job.job)
        self._pool = ThreadPoolExecutor(_FETCHED_AT_ONCE)
        self._said_at, self._said_of = self.tally.elapsed, 0.0
        self._fetches = list[Future[None]]()
        self._is_missed = False

    def run(self) -> None:
        from services.client.watch import Advanced, Changed, Missed

        job = self.tally.job.job
        if self._is_live:
            self._live.start()
        else:
            say(f"waiting for job {job}; Ctrl-C leaves it running")
        try:
            for update in self.client.watch(job):
                match update:
                    case Changed(job=now):
                        self.tally.stand(now)
                        self._collect(now)
                        self._settle()
                    case Advanced(progress=progress):
                        self.tally.advance(progress)
                        self._settle()
                    case Missed(why=why):
                        self._miss(why)
                        continue
                self._hear()
            for fetched in self._fetches:
                fetched.result()
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            if self._is_live:
                self._live.stop()
                self._is_live = False

    def leave(self) -> None:
        """Nobody waits any more; the job does not care."""
        job = self.tally.job.job
        say(
            f"no longer waiting: job {job} goes on. `dti job {job} --wait -o {self.folder}` comes "
            f"back to it, `dti cancel {job}` ends it"
        )

    def tell(self, *, as_json: bool) -> None:
        """Paths of what was made on stdout; what became of the rest."""
        job = self.tally.job
        if as_json:
            print_json(self._document())
            return
        paths = [path for _, (_, path) in sorted(self.fetched.items())]
        if results.is_terminal and len(paths) > _MANY:
            print_paths([self.folder])
        else:
            print_paths(paths)
        said = ", ".join(f"{n} {name}" for name, n in job.counts.by_name() if n)
        say(f"job {job.job} {job.state.replace('_', ' ')}: {said} of {job.count}")
        if self.failed:
            say(f"`dti job {job.job} --failed` says why; `dti retry {job.job}` tries them again")
        if self.unfetched:
            say(
                f"{len(self.unfetched)} {self._words.made}s were not fetched: "
                f"`dti job {job.job} --wait` will"
            )

    def exit_code(self) -> int:
        """0 if what each item has made is here."""
        return 0 if len(self.fetched) == self.tally.job.count else 1

    def _collect(self, job: Job) -> None:
        for item in self._endings.news(job):
            self.tally.names[item.index] = item.id
            self.tally.end(item.index)
            if item.state == "failed":
                self._fail(item)
            elif item.state == "succeeded":
                self.failed.pop(item.index, None)
                self._fetches.append(self._pool.submit(self._fetch, item))

    def _fetch(self, item: Item) -> None:
        try:
            path = fetch_made(self.client, self.tally.job, item, self.folder)
        except DTIError as error:
            self.unfetched[item.index] = item, error.bare()
            done, made = self._words.done, self._words.made
            warn(f"{item.id} was {done}, but its {made} was not fetched: {error}")
        else:
            self.fetched[item.index] = item, path

    def _fail(self, item: Item) -> None:
        """Said at once, while somebody may still mend it."""
        self.failed[item.index] = item
        if len(self.failed) <= _MANY:
            say(f"{item.id}: {item.reason}", label="[bold red]failed:[/] ")
        elif len(self.failed) == _MANY + 1:
            warn(f"more have failed; `dti job {self.tally.job.job} --failed` tells them all")

    def _settle(self) -> None:
        """See who is at work, if that is not clear: names may be unknown, and items may have been
        given back.
        """
        rows, names = self.tally.rows, self.tally.names
        if len(rows) <= self.tally.counts.running and rows.keys() <= names.keys():
            return
        items = self.client.items(self.tally.job.job, state="running")
        running = {item.index: item.id for item in items}
        names.update(running)
        for index in rows.keys() - running.keys():
            self.tally.end(index)

    def _miss(self, why: str) -> None:
        """The service is away. Said once: it may be for hours."""
        if self._is_live:
            self._board.note = f"trying again: {why}"
        elif not self._is_missed:
            warn(f"{why}; trying again until it answers")
        self._is_missed = True

    def _hear(self) -> None:
        """The service is there."""
        if self._is_missed and not self._is_live:
            say("it answers again")
        self._is_missed, self._board.note = False, ""
        now, part = self.tally.elapsed, self.tally.fraction
        is_due = now - self._said_at >= _SECONDS_BETWEEN_LINES
        if not self._is_live and is_due and part - self._said_of >= _PART_BETWEEN_LINES:
            self._said_at, self._said_of = now, part
            say(f"  {totals(self.tally)}")

    def _document(self) -> dict[str, Any]:
        return {
            "job": self.tally.job.model_dump(mode="json"),
            f"{self._words.made}s": [
                {"id": item.id, "index": index, **_named(item), "path": str(path)}
                for index, (item, path) in sorted(self.fetched.items())
            ],
            "failed": [
                {"id": item.id, "index": index, "reason": item.reason}
                for index, item in sorted(self.failed.items())
            ],
            "unfetched": [
                {"id": item.id, "index": index, **_named(item), "error": str(error)}
                for index, (item, error) in sorted(self.unfetched.items())
            ],
        }


def _named(item: Item) -> dict[str, str]:
    """What was made, as the service calls it; an image is called by its job and index."""
    return {"token": item.token} if item.token else {}

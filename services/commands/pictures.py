"""Pictures that a service paints, and the files that they become."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dti_engine.commands.progress import painting_progress
from dti_engine.commands.terminal import say, warn
from dti_engine.files import write_whole

if TYPE_CHECKING:
    from services.client.client import Client

_AT_ONCE = 4  # requests; fewer pictures than an engine has room for


@dataclass(frozen=True)
class Wanted:
    """Pictures of one prompt, and where each goes."""

    order: Mapping[str, Any]
    """As /v1/images/generations has it."""
    paths: Mapping[int, Path]
    """By seed."""


@dataclass(frozen=True)
class Picture:
    """One that was painted and saved."""

    path: Path
    seed: int
    settings: Mapping[str, Any]


def paint(
    client: "Client",
    wanted: Sequence[Wanted],
    *,
    steps: int,
    on_picture: Callable[[Picture], None] = lambda picture: None,
) -> list[Picture]:
    """Have all of them painted, and save each as soon as it is done. Those that fail are told of
    and left out. `on_picture` is called in any thread.

    Raises: ClientError if anything is refused as a whole; OutputError.
    """
    total = steps * sum(len(each.paths) for each in wanted)
    with painting_progress() as on_step:
        work = _Work(client, lambda done: on_step(done, total), on_picture, steps)
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            return [one for part in pool.map(work.do, wanted) for one in part]
        finally:
            # Whoever leaves early has nothing more painted.
            work.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass
class _Work:
    client: "Client"
    on_step: Callable[[int], None]
    on_picture: Callable[[Picture], None]
    steps: int
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._done = dict[Path, int]()
        self._said = set[str]()

    def do(self, wanted: Wanted) -> list[Picture]:
        from services.client.images import NotPainted, Painted, Stepped

        pictures = dict[int, Picture]()
        for update in self.client.paint(wanted.order, list(wanted.paths)):
            if self.stopped.is_set():
                break
            path = wanted.paths[update.seed]
            match update:
                case Stepped():
                    self._step(path, update.step)
                case Painted():
                    write_whole(path, update.png)
                    self._warn(update.warnings)
                    self._step(path, self.steps)
                    pictures[update.seed] = Picture(path, update.seed, update.settings)
                    self.on_picture(pictures[update.seed])
                case NotPainted():
                    say(f"{path.name}: {update.error}", label="[bold red]failed:[/] ")
        return [pictures[seed] for seed in wanted.paths if seed in pictures]

    def _step(self, path: Path, step: int) -> None:
        with self._lock:
            if self._done.get(path, 0) < step:
                self._done[path] = step
                self.on_step(sum(self._done.values()))

    def _warn(self, warnings: Sequence[str]) -> None:
        """Of many pictures, each thing once."""
        with self._lock:
            new = [each for each in warnings if each not in self._said]
            self._said.update(new)
        for each in new:
            warn(each)

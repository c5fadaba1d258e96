"""The log of a run, run.jsonl: one JSON object per event, for scripts and for `dti report`.

docs/how-to/runs.md lists the events and their fields. A resumed run appends to the log of the first
one.
"""

import errno
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import typer

from dti_engine.errors import ConfigurationError, OutputError
from dti_engine.files import RUN_LOG

try:
    import fcntl
except ImportError:  # Windows, where two runs in one folder are not noticed
    fcntl = None

FILE = RUN_LOG


class EventLog:
    """Writes events to DIR/run.jsonl, and with `echo` also to stdout."""

    def __init__(self, folder: Path, *, on_lost: Callable[[str], None], echo: bool = False) -> None:
        """Open the log. `on_lost` is called once, with the reason, if events cannot be written.

        Raises: OutputError if the file cannot be opened.
        """
        self.path = folder / FILE
        self.echo = echo
        self._on_lost, self._has_lost = on_lost, False
        try:
            self._is_torn = not _ends_with_line(self.path)
        except OSError as error:
            raise OutputError(
                f"cannot write the run's log, {str(self.path)!r}: {error.strerror}"
            ) from error

    def __enter__(self) -> Self:
        """Lock the folder: two runs in it would overwrite each other's checkpoints.

        Raises: ConfigurationError if another run uses it.
        """
        self._lock = self.path.open("ab")
        try:
            # The system releases it with the process, so a run that is killed leaves no lock
            # behind, as a file with a process id would.
            if fcntl:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ConfigurationError(
                f"another run uses {str(self.path.parent)!r}; wait for it, or give another folder"
            ) from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()  # releases the lock, as the end of the process would

    def write(self, event: str, **fields: object) -> None:
        """Write an event of this moment. NaN and infinity, which JSON lacks, become null."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps(_finite({"event": event, "time": now, **fields}), allow_nan=False)
        try:
            self._append(line.encode())
        except OSError as error:
            self._lose(f"cannot write {str(self.path)!r}: {error.strerror}")
        if self.echo:
            try:
                typer.echo(line)
            except BrokenPipeError:
                self.echo = False
                # Python flushes stdout at exit, which would fail again: send the rest nowhere.
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                self._lose("stdout was closed")

    def _append(self, line: bytes) -> None:
        data = b"\n" * self._is_torn + line + b"\n"
        # A single unbuffered write: a line is in the file whole, or visibly torn.
        with self.path.open("ab", buffering=0) as file:
            self._is_torn = file.write(data) != len(data)
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _lose(self, reason: str) -> None:
        if not self._has_lost:
            self._has_lost = True
            self._on_lost(f"{reason}; training continues, but events are lost")


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log, oldest first, without lines that a killed run left half-written.

    Raises: ConfigurationError if the file cannot be read.
    """
    try:
        with path.open("rb") as lines:
            for line in lines:
                with suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict) and "event" in event:
                        yield event
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {str(path)!r} ({error.strerror}); a run of dti train writes it"
        ) from error


def _ends_with_line(path: Path) -> bool:
    """Return whether the file ends with a whole line; make it if it is missing."""
    with path.open("a+b") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _finite(value: Any) -> Any:
    """Replace NaN and infinity by None."""
    match value:
        case dict():
            return {name: _finite(item) for name, item in value.items()}
        case list():
            return [_finite(item) for item in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value

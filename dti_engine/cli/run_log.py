"""The log of a run: what happened to whom, one JSON object a line, for scripts and for reports.

Events and their fields are in docs/runs.md. A run appends to what is there, so that a log tells of
a run and of all that went on with it.
"""

import errno
import fcntl
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

FILE = "run.jsonl"


class EventLog:
    """DIR/run.jsonl, and with `echo` the same lines on stdout."""

    def __init__(self, folder: Path, *, on_lost: Callable[[str], None], echo: bool = False) -> None:
        """on_lost: gets why events cannot be written, once; what is logged goes on without them.

        Raises: OutputError if the file cannot be opened.
        """
        self.path = folder / FILE
        self.echo = echo
        self._on_lost, self._has_lost = on_lost, False
        try:
            self._is_torn = not _ends_with_line(self.path)
        except OSError as error:
            raise OutputError(
                f"cannot write {str(self.path)!r}, the log of the run: {error.strerror}"
            ) from error

    def __enter__(self) -> Self:
        """Have the folder alone: two runs would take each other's checkpoints.

        Raises: ConfigurationError if another run is at work there.
        """
        self._lock = self.path.open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise ConfigurationError(
                f"another run is at work in {str(self.path.parent)!r}; wait for it, or give "
                "another folder"
            ) from error
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()  # which lets the next run in, as the end of the process does

    def write(self, event: str, **fields: object) -> None:
        """Add an event that happens now. What is no number (NaN, infinity) becomes null."""
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
                # What is still to be flushed goes nowhere, or Python would fail at exit.
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                self._lose("nobody reads stdout any more")

    def _append(self, line: bytes) -> None:
        data = b"\n" * self._is_torn + line + b"\n"
        # One write at the end of the file, or two runs in one folder would mix their lines.
        with self.path.open("ab", buffering=0) as file:
            self._is_torn = file.write(data) != len(data)
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _lose(self, reason: str) -> None:
        if not self._has_lost:
            self._has_lost = True
            self._on_lost(f"{reason}; training goes on, events are lost")


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log, oldest first, without the lines that a killed run left half-written.

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
    """Whether a line may be added to the file, which is made if it is not there."""
    with path.open("a+b") as file:
        if not file.seek(0, os.SEEK_END):
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _finite(value: Any) -> Any:
    """Numbers that JSON has none of become None."""
    match value:
        case dict():
            return {name: _finite(each) for name, each in value.items()}
        case list():
            return [_finite(each) for each in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value

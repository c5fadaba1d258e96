"""A process that is kept alive: started again when it ends, later each time it ends young."""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_YOUNG = 20.0  # seconds
_PAUSES = (0.5, 2.0, 5.0, 15.0, 30.0)
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_TAIL = 2000  # characters of a log that are shown where a process cannot start


@dataclass(frozen=True)
class Command:
    """What to run."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    grace: float = 20
    """Seconds that it has to end after SIGTERM."""
    with_its_own: bool = False
    """End what it has started, too, when it has ended: for one that leaves daemons behind."""


class SupervisedProcess:
    """One such process. It gets SIGTERM when this one dies, however that comes."""

    def __init__(self, command: Command, log: Path) -> None:
        self.command, self.log = command, log
        # Logs of an earlier run may lie there.
        self._from = log.stat().st_size if log.exists() else 0
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=command.name, daemon=True)

    @property
    def pid(self) -> int | None:
        """Of the process that there is now."""
        process = self._process
        return process.pid if process and process.poll() is None else None

    def start(self) -> None:
        """Begin to keep it alive."""
        self._thread.start()

    def stop(self) -> None:
        """End it, and start it no more; with force if it takes too long."""
        self._stopping.set()
        if process := self._process:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        self._thread.join()

    def said(self) -> str:
        """All that it said since it was first started here."""
        try:
            return self.log.read_bytes()[self._from :].decode(errors="replace")
        except OSError:
            return ""

    def tail(self) -> str:
        """The end of it."""
        return self.said()[-_TAIL:]

    def _keep(self) -> None:
        young = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            with suppress(OSError):  # such as of a full disk; it is tried again
                self._run()
            young = young + 1 if time.monotonic() - began < _YOUNG else 0
            self._stopping.wait(_PAUSES[min(young, len(_PAUSES) - 1)])

    def _run(self) -> None:
        with self.log.open("ab") as log:
            self._process = process = subprocess.Popen(
                self.command.arguments,
                env=self.command.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which ends them in order.
                preexec_fn=_end_with_parent,
            )
        self.starts += 1
        if self._stopping.is_set():
            process.terminate()
        while process.poll() is None:
            if self._stopping.wait(0.1):
                self._await_end(process)
        if self.command.with_its_own:
            _kill_group(process.pid)

    def _await_end(self, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(self.command.grace)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.wait()


_libc = ctypes.CDLL(None)
"""Loaded before a fork: not everything can be done between fork and exec."""


def _end_with_parent() -> None:
    if hasattr(_libc, "prctl"):  # Linux
        _libc.prctl(_DEATH_SIGNAL, signal.SIGTERM)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
